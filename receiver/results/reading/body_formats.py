"""Parses a callback's bytes into plain values (dict, list, text, number), regardless of their format.

The provider's pages do not state the callback's content type (provider page: The callback, "Silent"), and a wrong
header must not lose a result. So the format is detected from the body: its first characters show JSON, XML, multipart
or form. Only a multipart boundary is taken from the content type.

Hostile bodies cost a limited time. A C parser cannot be interrupted, so its input is checked before it starts.
"""

from __future__ import annotations

import codecs
import html
import json
import re
import zlib
from urllib.parse import unquote_plus

from receiver.results.reading.form_body import MAX_ESCAPES, read_form, read_multipart
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.reading.xml_body import read_xml

MAX_DECOMPRESSED_BYTES = 1 << 20
"""The longest decompressed body; a longer one is `undecodable`."""

MAX_MEMBERS = 4096
"""The most members of a compressed body: more than fit into 64 KiB."""

MAX_REPAIRS = 8192
"""The most backslashes or `&` in a wrongly escaped JSON text; the details of a call have a few hundred."""

MAX_JSON_MARKS = 65_536
"""The most `{`, `[` and `,` in a JSON text: more than fit into an uncompressed body, so only bombs exceed it."""

_BLANKS = " \t\r\n\0\ufeff"  # NULs may pad the end, and a byte order mark may be left at the start
_GZIP_MAGIC = b"\x1f\x8b"
_escaped_html_quote = re.compile("&(?:quot|#0*34|#[xX]0*22);").search
_JAVASCRIPT_ESCAPE = re.compile(r"\\(x([0-9A-Fa-f]{2})|.)", re.DOTALL)

# The longest text for the plain decoder. In a text of this length, no number can take Python long.
_SHORT = 4096
# strict=False accepts raw line breaks inside strings. They are not valid JSON, but their meaning is clear.
_short_decoder = json.JSONDecoder(strict=False)
# Numbers that are too long to mean anything become null: Python refuses integers of more than 4,300 digits, and needs
# quadratic time for slightly shorter ones.
_long_decoder = json.JSONDecoder(
    strict=False,
    parse_int=lambda digits: int(digits) if len(digits) <= 40 else None,
    parse_float=lambda digits: float(digits) if len(digits) <= 80 else None,
)


def read_body(body: bytes, content_type: str = "", content_encoding: str = "") -> object:
    """The values in `body`: a dict, list, text, number, bool or None, as JSON would give them.

    `content_encoding` is the request's header. gzip and deflate are decompressed. The header is ignored if the body is
    not compressed, because some proxies decompress a body and keep the header. Raises `UnreadableBody`.
    """
    if body[:1] == b"{" and len(body) <= _SHORT:
        try:  # nearly every callback: bare JSON in UTF-8
            return _short_decoder.decode(body.decode())
        except (ValueError, RecursionError):
            pass  # below, other formats are tried, and the fault is named
    return read_text(decode_body(body, content_encoding), content_type)


def read_text(text: str, content_type: str = "") -> object:
    """The values in a text: a body, or a field of another body. Raises `UnreadableBody`."""
    text = text.strip(_BLANKS)
    if text.startswith("&lt;") and text.count("&") <= MAX_REPAIRS:
        text = html.unescape(text)  # XML that was escaped once too often
    if text[:3].upper() in ("%7B", "%5B", "%3C"):  # a document that was percent-encoded, as the only key of a form
        if text.count("%") > MAX_ESCAPES:
            raise UnreadableBody("too_many_items")
        text = unquote_plus(text.removesuffix("=")).strip(_BLANKS)
    if not text:
        raise UnreadableBody("empty")
    if text[0] in '{["':
        return _read_json(text)
    if text[0] == "<":
        return read_xml(text)
    if boundary := _boundary(text, content_type):
        return read_multipart(text, boundary)
    if "=" in text:
        return read_form(text)
    raise UnreadableBody("not_recognised")


def decode_body(body: bytes, content_encoding: str = "") -> str:
    """The body as text, decompressed. Raises `UnreadableBody` if it cannot be decompressed."""
    return _decoded(_decompressed(body, content_encoding))


