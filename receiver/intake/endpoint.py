"""The callback endpoint on an event loop. Nothing here blocks: database and spool have threads of their own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from time import perf_counter
from typing import Any

from receiver.counts import counts
from receiver.intake.callback_rules import (
    CUT_OFF,
    PREFIX,
    SPOOLED,
    STORED,
    TOO_LARGE,
    UNAVAILABLE,
    Answer,
    CallbackRules,
    is_too_long,
)
from receiver.intake.journal import BODY_BYTES, Callback
from receiver.intake.senders import Senders, log_lost
from receiver.intake.writer import ANSWER_SECONDS, COMMIT_SECONDS, CannotStore, Gathering, Writer
from receiver.logs import request_id
from receiver.model import SubmissionKey

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PREFIX_LENGTH = len(PREFIX)


class Endpoint:
    """ASGI: answers `/results/<token>`. `start` it on its loop."""

    def __init__(self, rules: CallbackRules, senders: Senders, writer: Writer) -> None:
        self._rules = rules
        self._senders = senders
        self._writer = writer
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self) -> None:
        """Hear on this loop of what was stored."""
        loop = self._loop = asyncio.get_running_loop()
        self._writer.on_done = lambda gathering: _call(loop, self._finish, gathering)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        began = perf_counter()
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        peer, forwarded_for = (scope["client"] or ("",))[0], headers.get(b"x-forwarded-for", "")
        asked = self._senders.request_id(headers.get(b"x-request-id", ""))
        request_id.set(asked)
        found = self._rules.before_body(
            scope["path"][_PREFIX_LENGTH:].rstrip("/"),
            scope["method"],
            admitted=self._senders.admit(peer, forwarded_for),
        )
        key, answer = (None, found) if isinstance(found, Answer) else (found, await self._take(found, headers, receive))
        counts.callback(answer.word, perf_counter() - began if answer.waited else None)
        if answer.refused:
            self._senders.log_refusal(answer, key, peer, forwarded_for)
        await send(
            {
                "type": "http.response.start",
                "status": int(answer.status[:3]),
                "headers": [*_raw_headers(answer), (b"x-request-id", asked.encode())],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})

    async def _take(self, key: SubmissionKey, headers: dict[bytes, str], receive: Receive) -> Answer:
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
            return CUT_OFF  # a part of a body cannot be told from a whole one later, and was not acknowledged
        callback = self._rules.after_body(
            key, body, headers.get(b"content-type", ""), headers.get(b"content-encoding", "")
        )
        if isinstance(callback, Answer):
            return callback
        try:
            return SPOOLED if await self._store(callback) else STORED
        except CannotStore:
            self._rules.budget.give_back(key)
            log_lost(key)
            return UNAVAILABLE

    async def _store(self, callback: Callback) -> bool:
        """Wait until the callback is durable: True if it is in the spool. Raises CannotStore."""
        gathering = self._writer.add(callback)
        if gathering.stored is None:
            assert self._loop is not None  # noqa: S101 `start` came first
            gathering.stored = self._loop.create_future()
            self._loop.call_later(COMMIT_SECONDS, self._hurry, gathering)
        return bool(await gathering.stored)

    def _hurry(self, gathering: Gathering) -> None:
        if not gathering.stored.done():
            self._writer.cut_connection()
            assert self._loop is not None  # noqa: S101 `start` came first
            self._loop.call_later(ANSWER_SECONDS - COMMIT_SECONDS, self._give_up, gathering)

    def _give_up(self, gathering: Gathering) -> None:
        stored, gathering.stored = gathering.stored, None  # whoever comes now waits anew
        if not stored.done():
            self._writer.give_up(gathering)
            stored.set_exception(CannotStore("Storing the callback takes too long; send it again."))

    def _finish(self, gathering: Gathering) -> None:
        if gathering.stored is None or gathering.stored.done():
            return
        if gathering.failure is None:
            gathering.stored.set_result(gathering.spooled)
        else:
            gathering.stored.set_exception(CannotStore("The callback could not be stored; send it again."))


def _call(loop: asyncio.AbstractEventLoop, function: Callable[..., None], *args: object) -> None:
    with suppress(RuntimeError):  # the loop has ended, and with it everybody who waited
        loop.call_soon_threadsafe(function, *args)


def _raw_headers(answer: Answer) -> list[tuple[bytes, bytes]]:
    raw = _RAW.get(answer.word)
    if raw is None:
        raw = _RAW[answer.word] = [(name.encode(), value.encode()) for name, value in answer.all_headers]
    return raw


_RAW: dict[str, list[tuple[bytes, bytes]]] = {}
"""Each answer's headers as ASGI wants them."""
