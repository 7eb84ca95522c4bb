"""XML from strangers, element by element, with nothing in it that makes a small document cost much.

defusedxml refuses a document type: its entities and default attributes multiply a few lines into gigabytes. And its
SAX parser knows no name spaces unless it is told to: one that does, as those of `xml.etree` and
`defusedxml.ElementTree`, keeps every name together with its whole address, so that 64 KiB of XML, half of them one
address, filled 200 MB.
"""

from __future__ import annotations

from typing import Protocol
from xml.sax import SAXException
from xml.sax.handler import ContentHandler
from xml.sax.xmlreader import AttributesImpl

from defusedxml import DefusedXmlException
from defusedxml.expatreader import DefusedExpatParser


class MalformedXml(ValueError):
    """The text is no whole XML document, or one that declares a document type."""


class Elements(Protocol):
    """What is told of a document, in its order. Names are without prefix; `xmlns` is no attribute."""

    def start(self, name: str, attributes: dict[str, str]) -> None: ...

    def text(self, text: str) -> None: ...

    def end(self, name: str) -> None: ...


class _Telling(ContentHandler):
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
        # Else a line is a call, and a MiB of line ends a million.
        self._parser.buffer_text = True  # type: ignore[attr-defined]  # the standard parser's own, not in its types


def read_elements(document: str, elements: Elements) -> None:
    """Tell `elements` of each element; what it raises comes through. Raises `MalformedXml`."""
    parser = _Parser(forbid_dtd=True)
    parser.setContentHandler(_Telling(elements))
    try:
        parser.feed(document)
        parser.close()
    except (SAXException, DefusedXmlException, UnicodeEncodeError):
        raise MalformedXml("no whole XML document") from None  # not chained: the cause may quote it
