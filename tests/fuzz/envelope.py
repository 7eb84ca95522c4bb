"""Shared by several targets: an input is a number of lines, then a body; any bytes can be read as text."""

from __future__ import annotations


def split_input(inputs: bytes, lines: int) -> tuple[list[str], bytes]:
    """The first lines as text, for example a content type, and the rest as bytes."""
    parts = inputs.split(b"\n", lines)
    body = parts.pop() if len(parts) > lines else b""
    return [text(line) for line in parts] + [""] * (lines - len(parts)), body


def join_input(*parts: str | bytes) -> bytes:
    """Lines and a body as one input; `split_input` is the inverse."""
    return b"\n".join(part.encode("utf-8", "surrogatepass") if isinstance(part, str) else part for part in parts)


def text(line: bytes) -> str:
    """Any bytes as text. Bytes that are not UTF-8 become lone surrogates, which received text can also contain."""
    return line.decode("utf-8", "surrogateescape")
