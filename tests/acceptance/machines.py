"""Several machines with one Postgres. Each has web and worker processes and its own folder. A balancer in front of them
passes each connection to the next machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Mapping
from itertools import cycle
from pathlib import Path

from receiver.supervisor.ports import free_port
from tests.acceptance.service import ROOT, Answer, ask, clean_environment
from tests.waiting import eventually

WEB = [sys.executable, "-m", "gunicorn", "-c", "python:receiver.server.gunicorn_conf", "app:asgi"]
WORK = [sys.executable, "-m", "receiver", "work"]

START_SECONDS = 180.0
"""Longest start: many processes start at once here, on few cores."""


class Machine:
    """A web process and, with `works`, a worker. A context manager: its processes end with it."""

    def __init__(self, folder: Path, *, works: bool = True, **environment: str) -> None:
        folder.mkdir()
        self.data_dir = folder / "var"
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "log"
        own = {"DATA_DIR": str(self.data_dir), "PORT": str(self.port), "BIND": "127.0.0.1", "WEB_CONCURRENCY": "1"}
        self.environment = clean_environment(**own, **environment)
        self._commands = [WEB, WORK] if works else [WEB]
        self._running: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Machine:
        with self.log.open("ab") as log:
            for command in self._commands:
                # A separate session, so that all of its processes can be killed at once.
                self._running.append(
                    subprocess.Popen(
                        command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, start_new_session=True
                    )
                )
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._running:
            process.terminate()
        try:
            for process in self._running:
                process.wait(90)
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill all of its processes at once with SIGKILL."""
        for process in self._running:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def await_start(self) -> None:
        eventually(self._answers, START_SECONDS, lambda: f"{self.url}: {self.log.read_text()}")

    def _answers(self) -> bool:
        assert all(process.poll() is None for process in self._running), self.log.read_text()
        try:
            return ask(f"{self.url}/healthz").status == 200
        except OSError:
            return False

    def ask(self, path: str, key: str, headers: Mapping[str, str] | None = None) -> Answer:
        return ask(self.url + path, headers={"Authorization": f"Bearer {key}", **(headers or {})})

    def metric(self, name: str) -> float:
        """The value of a metric of this machine that has one sample."""
        lines = ask(f"{self.url}/metrics").body.decode().splitlines()
        (value,) = [line.split()[1] for line in lines if line.split(" ")[0] == name]
        return float(value)


class Balancer:
    """Passes each connection to the next machine that accepts it. `passed`: how many each machine got."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.passed: Counter[int] = Counter()
        self._ports: list[int] = []
        self._tasks: set[asyncio.Task[None]] = set()

    def before(self, machines: list[Machine]) -> Balancer:
        self._ports = [machine.port for machine in machines]
        self._turns = cycle(self._ports)
        return self

    def __enter__(self) -> Balancer:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()
        listening = asyncio.start_server(self._pass_on, "127.0.0.1", self.port, backlog=500)
        self._server = asyncio.run_coroutine_threadsafe(listening, self._loop).result(30)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(30)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    async def _end(self) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _pass_on(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            for port in (next(self._turns) for _ in self._ports):
                with contextlib.suppress(OSError):
                    machine, to_machine = await asyncio.open_connection("127.0.0.1", port)
                    self.passed[port] += 1
                    await asyncio.gather(_pump(client, to_machine), _pump(machine, to_client))
                    return
        except asyncio.CancelledError:
            pass  # the server would report a canceled task as an error
        finally:
            to_client.close()
            self._tasks.discard(task)


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while block := await source.read(65536):
            target.write(block)
            await target.drain()
    except ConnectionError:
        pass  # the machine was killed; its client sees the closed connection
    finally:
        target.close()
