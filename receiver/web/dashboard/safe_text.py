"""Text from outside, shown safely: invisible characters become visible, and long texts are cut.

Escaping only prevents markup. A right-to-left mark could still reverse a sentence, an invisible character could make
two names look alike, and ten thousand characters could push the rest of the page away.
"""

from __future__ import annotations

import re

from markupsafe import Markup, escape

from receiver.web.dashboard.pages import blueprint

CELL_CHARACTERS = 300
"""Maximum number of characters that are shown of a variable, name or event."""

MOST_CODES = 8
"""Hidden characters of one text that are shown with their codes. Further ones are shown as a replacement character."""

# Control characters except tab and line feed, marks and overrides of text direction, characters without width, lone
# surrogates, private and unassigned characters, and unusual line separators. A run of one character is shown once.
_HIDDEN = re.compile(
    "([\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b\u200c\u200e\u200f"
    "\u2028-\u202e\u2060-\u206f\u3164\ufeff\ufff0-\ufffb\ud800-\udfff\ue000-\uf8ff\U000e0000-\U000e0fff])\\1*"
)

_MARKS = "\u0300-\u036f\u0483-\u0489\u0591-\u05bd\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff"
_STACKED = re.compile(f"([{_MARKS}]{{4}})[{_MARKS}]+")
"""Stacked accents, which would cover the lines around them."""

_SIGN = "\ufffd"

_NAMES = {"\0": "NUL", "\r": "CR", "\x1b": "ESC", "\x7f": "DEL", "\u00ad": "SHY", "\u200b": "ZWSP", "\ufeff": "BOM"}


@blueprint.app_template_filter()
def visible(text: str, characters: int = CELL_CHARACTERS) -> Markup:
    """A text in a `<bdi>`, cut to `characters`; each hidden character is its code in a `<span>`."""
    left = len(text) - characters
    cut = Markup(' <span class="cut">… {} more characters</span>').format(f"{left:,}") if left > 0 else ""
    return Markup("<bdi>{}</bdi>{}").format(disclosed(text[:characters]), cut)


@blueprint.app_template_filter()
def plain(text: str) -> str:
    """A text for a page's title, where no markup is possible: each run of a hidden character is one sign."""
    return _HIDDEN.sub(_SIGN, _STACKED.sub(r"\1…", text))


@blueprint.app_template_filter()
def disclosed(text: str, codes: int = MOST_CODES) -> Markup:
    """An escaped text with codes for its hidden characters. Tabs and line feeds stay."""
    text = _STACKED.sub(r"\1…", text)
    if _HIDDEN.search(text) is None:
        return escape(text)
    parts, end = [], 0
    for match in _HIDDEN.finditer(text):
        parts.append(escape(text[end : match.start()]))
        parts.append(_code(match[1], len(match[0])) if codes > 0 else Markup(_SIGN))  # noqa: S704 a constant
        codes -= 1
        end = match.end()
    parts.append(escape(text[end:]))
    return Markup("").join(parts)


def _code(character: str, times: int) -> Markup:
    name = _NAMES.get(character, f"U+{ord(character):04X}")
    return Markup('<span class="hidden-character">{}{}</span>').format(name, f" ×{times}" if times > 1 else "")  # noqa: RUF001
