"""Flask on an event loop: a request uses one of a few threads, but only while Python computes.

The body is received completely before a thread is used; a long body goes to disk. A long answer is produced in pieces,
each after the client has read the previous one. Requests that wait for something wait on the loop. So a slow client
holds no thread. Long uploads and long answers have their own threads: a page must not wait for a million rows.

a2wsgi is not used: it holds a thread while a body arrives and while an answer is sent, and it does not distinguish the
headers `X-Forwarded-For` and `X_Forwarded_For` (docs/decisions/0012-one-event-loop.md).
"""

from __future__ import annotations

import asyncio
import contextvars
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import IO, TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote_to_bytes

from receiver.web.waiting import BESIDE_LOOP, CHECK_SECONDS, WAIT, Wait, resume

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication, WSGIEnvironment

Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

MEMORY_BYTES = 1 << 20
"""A longer body goes to disk, and its request to the threads for long work."""

ANONYMOUS_BYTES = 64 << 10
"""A longer body is accepted only from a client that may upload, so that others cannot fill the memory or the disk."""

PIECE_BYTES = 256 << 10
"""Approximate size of one piece of an answer."""

_T = TypeVar("_T")


class Disconnected(Exception):
    """The client closed the connection."""


class Threads:
    """Runs a WSGI application for an event loop. `may_upload`: whether a request may send a long body."""

    def __init__(
        self,
        app: WSGIApplication,
        *,
        threads: int,
        longest_body: int,
        may_upload: Callable[[WSGIEnvironment], bool],
    ) -> None:
        self._app = app
        self._longest_body = longest_body
        self._may_upload = may_upload
        self._short = ThreadPoolExecutor(threads, "web")
        self._long = ThreadPoolExecutor(threads, "web-long")
        self._disk = ThreadPoolExecutor(1, "web-disk")
        self._waiting: dict[asyncio.Future[None], Wait] = {}
        self._checks: asyncio.Task[None] | None = None
        self._is_stopping = False

    def stop_waiting(self) -> None:
        """Answer every request that waits, with what is known now: the process is about to stop."""
        self._is_stopping = True
        for done in self._waiting:
            if not done.done():
                done.set_result(None)

    def close(self) -> None:
        for pool in (self._short, self._long, self._disk):
            pool.shutdown(wait=False, cancel_futures=True)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        environ = make_environ(scope)
        environ[BESIDE_LOOP] = len(self._waiting)
        with tempfile.SpooledTemporaryFile(MEMORY_BYTES) as body:
            environ["wsgi.input"] = body
            try:
                pool = await self._read_body(environ, body, receive)
            except Disconnected:
                return
            answer = _Answer(self._app, environ)
            try:
                await answer.run(pool, answer.more)
                while (wait := environ.get(WAIT)) is not None:
                    await answer.run(pool, answer.close)
                    await self._wait(wait)
                    environ = resume(environ, wait)
                    answer = _Answer(self._app, environ)
                    await answer.run(pool, answer.more)
                await self._send(answer, receive, send)
            finally:
                await answer.finish_step()  # if the request was canceled, a thread may still read the body

    async def _send(self, answer: _Answer, receive: Receive, send: Send) -> None:
        gone: asyncio.Future[None] | None = None
        try:
            await send({"type": "http.response.start", "status": answer.status, "headers": answer.raw_headers()})
            while True:
                ended = answer.ended
                await send({"type": "http.response.body", "body": answer.piece, "more_body": not ended})
                if ended:
                    return
                # Done when the client disconnects. Then the rest of the answer is not needed.
                gone = gone or asyncio.ensure_future(_disconnect(receive))
                if gone.done():
                    return
                await answer.run(self._long, answer.more)
        finally:
            if gone is not None:
                gone.cancel()
            await answer.run(self._short if answer.ended else self._long, answer.close)

    async def _read_body(self, environ: WSGIEnvironment, body: IO[bytes], receive: Receive) -> ThreadPoolExecutor:
        """Write the body of the request into `body`. Returns the threads to use. Raises Disconnected."""
        announced: str | None = environ.get("CONTENT_LENGTH")
        more = announced is not None or "HTTP_TRANSFER_ENCODING" in environ
        if not more:
            return self._short
        length, size, is_allowed = int(announced or 0), 0, False
        if length > self._longest_body:
            return self._short  # the application refuses it because of its length
        while True:
            if max(length, size) > ANONYMOUS_BYTES and not is_allowed:
                is_allowed = await _run(self._short, self._may_upload, environ)
                if not is_allowed:
                    return self._short  # the application refuses it because of its key
            if not more:
                break
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Disconnected
            piece, more = message.get("body", b""), message.get("more_body", False)
            size += len(piece)
            if size > self._longest_body:
                environ["CONTENT_LENGTH"] = str(size)
                return self._short
            if size <= MEMORY_BYTES:
                body.write(piece)
            else:
                await _run(self._disk, body.write, piece)
        environ["CONTENT_LENGTH"] = str(size)
        environ.pop("HTTP_TRANSFER_ENCODING", None)  # the body is complete
        if size <= MEMORY_BYTES:
            body.seek(0)
            return self._short
        await _run(self._disk, body.seek, 0)
        return self._long

    async def _wait(self, wait: Wait) -> None:
        if self._is_stopping:
            return
        if self._checks is None:
            self._checks = asyncio.create_task(self._check_waiting())
        done = asyncio.get_running_loop().create_future()
        self._waiting[done] = wait
        try:
            await asyncio.wait([done], timeout=max(0.0, wait.until - time.monotonic()))
        finally:
            del self._waiting[done]

    async def _check_waiting(self) -> None:
        """Check all waiting requests in one thread, however many they are."""
        while True:
            await asyncio.sleep(CHECK_SECONDS)
            if self._waiting:
                waiting = list(self._waiting.items())
                found = await _run(self._short, lambda waits: [wait.ready() for _, wait in waits], waiting)
                for (done, _), is_ready in zip(waiting, found, strict=True):
                    if is_ready and not done.done():
                        done.set_result(None)