def _read_json(text: str) -> object:
    if len(text) > MAX_JSON_MARKS and sum(map(text.count, "{[,")) > MAX_JSON_MARKS:
        raise UnreadableBody("too_many_items")
    decoder = _short_decoder if len(text) <= _SHORT else _long_decoder
    try:
        try:
            return decoder.decode(text)
        except ValueError:
            return decoder.decode(_with_json_escapes(text))
    except RecursionError:
        raise UnreadableBody("too_deep") from None
    except ValueError:
        # Not chained: the decoder's error contains the whole text with the phone number.
        raise UnreadableBody("malformed_json") from None


def _with_json_escapes(text: str) -> str:
    """A text that is not JSON, with wrong escapes undone: those of HTML or JSON around the whole text, or those of
    JavaScript (`\\'`, `\\x27`) inside its strings. Raises ValueError if there are none.
    """
    if _escaped_html_quote(text):
        if text.count("&") <= MAX_REPAIRS:
            return html.unescape(text)
    elif "\\" in text and text.count("\\") <= MAX_REPAIRS:
        if text[1:].lstrip(_BLANKS).startswith('\\"'):
            return str(_long_decoder.decode(f'"{text}"'))
        return _JAVASCRIPT_ESCAPE.sub(_json_escape, text)
    raise ValueError


def _json_escape(found: re.Match[str]) -> str:
    escaped, hexadecimal = found[1], found[2]
    if hexadecimal:
        return f"\\u00{hexadecimal}"
    return found[0] if escaped in '"\\/bfnrtu' else escaped


def _boundary(text: str, content_type: str) -> str:
    """The multipart boundary, or "" if the text is not a multipart body."""
    if text.startswith("--"):
        return text[2 : text.find("\n")].strip()
    # After a preamble, the boundary is known only from the header.
    _, _, parameter = content_type.partition("boundary=")
    boundary = parameter.partition(";")[0].strip(' "')
    return boundary if boundary and f"--{boundary}" in text else ""


def _decompressed(body: bytes, content_encoding: str) -> bytes:
    if body.startswith(_GZIP_MAGIC):
        return _inflated(body, 16 + zlib.MAX_WBITS)
    coding = content_encoding.strip().lower()
    if coding in ("", "identity") or body.isascii():  # compressed bytes are never all ASCII
        return body
    if coding != "deflate":
        raise UnreadableBody("undecodable")
    try:
        return _inflated(body, zlib.MAX_WBITS)
    except UnreadableBody:
        # In RFC 9110, "deflate" has the zlib wrapper, but some senders omit it.
        return _inflated(body, -zlib.MAX_WBITS)


def _inflated(body: bytes, wbits: int) -> bytes:
    """All members of the body, decompressed (RFC 1952, 2.2). Other bytes after a member are an error.

    A raw deflate stream must be alone: it has no checksum, so any bytes might be taken for a second one.
    """
    pieces = []
    room = MAX_DECOMPRESSED_BYTES
    for _ in range(MAX_MEMBERS if wbits > 0 else 1):
        stream = zlib.decompressobj(wbits)
        try:
            # One byte more than allowed, so that the end of a stream of exactly this size is also read.
            piece = stream.decompress(body, room + 1)
        except zlib.error:
            raise UnreadableBody("undecodable") from None
        if len(piece) > room or not stream.eof:
            raise UnreadableBody("undecodable")
        pieces.append(piece)
        room -= len(piece)
        body = stream.unused_data
        if not body:
            return b"".join(pieces)
    raise UnreadableBody("undecodable")


def _decoded(body: bytes) -> str:
    """Decode by byte order mark, else by the NULs of UTF-16 or UTF-32, else as UTF-8, else as cp1252."""
    if body.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return body.decode("utf-32", "replace")
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", "replace")
    if len(body) >= 2 and not (body[0] and body[1]):  # every format begins with two ASCII characters
        if body[0]:
            wide = body[2:4] == b"\0\0"
            return body.decode("utf-32-le" if wide else "utf-16-le", "replace")
        wide = body[1] == 0
        return body.decode("utf-32-be" if wide else "utf-16-be", "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")
