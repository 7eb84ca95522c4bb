"""The whole service on an event loop: the loop itself stores callbacks, Flask answers everything else in threads."""

from __future__ import annotations

import asyncio
import sys
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from flask import Flask

from receiver.database.pool import DatabaseUnavailable
from receiver.intake.callback_rules import PREFIX
from receiver.intake.endpoint import SWITCH_SECONDS, Endpoint
from receiver.web.app import UPLOAD_BYTES, close_app
from receiver.web.auth import find_bearer_key
from receiver.web.dashboard.session import signed_in_key
from receiver.web.health import log_database
from receiver.web.services import Services
from receiver.web.threads import Receive, Scope, Send, Threads

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment


class Service:
    """The ASGI application: the callback endpoint, and `app` for all other paths."""

    def __init__(self, app: Flask) -> None:
        self.flask = app
        services: Services = app.extensions["receiver"]
        opened = services.opened_intake
        self._endpoint = Endpoint(opened.rules, opened.senders, opened.writer)
        self._threads = Threads(
            app.wsgi_app,
            threads=services.config.web_threads,
            longest_body=UPLOAD_BYTES,
            may_upload=partial(_may_upload, app),
        )

    def report_database(self) -> None:
        """Log which database is used, and whether it can be used."""
        log_database(self.flask)

    def stop_waiting(self) -> None:
        """Answer the requests that wait for the provider, because the process is about to stop."""
        self._threads.stop_waiting()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            handle = self._endpoint if scope["path"].startswith(PREFIX) else self._threads
            await handle(scope, receive, send)
        elif scope["type"] == "lifespan":
            await receive()
            sys.setswitchinterval(SWITCH_SECONDS)
            await send({"type": "lifespan.startup.complete"})
            await receive()
            await asyncio.to_thread(close_app, self.flask)
            self._threads.close()
            await send({"type": "lifespan.shutdown.complete"})


def _may_upload(app: Flask, environ: WSGIEnvironment) -> bool:
    """Whether the request has a key that may queue. Without one, a client must not be able to fill the disk."""
    with app.request_context({**environ, "wsgi.input": BytesIO()}):
        try:
            key = find_bearer_key() if environ["PATH_INFO"].startswith("/api/") else signed_in_key()
        except DatabaseUnavailable:
            return False
        return key is not None and key.allows("queue")
