"""What several targets share: one input of bytes as a few words before a body, and a text from any bytes."""

from __future__ import annotations


def opened(inputs: bytes, words: int) -> tuple[list[str], bytes]:
    """The first lines as words, such as a content type, and all that follows as it is."""
    parts = inputs.split(b"\n", words)
    body = parts.pop() if len(parts) > words else b""
    return [text(word) for word in parts] + [""] * (words - len(parts)), body


def sealed(*parts: str | bytes) -> bytes:
    """Words and a body as one input, which `opened` opens."""
    return b"\n".join(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)


def text(word: bytes) -> str:
    """Any bytes as text; what is no UTF-8 becomes lone surrogates, which a text from outside may hold."""
    return word.decode("utf-8", "surrogateescape")
