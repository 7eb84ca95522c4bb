"""The system calls of processes, in order, as strace sees them."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.waiting import eventually

TRACED = "openat,write,pwrite64,pwritev,writev,sendto,sendmsg,fsync,fdatasync"


@dataclass(frozen=True, slots=True)
class Call:
    """One that succeeded. `began` and `ended` are places in the order of all calls. `path`: of its file; a socket has
    another kind of name."""

    name: str
    path: str
    arguments: str
    began: int
    ended: int


class Trace:
    def __init__(self, output: Path) -> None:
        self._output = output

    def calls(self) -> list[Call]:
        """All that have ended, in the order of their ends."""
        found, begun = [], dict[str, tuple[str, int]]()
        for place, line in enumerate(self._output.read_text(errors="replace").splitlines()):
            pid, _, text = line.partition(" ")
            text, began = text.strip(), place
            if text.endswith("<unfinished ...>"):
                begun[pid] = text.removesuffix("<unfinished ...>"), place
                continue
            if (resumed := re.match(r"<\.\.\. \w+ resumed>(.*)", text)) and pid in begun:
                beginning, began = begun.pop(pid)
                text = beginning + resumed[1]
            call = re.match(r"(\w+)\((?:AT_FDCWD<[^>]*>, )?(?:\d+<([^>]*)>)?(.*)\) += (\d+)(?:<([^>]*)>)?$", text)
            if call is not None:
                found.append(Call(call[1], call[5] or call[2] or "", call[3], began, place))
        return found

    def find(self, text: str, names: Sequence[str]) -> list[Call]:
        """The calls with one of these names that wrote this text, of plain ASCII."""
        return [call for call in self.calls() if text in call.arguments and call.name in names]


@contextmanager
def traced(folder: Path, list_pids: Callable[[], Sequence[int]]) -> Iterator[Trace]:
    """Trace these processes, and those that they start meanwhile."""
    program = shutil.which("strace")
    if program is None:
        pytest.skip("strace is needed to see the order of system calls (Debian: apt-get install strace)")
    output = folder / "strace.txt"
    with ExitStack() as stack:
        while True:
            strace = stack.enter_context(_attached(program, output, list_pids()))
            if all(_tracer(pid) in (strace.pid, None) for pid in list_pids()):
                break
            stack.close()  # one of them was started just before its parent was traced
        yield Trace(output)


@contextmanager
def _attached(program: str, output: Path, pids: Sequence[int]) -> Iterator[subprocess.Popen[str]]:
    attached = [option for pid in pids for option in ("-p", str(pid))]
    # -y names the files. -s: Postgres writes its log in pieces of any length, because it first stores whole pages.
    command = [program, "-f", "-y", "-s", "4000000", "-e", f"trace={TRACED}", "-o", str(output), *attached]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as strace:
        try:
            assert strace.stderr is not None
            for _ in pids:
                line = strace.stderr.readline()
                if "attached" not in line and "No such process" not in line:
                    pytest.skip(f"processes cannot be traced here: {line.strip()}")
            eventually(output.exists)
            yield strace
        finally:
            strace.send_signal(signal.SIGINT)
            strace.communicate(timeout=60)


def _tracer(pid: int) -> int | None:
    """The process that traces this one. 0: none. None: it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(re.search(r"^TracerPid:\s+(\d+)", status, re.MULTILINE)[1])  # type: ignore[index]
