"""Is the process that `postmaster.pid` names the server of this folder?

A pid in a file proves nothing: after a crash or a reboot it may name anyone's process. What a
process was started with does, and is readable even where root lacks the right to trace (the
default in containers), which `/proc/<pid>/cwd` is not.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

_PS = "/bin/ps"
_HAS_PROC = sys.platform == "linux"


@dataclass(frozen=True, slots=True)
class PidFile:
    """What `postmaster.pid` says (Postgres source: `src/include/utils/pidfile.h`)."""

    pid: int
    socket_dir: str
    """Empty while the server is still starting."""
    status: str
    """`starting`, `ready`, `stopping`, `standby`, or empty while the file is being written."""


def read_pid_file(cluster: Path) -> PidFile | None:
    """The folder's `postmaster.pid`, or None without one, or with one that names no process."""
    try:
        lines = (cluster / "postmaster.pid").read_text(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        return None
    lines += [""] * 8
    try:
        pid = int(lines[0])
    except ValueError:
        return None
    return PidFile(pid, lines[4].strip(), lines[7].strip()) if pid > 0 else None


def is_postmaster_of(pid: int, cluster: Path) -> bool:
    """Whether `pid` lives and is the server of `cluster` (absolute, resolved). A zombie does not live."""
    arguments = _arguments(pid)
    if not arguments or Path(arguments[0]).name != "postgres":
        return False
    if "-D" in arguments[:-1] and arguments[arguments.index("-D") + 1] == str(cluster):
        return True
    try:  # started by hand, with PGDATA or a relative path: the server enters its folder
        return os.path.samefile(f"/proc/{pid}/cwd", cluster)
    except OSError:
        return False


def children_titled(cluster_name: str) -> list[int]:
    """Processes of the server with this `cluster_name`, other than its postmaster.

    They outlive a killed postmaster only while they compute: everything that waits notices at once.
    """
    title = f"postgres: {cluster_name}: "
    if _HAS_PROC:
        pids = [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]
        return [pid for pid in pids if " ".join(_arguments(pid)).startswith(title)]
    lines = _ps("-axww", "-o", "pid=,command=").splitlines()
    found = (line.strip().partition(" ") for line in lines)
    return [int(pid) for pid, _, command in found if command.strip().startswith(title)]


def _arguments(pid: int) -> list[str]:
    """What `pid` was started with; empty when it does not live."""
    if _HAS_PROC:
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
        except OSError:
            return []
    # `ps` joins with spaces what may itself hold spaces; our own servers are started with -D first.
    program, found, rest = _ps("-ww", "-o", "command=", "-p", str(pid)).strip().partition(" -D ")
    folder = rest.partition(" -c ")[0]
    return [program, "-D", folder] if found else [program]


def _ps(*arguments: str) -> str:
    return subprocess.run(  # noqa: S603 - a list of our own, no shell
        [_PS, *arguments], capture_output=True, text=True, check=False, timeout=10
    ).stdout
