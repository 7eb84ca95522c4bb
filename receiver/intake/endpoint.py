"""The callback endpoint on an event loop (ASGI). Nothing here blocks: database and spool have their own threads."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import cache
from time import perf_counter
from typing import Any

from receiver.intake.callback_rules import (
    CUT_OFF,
    PREFIX,
    SPOOLED,
    STORED,
    TOO_LARGE,
    Answer,
    CallbackRules,
    is_too_long,
)
from receiver.intake.journal import BODY_BYTES, Callback
from receiver.intake.senders import Senders
from receiver.intake.writer import ANSWER_SECONDS, COMMIT_SECONDS, CannotStore, Pending, Writer
from receiver.logs import request_id
from receiver.model import SubmissionKey

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

SWITCH_SECONDS = 0.0005
"""How long one thread may hold Python's global lock while the loop or the writer waits for it (default: 0.005)."""

_PREFIX_LENGTH = len(PREFIX)


class Endpoint:
    """The ASGI application for `/results/<token>`."""

    def __init__(self, rules: CallbackRules, senders: Senders, writer: Writer) -> None:
        self._rules = rules
        self._senders = senders
        self._writer = writer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        peer, forwarded_for = (scope["client"] or ("",))[0], headers.get(b"x-forwarded-for", "")
        own_id = self._senders.request_id(headers.get(b"x-request-id", ""))
        request_id.set(own_id)
        found = self._rules.before_body(
            scope["path"][_PREFIX_LENGTH:].rstrip("/"),
            scope["method"],
            admitted=self._senders.admit(peer, forwarded_for),
        )
        if isinstance(found, Answer):
            key, answer = None, found
        else:
            key, answer = found, await self._receive(found, headers, receive)
        self._senders.record(answer, key, peer, forwarded_for, perf_counter() - began)
        await send(
            {
                "type": "http.response.start",
                "status": int(answer.status[:3]),
                "headers": [*_raw_headers(answer), (b"x-request-id", own_id.encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _receive(self, key: SubmissionKey, headers: dict[bytes, str], receive: Receive) -> Answer:
        if is_too_long(headers.get(b"content-length", "")):
            return TOO_LARGE
        message = await receive()
        body: bytes = message.get("body", b"")
        while message["type"] == "http.request" and message.get("more_body"):
            if len(body) > BODY_BYTES:
                return TOO_LARGE
            message = await receive()
            body += message.get("body", b"")
        if message["type"] != "http.request":
            return CUT_OFF  # not stored: later, a part of a body would look like a whole body
        callback = self._rules.after_body(
            key, body, headers.get(b"content-type", ""), headers.get(b"content-encoding", "")
        )
        if isinstance(callback, Answer):
            return callback
        try:
            return SPOOLED if await self._store(callback) else STORED
        except CannotStore:
            return self._rules.not_stored(key)

    async def _store(self, callback: Callback) -> bool:
        """Wait until the callback is durable: True if it is in the spool. Raises CannotStore."""
        pending = self._writer.add(callback)
        if pending.answer is None:
            loop = asyncio.get_running_loop()
            answer = pending.answer = loop.create_future()
            pending.stored.add_done_callback(lambda stored: _call(loop, _finish, answer, stored))
            loop.call_later(COMMIT_SECONDS, self._cut_off, loop, pending)
        return bool(await pending.answer)

    def _cut_off(self, loop: asyncio.AbstractEventLoop, pending: Pending) -> None:
        if not pending.answer.done():
            self._writer.cut_connection()
            loop.call_later(ANSWER_SECONDS - COMMIT_SECONDS, self._give_up, pending)

    def _give_up(self, pending: Pending) -> None:
        answer, pending.answer = pending.answer, None  # callbacks that are added now wait again
        if not answer.done():
            self._writer.give_up(pending)
            answer.set_exception(CannotStore("Storing the callback takes too long; send it again."))


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the loop has ended, and nobody waits
        loop.call_soon_threadsafe(function, *args)


def _finish(answer: asyncio.Future[bool], stored: concurrent.futures.Future[bool]) -> None:
    if answer.done():
        return
    if (failure := stored.exception()) is None:
        answer.set_result(stored.result())
    else:
        answer.set_exception(failure)


@cache
def _raw_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    """The headers in the form of ASGI."""
    return [(name.encode(), value.encode()) for name, value in answer.headers]
