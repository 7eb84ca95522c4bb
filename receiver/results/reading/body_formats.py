"""From a callback's bytes to plain values (dict, list, text, number), whatever format they came in.

No page states the callback's content type (provider page: The callback, "Silent"), and a wrong header
must not cost a result. So the bytes are the witness: the first character tells JSON, XML, multipart
or form, and of the content type only a multipart boundary is ever used.

Hostile bodies cost a bounded time: what a C parser cannot be stopped in is counted before it starts.
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
"""Longest output of a compressed body; what inflates further is `undecodable`."""

MAX_MEMBERS = 4096
"""Most members of a compressed body: more than 64 KiB can hold."""

MAX_REPAIRS = 8192
"""Most backslashes or `&` in a JSON text that is escaped wrongly; the details of a call have a few hundred."""

MAX_JSON_MARKS = 65_536
"""Most `{`, `[` and `,` in a JSON text: more than an uncompressed body can hold, so only bombs meet it."""

_BLANKS = " \t\r\n\0\ufeff"  # a NUL may pad the end, a byte order mark may survive at the start
_GZIP_MAGIC = b"\x1f\x8b"
_escaped_html_quote = re.compile("&(?:quot|#0*34|#[xX]0*22);").search
_JAVASCRIPT_ESCAPE = re.compile(r"\\(x([0-9A-Fa-f]{2})|.)", re.DOTALL)

# Longest text that the plain decoder reads: too short for a number whose length could stop Python.
_SHORT = 4096
# strict=False: a raw line break inside a string breaks the letter of JSON, not its meaning.
_short_decoder = json.JSONDecoder(strict=False)
# Numbers longer than any that means something become null: Python refuses integers of more than
# 4,300 digits with an error, and needs quadratic time for those just below.
_long_decoder = json.JSONDecoder(
    strict=False,
    parse_int=lambda digits: int(digits) if len(digits) <= 40 else None,
    parse_float=lambda digits: float(digits) if len(digits) <= 80 else None,
)


def read_body(body: bytes, content_type: str = "", content_encoding: str = "") -> object:
    """The values in `body`: a dict, list, text, number, bool or None, as JSON would give them.

    `content_encoding` is the request's header. gzip and deflate are undone; a header that the bytes
    contradict is passed over, since proxies undo a compression and leave its name behind.
    Raises `UnreadableBody`.
    """
    if body[:1] == b"{" and len(body) <= _SHORT:
        try:  # what nearly every callback is: bare JSON in UTF-8
            return _short_decoder.decode(body.decode())
        except (ValueError, RecursionError):
            pass  # the long way finds out what it is, and names what is wrong with it
    return read_text(decode_body(body, content_encoding), content_type)


def read_text(text: str, content_type: str = "") -> object:
    """The values in a text, also in one that stands inside a field of another body.

    Raises `UnreadableBody`.
    """
    text = text.strip(_BLANKS)
    if text.startswith("&lt;") and text.count("&") <= MAX_REPAIRS:
        text = html.unescape(text)  # XML, escaped once too often
    if text[:3].upper() in ("%7B", "%5B", "%3C"):  # a whole document, percent-encoded as a form's only key
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
    """The body as text, uncompressed, whatever it holds. Raises `UnreadableBody` if it cannot be uncompressed."""
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
        # Not chained: the decoder's error holds the whole text, phone number included.
        raise UnreadableBody("malformed_json") from None


def _with_json_escapes(text: str) -> str:
    """A text that is no JSON, with the escapes that do not belong there undone: those of HTML or of a JSON text
    around the whole, and those of JavaScript (`\\'`, `\\x27`) within its texts. Raises ValueError if there are none.
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
    """The multipart boundary, or "" where the text is no multipart body."""
    if text.startswith("--"):
        return text[2 : text.find("\n")].strip()
    # A preamble may stand before the first boundary; then only the header knows it.
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
        # RFC 9110 means the zlib wrapper by "deflate"; some senders leave it away.
        return _inflated(body, -zlib.MAX_WBITS)


def _inflated(body: bytes, wbits: int) -> bytes:
    """All members of the body, one after the other (RFC 1952, 2.2). What follows them must not be lost unseen.

    A raw deflate stream has no checksum, so anything could pass for a second one: it must be alone.
    """
    pieces = []
    room = MAX_DECOMPRESSED_BYTES
    for _ in range(MAX_MEMBERS if wbits > 0 else 1):
        stream = zlib.decompressobj(wbits)
        try:
            # One byte more than allowed: where that is not used, the end mark has been read, too.
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
    """The bytes as text: by their mark, else by where UTF-16 has its NULs, else UTF-8, else cp1252."""
    if body.startswith((codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)):
        return body.decode("utf-32", "replace")
    if body.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return body.decode("utf-16", "replace")
    if len(body) >= 2 and not (body[0] and body[1]):  # every format begins with an ASCII character
        if body[0]:
            wide = body[2:4] == b"\0\0"
            return body.decode("utf-32-le" if wide else "utf-16-le", "replace")
        wide = body[1] == 0
        return body.decode("utf-32-be" if wide else "utf-16-be", "replace")
    try:
        return body.decode()
    except UnicodeDecodeError:
        return body.decode("cp1252", "replace")
