"""XML, read into the same shapes that JSON has.

An element with children is a dict by their names, one without is its text, and siblings of one name
are a list. Attributes count only where an element has nothing else, as in
`<item event="queued" timestamp="1700000100"/>`; elsewhere they are such as `type="integer"`.
"""

from __future__ import annotations

from receiver.results.reading.field_values import storable
from receiver.results.reading.unreadable import UnreadableBody
from receiver.text.xml_events import MalformedXml, read_elements

MAX_MARKS = 8192
"""Most `<` and most `=`: an element has two or one, an attribute one; 1,000 events have 6,000."""

MAX_DEPTH = 32
"""Most elements inside one another."""

_BLANKS = " \t\r\n"  # XML's own; of others a field loses as many as it would in JSON


class _Values:
    """Builds the values while the parser reads, so that no tree of elements stands beside them."""

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
        # Every element's own value is a text or a dict, so a list here was begun by a sibling.
        before = siblings[name]
        if isinstance(before, list):
            before.append(value)
        else:
            siblings[name] = [before, value]


def read_xml(text: str) -> object:
    """The document as `{root's name: its value}`.

    A document type is refused: ten lines of its entities can fill the memory, and so can the default
    attributes that it gives to every element.
    Raises `UnreadableBody`.
    """
    if text.count("<") > MAX_MARKS or text.count("=") > MAX_MARKS:
        raise UnreadableBody("too_many_items")
    values = _Values()
    try:
        read_elements(storable(text), values)
    except MalformedXml:
        raise UnreadableBody("malformed_xml") from None
    return values.root
