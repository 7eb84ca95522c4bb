"""The callback endpoint alone: `gunicorn -c python:receiver.server.gunicorn_conf receiver.intake.asgi:app`.

For its own processes, so that nothing else can slow it down; a proxy sends `/results/` there. Besides that it answers
`/healthz` and, for Prometheus, `/metrics`.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from receiver.config import Config
from receiver.counts import counts
from receiver.database.location import find_database
from receiver.database.pool import open_pool
from receiver.environment import read_config
from receiver.errors import ReceiverError
from receiver.intake.callback_rules import PREFIX
from receiver.intake.endpoint import Endpoint, Receive, Scope, Send
from receiver.intake.opened import OpenedIntake

log = logging.getLogger(__name__)


class IntakeAlone:
    """ASGI. It opens what it needs when the server starts it."""

    def __init__(self) -> None:
        self._config: Config | None = None
        self._endpoint: Endpoint | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and self._endpoint is not None and scope["path"].startswith(PREFIX):
            await self._endpoint(scope, receive, send)
        elif scope["type"] == "http":
            await _send(send, *self._answer(scope))

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            self._config, database_url = find_database(read_config())
        except ReceiverError as error:
            await send({"type": "lifespan.startup.failed", "message": f"receiver: {error}"})
            return
        pool = open_pool(database_url, max_size=1, name="receiver intake")
        opened = await asyncio.to_thread(OpenedIntake.open, self._config, database_url, pool)
        self._endpoint = Endpoint(opened.rules, opened.senders, opened.writer)
        self._endpoint.start()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(opened.close)
        await asyncio.to_thread(pool.close, 2)
        await send({"type": "lifespan.shutdown.complete"})

    def _answer(self, scope: Scope) -> tuple[int, str, bytes]:
        if scope["path"] == "/healthz":
            return 200, "application/json", b'{"status":"ok"}\n'
        if scope["path"] != "/metrics":
            return 404, "application/json", b'{"status": "not_found"}'
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        key = self._config.metrics_key if self._config is not None else None
        given = headers.get(b"authorization", "").encode()
        if key is not None and not hmac.compare_digest(given, f"Bearer {key}".encode()):
            return 401, "application/json", b'{"status": "unauthorized"}'
        registry = CollectorRegistry()
        registry.register(counts)
        encode, content_type = choose_encoder(headers.get(b"accept", ""))
        return 200, content_type, encode(registry)


async def _send(send: Send, status: int, content_type: str, body: bytes) -> None:
    headers: list[Any] = [
        (b"content-type", content_type.encode()),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


app = IntakeAlone()
