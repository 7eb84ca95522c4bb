"""Parses XML into the same values as JSON.

An element with children becomes a dict by their names, an element without children its text, and siblings with the same
name a list. Attributes are used only if an element has nothing else, as in
`<item event="queued" timestamp="1700000100"/>`. Other attributes are for example `type="integer"`.
"""

from __future__ import annotations

from receiver.results.reading.field_values import storable
from receiver.results.reading.unreadable import UnreadableBody
from receiver.text.xml_events import MalformedXml, read_elements

MAX_MARKS = 8192
"""The most `<`, and the most `=`: an element has up to two `<`, an attribute one `=`; 1,000 events have 6,000."""

MAX_DEPTH = 32
"""The most levels of nested elements."""

_BLANKS = " \t\r\n"  # those of XML; other blanks are stripped from fields as in JSON


class _Values:
    """Builds the values while the parser reads, so that no tree of elements needs memory."""

    def __init__(self) -> None:
        self.root: dict[str, object] = {}
        self._open = [self.root]
        self._attributes: list[dict[str, str]] = []
        self._pieces: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) > MAX_DEPTH:
            raise UnreadableBody("too_deep")
        self._open.append({})
        self._attributes.append(attributes)
        self._pieces.clear()

    def text(self, text: str) -> None:
        self._pieces.append(text)

    def end(self, name: str) -> None:
        children = self._open.pop()
        attributes = self._attributes.pop()
        text = "".join(self._pieces).strip(_BLANKS)
        self._pieces.clear()
        value: object = children or text or dict(attributes) or ""
        siblings = self._open[-1]
        if name not in siblings:
            siblings[name] = value
            return
        # The value of one element is a text or a dict, so a list here has the values of siblings.
        before = siblings[name]
        if isinstance(before, list):
            before.append(value)
        else:
            siblings[name] = [before, value]


def read_xml(text: str) -> object:
    """The document as `{root's name: its value}`. Raises `UnreadableBody`.

    A document type is refused: ten lines with entities or default attributes can fill the memory.
    """
    if text.count("<") > MAX_MARKS or text.count("=") > MAX_MARKS:
        raise UnreadableBody("too_many_items")
    values = _Values()
    try:
        read_elements(storable(text), values)
    except MalformedXml:
        raise UnreadableBody("malformed_xml") from None
    return values.root
