"""JSON answers and pages compressed for whoever accepts that: a page of a thousand calls is a tenth as long.

The length of a compressed page would tell of a secret in it to whoever can put text beside that (BREACH); so the
CSRF token, the one secret that stands in every page, is masked anew in each answer (receiver.web.dashboard.session).
"""

from __future__ import annotations

import gzip

from flask import Flask, Response, request

LEAST_BYTES = 1000
"""Below, compression saves nothing worth having."""

LEVEL = 5
"""Of zlib: a little larger than the usual 9, in a quarter of its time."""

_COMPRESSED = ("application/json", "application/problem+json", "text/html")


def register(app: Flask) -> None:
    """Compress this app's JSON answers and pages. Downloads are not: that would take longer than to send them."""
    app.after_request(_compress)


def _compress(answer: Response) -> Response:
    if answer.mimetype not in _COMPRESSED or answer.is_streamed or "Content-Encoding" in answer.headers:
        return answer
    answer.vary.add("Accept-Encoding")
    content = answer.get_data()
    if len(content) >= LEAST_BYTES and request.accept_encodings["gzip"] > 0:
        answer.set_data(gzip.compress(content, LEVEL, mtime=0))
        answer.headers["Content-Encoding"] = "gzip"
    return answer
