"""Make a user's text safe for a message, which may be shown on a terminal."""

from __future__ import annotations


def quoted(text: str, characters: int) -> str:
    """The first `characters` of the text, on one line, without control characters.

    Control characters become their symbols (U+2400 to U+2421), spaces of any kind a space, and other characters that
    cannot be printed U+FFFD.
    """
    return "".join(c if c.isprintable() else _sign(c) for c in text[:characters])


def _sign(character: str) -> str:
    if character < " ":
        return chr(0x2400 + ord(character))
    if character == "\x7f":
        return "\u2421"
    return " " if character.isspace() else "\ufffd"
