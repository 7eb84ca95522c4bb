"""Parse untrusted XML, element by element, so that a small document never needs much memory.

defusedxml refuses a document type: its entities and default attributes can turn a few lines into gigabytes. Its SAX
parser ignores name spaces by default. The parsers of `xml.etree` and `defusedxml.ElementTree` store the complete
address of the name space with every name: 64 KiB of XML, half of it one address, used 200 MB.
"""

from __future__ import annotations

from typing import Protocol
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser


class MalformedXml(ValueError):
    """The text is not a complete XML document, or it declares a document type."""


class Elements(Protocol):
    """Receives the parts of a document in order. Names have no prefix, and `xmlns` is not an attribute."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def text(self, text: str) -> None: ...

    def end(self, name: str) -> None: ...


class _Handler(ContentHandler):
    def __init__(self, elements: Elements) -> None:
        super().__init__()
        self._elements = elements

    def startElement(self, name: str, attrs: AttributesImpl) -> None:
        plain = {key: text for key, text in attrs.items() if key.partition(":")[0] != "xmlns"}
        self._elements.start(name.rpartition(":")[2], plain)

    def characters(self, content: str) -> None:
        self._elements.text(content)

    def endElement(self, name: str) -> None:
        self._elements.end(name.rpartition(":")[2])


class _Parser(DefusedExpatParser):
    def reset(self) -> None:
        super().reset()
        # Otherwise the parser makes one call for each line: a million calls for a MiB of line ends.
        self._parser.buffer_text = True  # type: ignore[attr-defined]  # an attribute of expatreader, not in its types


def read_elements(document: str, elements: Elements) -> None:
    """Pass each element to `elements`, whose exceptions are not caught. Raises `MalformedXml`."""
    parser = _Parser(forbid_dtd=True)
    parser.setContentHandler(_Handler(elements))
    try:
        parser.feed(document)
        parser.close()
    except (SAXException, DefusedXmlException, UnicodeEncodeError):
        raise MalformedXml("no complete XML document") from None  # not chained: the cause may quote the document
