"""Kills at named steps. A test puts this folder on the PYTHONPATH of the service's processes. Python imports this file
at its start, and it wraps modules when they are imported. So the service's code needs no hooks.

A step is `before …` or `after …` an action that a kill can interrupt: a commit, named after the function that made it;
a send to the provider or to an endpoint; an answer to a callback.

`KILLING_STEPS` names a folder. `armed/STEP` in it contains a number and a victim: the process to kill when a process
reaches the step this many times. The victim `hang`: the process that reaches the step waits until `reached/STEP` is
removed. A process that reaches an armed step first moves the file to `reached/STEP`, so that only one process acts.
`seen/STEP` is created when a process reaches the step for the first time.

`KILLING_DEATHS_SECONDS` is the time in which `serve` counts the deaths of a child.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import os
import signal
import sqlite3
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

FOLDER = Path(os.environ.get("KILLING_STEPS", "/nonexistent"))
ROLES = ("gunicorn", "work", "serve", "replay", "resolve", "erase", "purge")
"""Only processes with one of these words in the command line are killed at steps; `verify`, for example, is not."""

INDIRECT = ("receiver.database.pool", "receiver.database.replica", "receiver.intake.journal")
"""Modules that commit for their callers."""

_seen: set[str] = set()
_passed: dict[str, int] = {}
_sending = threading.local()


def reach(step: str, backend: int = 0) -> None:
    """Record that a step is reached. `backend`: the id of the connection's Postgres process."""
    if step not in _seen:
        _seen.add(step)
        (FOLDER / "seen" / step).touch()
    armed = FOLDER / "armed" / step
    try:
        times, victim = armed.read_text().split()
    except FileNotFoundError:
        _passed.pop(step, None)
        return
    _passed[step] = _passed.get(step, 0) + 1
    if _passed[step] < int(times):
        return
    try:
        armed.rename(FOLDER / "reached" / step)
    except FileNotFoundError:
        return  # another process has moved it
    if victim == "hang":
        while (FOLDER / "reached" / step).exists():
            time.sleep(0.05)
        return
    pid = {"self": os.getpid(), "backend": backend}.get(victim) or int(victim)
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # the test killed it at the same moment