async def _disconnect(receive: Receive) -> None:
    """Return when the client disconnects. The first message of a request without a body is its end."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def _run(pool: ThreadPoolExecutor, function: Callable[..., _T], *args: Any) -> _T:
    return await asyncio.get_running_loop().run_in_executor(pool, function, *args)


class _Answer:
    """The application's answer, produced in pieces. Its methods run in threads, one at a time."""

    def __init__(self, app: WSGIApplication, environ: WSGIEnvironment) -> None:
        self._app = app
        self._environ = environ
        self._context = contextvars.copy_context()
        self._step: asyncio.Future[None] | None = None
        self._iterable: Iterable[bytes] = ()
        self._iterator: Iterator[bytes] | None = None
        self.status = 0
        self._headers: list[tuple[str, str]] = []
        self.piece, self.ended = b"", False

    async def run(self, pool: ThreadPoolExecutor, step: Callable[[], None]) -> None:
        """Run a step in a thread. All steps share their context variables.

        If the request is canceled (at the end of the process), its step goes on. The next one waits for it.
        """
        await self.finish_step()
        self._step = asyncio.get_running_loop().run_in_executor(pool, self._context.run, step)
        await asyncio.shield(self._step)

    async def finish_step(self) -> None:
        """Wait for the step that is in progress, if there is one."""
        if self._step is not None and not self._step.done():
            await asyncio.wait([self._step])

    def more(self) -> None:
        """Produce the next piece. Raises what the application raises."""
        if self._iterator is None:
            self._iterable = self._app(self._environ, self._start_response)
            self._iterator = iter(self._iterable)
        blocks, size = [], 0
        while size < PIECE_BYTES:
            try:
                block = next(self._iterator)
            except StopIteration:
                self.ended = True
                break
            blocks.append(block)
            size += len(block)
        self.piece = b"".join(blocks)

    def close(self) -> None:
        if close := getattr(self._iterable, "close", None):
            close()

    def raw_headers(self) -> list[tuple[bytes, bytes]]:
        return [(name.encode("latin-1"), value.encode("latin-1")) for name, value in self._headers]

    def _start_response(self, status: str, headers: list[tuple[str, str]], *_: Any) -> Callable[..., None]:
        self.status, self._headers = int(status[:3]), headers
        return _no_write


def _no_write(_: bytes) -> None:
    raise NotImplementedError("Flask returns its answers")


def make_environ(scope: Scope) -> WSGIEnvironment:
    """The WSGI environment of an ASGI request (PEP 3333), without its body.

    A header with an underscore is dropped: in WSGI it looks like the one with a dash, which a proxy may have checked.
    """
    client, server = scope.get("client") or ("", 0), scope.get("server") or ("localhost", 80)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": scope["method"],
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(scope["raw_path"]).decode("latin-1"),
        "QUERY_STRING": scope["query_string"].decode("latin-1"),
        "RAW_URI": scope["raw_path"].decode("latin-1"),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or 0),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
    }
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        if "_" in name:
            continue
        key = name.upper().replace("-", "_")
        if key not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            key = f"HTTP_{key}"
        if key in environ:
            value = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{value}"
        environ[key] = value
    return environ
