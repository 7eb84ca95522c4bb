"""Rules for every page of the dashboards, and hostile texts that try to break them."""

from __future__ import annotations

import re
from html.parser import HTMLParser

from tests.factories import phone_number

PAGE_BYTES = 100_000

HOSTILE = "<script>alert(1)</script>\"'&\u202e\u200b=1+1\U0001f469\u200d\U0001f52c"

_POINTERS = ("aria-labelledby", "aria-describedby", "for", "aria-controls")
_VOID = frozenset("area base br col embed hr img input link meta source track wbr".split())
_SVG = frozenset("svg g path rect line circle text title desc defs pattern clippath use".split())


class _Rules(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.ids: set[str] = set()
        self.pointers: set[str] = set()
        self.open: list[str] = []
        self.headings: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if len(given) < len(attrs):
            self.faults.append(f"<{tag}> has an attribute twice")
        for name, text in given.items():
            if name == "style" or name.startswith("on"):
                self.faults.append(f"<{tag}> has {name}=, which the content security policy forbids")
            if name == "id":
                if text in self.ids:
                    self.faults.append(f"the id {text!r} occurs twice")
                self.ids.add(text or "")
            if name in _POINTERS:
                self.pointers.update((text or "").split())
            if name in ("href", "src", "action") and (text or "").strip().lower().startswith(("javascript:", "data:")):
                self.faults.append(f"<{tag}> leads to {text!r}")
        if tag == "script" and not given.get("src"):
            self.faults.append("the page contains an inline script")
        if tag == "svg" and given.get("aria-hidden") != "true" and "aria-labelledby" not in given:
            self.faults.append("an svg has no name")
        if tag == "th" and not given.get("scope"):
            self.faults.append("a th has no scope")
        if tag == "input" and given.get("type") != "hidden":
            self.pointers.add(given.get("id") or "an input without id")
        if tag in ("h1", "h2", "h3"):
            self.headings.append(tag)
        if tag not in _VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self.open.pop()
        if tag not in _VOID | _SVG:
            self.faults.append(f"<{tag}/> is not closed by that")

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open[-1] != tag:
            self.faults.append(f"</{tag}> closes <{self.open[-1] if self.open else ''}>")
        elif tag not in ("p", "li") or self.open:
            self.open.pop()

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["textarea"] and ("\u202e" in data or "\u200b" in data):
            self.faults.append(f"hidden characters are not shown as codes: {data[:60]!r}")


def broken_rules(page: str, *, whole: bool = True) -> list[str]:
    """The faults of a page. In a part of a page, which htmx requests, the order of headings is not checked."""
    rules = _Rules()
    rules.feed(page)
    rules.close()
    faults = list(rules.faults)
    faults += [f"<{tag}> is never closed" for tag in rules.open]
    faults += [f"nothing has the id {pointer!r}" for pointer in sorted(rules.pointers - rules.ids)]
    if len(page.encode()) >= PAGE_BYTES:
        faults.append(f"it has {len(page.encode()):,} bytes")
    if whole and rules.headings[:1] + sorted(rules.headings[1:2]) not in (["h1"], ["h1", "h2"]):
        faults.append(f"its headings begin with {rules.headings[:2]}")
    if whole and rules.headings.count("h1") != 1:
        faults.append("it has not exactly one h1")
    return faults


def numbers(count: int) -> list[int]:
    return [phone_number(index) for index in range(count)]


def rows_on(page: str) -> list[int]:
    """The rows of the calls that a batch's page lists."""
    return [int(row) for row in re.findall(r'/calls/(\d+)"><span', page)]
