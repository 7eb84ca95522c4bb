"""The blocks of commands in the documents, their expected output, and a terminal that runs them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sysconfig
import time
import venv
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import Self

from tests.acceptance.service import without_database_line

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("sh", "bash", "console")
"""Languages of blocks that a reader runs. A block in one of the languages PRINTED after it is its expected output."""
PRINTED = ("json", "text")
RUNS = "is running; Ctrl-C stops it."
"""The end of what `make run` prints when it has started."""

_FENCE = re.compile(r"^( *)```([^\n`]*)\n(.*?)^\1```\n", re.MULTILINE | re.DOTALL)
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z")


@dataclass(frozen=True, slots=True)
class Block:
    """`document`: its path from the root. `printed`: the expected output; None: not given."""

    document: str
    line: int
    language: str
    source: str
    printed: str | None = None

    @property
    def first_line(self) -> str:
        return self.source.split("\n", 1)[0]

    @property
    def stays(self) -> bool:
        """Whether it starts the service and keeps running. The next blocks need a second terminal."""
        return self.source.endswith("make run\n")

    def __str__(self) -> str:
        return f"{self.document}:{self.line}: {self.first_line}"


def documents() -> list[str]:
    """The paths of our own documents from the root, without those of vendored packages."""
    kept = ("vendor", ".venv", "node_modules", "out", "dist", "var")
    found = [path.relative_to(ROOT) for path in ROOT.rglob("*.md")]
    return sorted(str(path) for path in found if not any(part in kept or part[0] == "." for part in path.parts[:-1]))


def blocks_of(document: str) -> list[Block]:
    """All blocks, in order. A block of expected output belongs to the block of commands before it."""
    text = (ROOT / document).read_text()
    found: list[Block] = []
    end = -1
    for fence in _FENCE.finditer(text):
        indent, language, source = fence.groups()
        source = re.sub(f"^{indent}", "", source, flags=re.MULTILINE)
        if fence.start() == end and language in PRINTED and found[-1].language in COMMANDS:
            before = found[-1]
            found[-1] = Block(before.document, before.line, before.language, before.source, source)
        else:
            found.append(Block(document, text.count("\n", 0, fence.start()) + 1, language, source))
        end = fence.end()
    return found


def commands_of(document: str) -> list[Block]:
    return [block for block in blocks_of(document) if block.language in COMMANDS]


def agrees(output: str, expected: str) -> bool:
    """Whether the output agrees with the document: times may differ, and an ellipsis matches any text."""
    pattern = ".*".join(re.escape(part) for part in _plain(expected).split("…"))
    return re.fullmatch(pattern, _plain(output), re.DOTALL) is not None


def _plain(text: str) -> str:
    """The text without times, and without spaces that have no meaning in JSON."""
    return re.sub(r'(?<=[]}"\w][:,]) (?=["[{\d])', "", _TIME.sub("TIME", text.strip()))


def make_checkout(folder: Path) -> Path:
    """Make a clone as it is after the first `make run`, with its own virtualenv that contains the requirements."""
    folder.mkdir(mode=0o711)
    for name in ("Makefile", "app.py", "deploy", "migrations", "receiver", "requirements.txt", "tests"):
        (folder / name).symlink_to(ROOT / name)
    venv.create(folder / ".venv", symlinks=True)
    packages = Path(
        sysconfig.get_path("purelib", vars={"base": str(folder / ".venv"), "platbase": str(folder / ".venv")})
    )
    (packages / "installed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (folder / ".venv" / ".runtime").touch()
    return folder


class Terminal:
    """A shell that keeps its variables between blocks. A context manager: it ends all processes that it started."""

    def __init__(self, folder: Path, environment: Mapping[str, str]) -> None:
        self._screen = TemporaryFile()  # no pipe: a full pipe would block the service
        self._read = 0
        self._shell = subprocess.Popen(
            ["bash"], cwd=folder, env=dict(environment), stdin=subprocess.PIPE, stdout=self._screen,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def run(self, source: str, seconds: float = 120) -> str:
        """The output of the block, without the line in which every command names its database, because the documents
        omit it. Fails if one of its commands fails."""
        self._type(f"set -eu -o pipefail; trap 'printf \"\\0%s\\0\" $?' EXIT\n{source}printf '\\0done\\0'\n")
        output, status, _ = self._await(lambda text: text.count("\0") > 1, seconds).split("\0", 2)
        assert status == "done", f"{source}\nended with status {status} and printed:\n{output}"
        return without_database_line(output)

    def start(self, source: str, until: str = RUNS, seconds: float = 120) -> str:
        """Start a block whose last command keeps running. Returns its output up to the end of `until`'s paragraph."""
        self._type(source)
        return self._await(lambda text: "\n\n" in text.partition(until)[2], seconds)

    def close(self, seconds: float = 60) -> None:
        """Interrupt the running command (Ctrl-C), and end the shell."""
        assert self._shell.stdin is not None
        try:
            if self._shell.poll() is None:
                os.killpg(self._shell.pid, signal.SIGINT)
                self._shell.stdin.close()
                self._shell.wait(seconds)
        finally:
            if self._shell.poll() is None:
                os.killpg(self._shell.pid, signal.SIGKILL)
                self._shell.wait()
            self._screen.close()

    def _type(self, text: str) -> None:
        assert self._shell.stdin is not None
        self._shell.stdin.write(text.encode())
        self._shell.stdin.flush()

    def _await(self, met: Callable[[str], bool], seconds: float) -> str:
        """Wait until `met` is true for the output since the last call, and return that output."""
        end = time.monotonic() + seconds
        while True:
            unread = os.pread(self._screen.fileno(), 1 << 24, self._read)
            if met(text := unread.decode(errors="replace").replace("\r\n", "\n")):
                self._read += len(unread)
                return text
            assert time.monotonic() < end and self._shell.poll() is None, f"the expected output did not appear:\n{text}"
            time.sleep(0.02)