def _committer() -> str | None:
    """The function of the receiver that commits. None: the commit is not the receiver's."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith("receiver.") and module not in INDIRECT and frame.f_code.co_name != "_transaction":
            return f"{module.removeprefix('receiver.')}.{frame.f_code.co_qualname}"
        frame = frame.f_back
    return None


def _wrap_postgres(module: ModuleType) -> None:
    commit, execute = module.Connection.commit, module.Connection.execute
    idle, open_transaction = 0, 2  # libpq's PQTRANS_IDLE and PQTRANS_INTRANS

    def commit_or_die(self: Any) -> None:
        step = f"commit of {_committer()}"
        if self.closed or self.info.transaction_status != open_transaction or step.endswith("None"):
            commit(self)
            return
        backend = self.info.backend_pid
        reach(f"before {step}", backend)
        commit(self)
        reach(f"after {step}", backend)

    def execute_or_die(self: Any, query: Any, *args: Any, **options: Any) -> Any:
        """With autocommit, a statement that writes is its own commit."""
        writes = isinstance(query, str) and query.lstrip().startswith(("with ", "insert ", "update ", "delete "))
        if not writes or self.closed or not self.autocommit or self.info.transaction_status != idle:
            return execute(self, query, *args, **options)
        step, backend = f"commit of {_committer()}", self.info.backend_pid
        reach(f"before {step}", backend)
        cursor = execute(self, query, *args, **options)
        reach(f"after {step}", backend)
        return cursor

    module.Connection.commit, module.Connection.execute = commit_or_die, execute_or_die


def _wrap_transactions(module: ModuleType) -> None:
    leave = module.Transaction.__exit__

    def leave_or_die(self: Any, error: Any, *more: Any) -> Any:
        """With autocommit, the end of a block commits. Otherwise it only releases a savepoint."""
        if error is not None or not self.connection.autocommit:
            return leave(self, error, *more)
        step, backend = f"commit of {_committer()}", self.connection.info.backend_pid
        reach(f"before {step}", backend)
        swallowed = leave(self, error, *more)
        reach(f"after {step}", backend)
        return swallowed

    module.Transaction.__exit__ = leave_or_die


class _SpoolConnection(sqlite3.Connection):
    def execute(self, sql: str, *args: Any) -> sqlite3.Cursor:
        if sql != "commit":
            return super().execute(sql, *args)
        step = f"commit of {_committer()}"
        reach(f"before {step}")
        cursor = super().execute(sql, *args)
        reach(f"after {step}")
        return cursor


def _wrap_spool(module: ModuleType) -> None:
    module.sqlite3.connect = functools.partial(sqlite3.connect, factory=_SpoolConnection)


def _wrap_worker(module: ModuleType) -> None:
    bulk_queue = module.bulk_queue

    def bulk_queue_or_die(provider: Any, request: Any, *args: Any) -> Any:
        _sending.result_url = request.result_url
        reach("before a request to the provider")
        answer = bulk_queue(provider, request, *args)
        reach("after a request to the provider")
        return answer

    module.bulk_queue = bulk_queue_or_die  # type: ignore[attr-defined]


def _wrap_sends(module: ModuleType) -> None:
    send = module.PlainConnection.send

    def send_or_die(self: Any, block: Any) -> None:
        if self.passage.sent_bytes == 0 and (result_url := _sending.__dict__.pop("result_url", None)):
            with open(FOLDER / "requests", "a") as file:
                file.write(f"{result_url}\n")
        reach("before a send to the provider")
        send(self, block)
        reach("after a send to the provider")

    module.PlainConnection.send = send_or_die


def _wrap_sender(module: ModuleType) -> None:
    send = module.Sender.send

    def send_or_die(self: Any, *args: Any) -> Any:
        reach("before a send to an endpoint")
        attempt = send(self, *args)
        reach("after a send to an endpoint")
        return attempt

    module.Sender.send = send_or_die


def _wrap_endpoint(module: ModuleType) -> None:
    call = module.Endpoint.__call__

    async def call_or_die(self: Any, scope: dict[str, Any], receive: Any, send: Any) -> None:
        async def send_or_die(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                reach("before an answer to a callback")
            await send(message)
            if message["type"] == "http.response.body":
                reach("after an answer to a callback")

        await call(self, scope, receive, send_or_die if scope["method"] == "POST" else send)

    module.Endpoint.__call__ = call_or_die


def _wrap_wsgi(module: ModuleType) -> None:
    call = module.Endpoint.__call__

    def call_or_die(self: Any, environ: dict[str, Any], start_response: Any) -> Any:
        is_callback = environ["REQUEST_METHOD"] == "POST" and environ["PATH_INFO"].startswith("/results/")

        def start_or_die(*args: Any) -> Any:
            if is_callback:
                reach("before an answer to a callback")
            return start_response(*args)

        with contextlib.ExitStack() as stack:
            answer = call(self, environ, start_or_die)
            if close := getattr(answer, "close", None):
                stack.callback(close)
            yield from answer
        if is_callback:
            reach("after an answer to a callback")

    module.Endpoint.__call__ = call_or_die


def _wrap_children(module: ModuleType) -> None:
    module.DEATHS_SECONDS = float(os.environ.get("KILLING_DEATHS_SECONDS", module.DEATHS_SECONDS))  # type: ignore[attr-defined]


WRAPS: dict[str, Callable[[ModuleType], None]] = {
    "psycopg.connection": _wrap_postgres,
    "psycopg.transaction": _wrap_transactions,
    "receiver.intake.spool": _wrap_spool,
    "receiver.worker": _wrap_worker,
    "receiver.supervisor.children": _wrap_children,
    "receiver.release.connection": _wrap_sends,
    "receiver.relay.sending": _wrap_sender,
    "receiver.intake.endpoint": _wrap_endpoint,
    "receiver.intake.wsgi": _wrap_wsgi,
}


class _Wrapping(importlib.abc.MetaPathFinder):
    """Finds the modules in WRAPS like Python, and wraps each after it was executed."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if name not in WRAPS:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            run = spec.loader.exec_module

            def run_and_wrap(module: ModuleType) -> None:
                run(module)
                WRAPS[name](module)

            spec.loader.exec_module = run_and_wrap  # type: ignore[method-assign]
        return spec


if FOLDER.is_dir() and any(role in sys.orig_argv for role in ROLES):
    sys.meta_path.insert(0, _Wrapping())
