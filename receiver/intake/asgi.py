"""The callback endpoint alone: `gunicorn -c python:receiver.server.gunicorn_conf receiver.intake.asgi:app`.

It runs in its own processes, so that nothing else can slow it down; a proxy sends `/results/` there. It also answers
`/healthz`, `/readyz` (are callbacks stored in the database, and not in the spool?) and, for Prometheus, `/metrics`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from typing import Any

from receiver.database.location import find_database
from receiver.database.pool import open_pool
from receiver.environment import read_config
from receiver.errors import ReceiverError
from receiver.intake.callback_rules import PREFIX
from receiver.intake.endpoint import SWITCH_SECONDS, Endpoint, Receive, Scope, Send
from receiver.intake.metrics import IntakeMetrics, exposition
from receiver.intake.opened import OpenedIntake
from receiver.intake.spool import SpoolFailed
from receiver.intake.writer import Writer
from receiver.logs import about

log = logging.getLogger(__name__)

_Answer = tuple[int, str, bytes]
"""Status, content type, body."""

_JSON = "application/json"


class IntakeAlone:
    """The ASGI application. It opens its connections when the server starts it."""

    def __init__(self) -> None:
        self._metrics_key: str | None = None
        self._writer: Writer | None = None
        self._endpoint: Endpoint | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._run(receive, send)
        elif scope["type"] == "http" and self._endpoint is not None and scope["path"].startswith(PREFIX):
            await self._endpoint(scope, receive, send)
        elif scope["type"] == "http":
            await _send(send, *await self._answer(scope))

    async def _run(self, receive: Receive, send: Send) -> None:
        await receive()
        sys.setswitchinterval(SWITCH_SECONDS)
        try:
            config, database_url = find_database(read_config(), signs=True)
        except ReceiverError as error:
            await send({"type": "lifespan.startup.failed", "message": f"receiver: {error}"})
            return
        pool = open_pool(database_url, max_size=1, name="receiver intake")
        opened = await asyncio.to_thread(OpenedIntake.open, config, database_url, pool)
        self._metrics_key, self._writer = config.metrics_key, opened.writer
        self._endpoint = Endpoint(opened.rules, opened.senders, opened.writer)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await asyncio.to_thread(opened.close)
        await asyncio.to_thread(pool.close, 2)
        await send({"type": "lifespan.shutdown.complete"})

    async def _answer(self, scope: Scope) -> _Answer:
        if scope["path"] == "/healthz":
            return 200, _JSON, b'{"status":"ok"}\n'
        # These read files, so they run in threads.
        if scope["path"] == "/readyz":
            return await asyncio.to_thread(self._readiness)
        if scope["path"] == "/metrics":
            return await asyncio.to_thread(self._metrics, scope)
        return 404, _JSON, b'{"status": "not_found"}'

    def _readiness(self) -> _Answer:
        assert self._writer is not None  # noqa: S101 set before the first request
        ready = not self._writer.database_unavailable
        content: dict[str, Any] = {
            "status": "ready" if ready else "not ready",
            "database": "ok" if ready else "cannot store callbacks or is too slow; callbacks go to the spool",
        }
        try:
            content["spooled"] = self._writer.spool.depth()
        except SpoolFailed as error:
            log.error("%s", error, extra=about("spool_failed"))
            content["spooled"] = "the spool cannot be used; see the log"
        return 200 if ready else 503, _JSON, json.dumps(content).encode()

    def _metrics(self, scope: Scope) -> _Answer:
        assert self._writer is not None  # noqa: S101 set before the first request
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        authorization, accept = headers.get(b"authorization", ""), headers.get(b"accept", "")
        found = exposition(IntakeMetrics(self._writer), self._metrics_key, authorization, accept)
        return (200, *found) if found is not None else (401, _JSON, b'{"status": "unauthorized"}')


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
