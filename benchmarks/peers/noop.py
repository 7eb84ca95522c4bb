"""An ASGI application that reads the body and answers: the ceiling of a plain server."""

from __future__ import annotations

from typing import Any

_START = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"content-length", b"20")],
}
_BODY = {"type": "http.response.body", "body": b'{"status": "stored"}'}


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers everything alike, as `/results/<token>` is answered."""
    if scope["type"] == "http":
        while (await receive()).get("more_body"):
            pass
        await send(_START)
        await send(_BODY)
