"""Compress JSON answers, pages and their files if the client accepts it. A page of calls shrinks to a tenth.

The length of a compressed page could reveal a secret in it to an attacker who can add text to it (BREACH). The only
secret in a page is the CSRF token, which is different in each answer (receiver.web.dashboard.session).
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterable, Iterator
from functools import lru_cache, partial

from flask import Flask, Response, request

LEAST_BYTES = 1000
"""Shorter answers are not compressed, because this would save too little."""

LEVEL = 5
"""The level of zlib. It takes a quarter of the time of the usual 9, for slightly larger results."""

_ANSWERS = ("application/json", "application/problem+json", "text/html")
_FILES = ("text/css", "text/javascript", "image/svg+xml")

_gzip = partial(gzip.compress, compresslevel=LEVEL, mtime=0)
_gzip_once = lru_cache(maxsize=50)(_gzip)
"""For files: they are few and never change, and the largest takes 50 ms."""


def register(app: Flask) -> None:
    """Compress this app's answers. Exports use `gzipped` themselves."""
    app.after_request(_compress)


def accepts_gzip() -> bool:
    return request.accept_encodings["gzip"] > 0


def gzipped(blocks: Iterable[bytes]) -> Iterator[bytes]:
    """A stream, compressed block by block. The fastest level: a file of calls still shrinks to a sixth."""
    stream = zlib.compressobj(1, wbits=16 + zlib.MAX_WBITS)
    for block in blocks:
        if compressed := stream.compress(block):
            yield compressed
    yield stream.flush()


def _compress(answer: Response) -> Response:
    is_file = answer.mimetype in _FILES
    if not (is_file or answer.mimetype in _ANSWERS) or answer.is_streamed or "Content-Encoding" in answer.headers:
        return answer
    answer.vary.add("Accept-Encoding")
    content = answer.get_data()
    if len(content) >= LEAST_BYTES and accepts_gzip():
        answer.set_data(_gzip_once(content) if is_file else _gzip(content))
        answer.headers["Content-Encoding"] = "gzip"
    return answer
