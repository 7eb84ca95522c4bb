"""Check whether the process that `postmaster.pid` names is the server of this folder.

A process id in a file is not enough: after a crash or a reboot it may belong to another process. So the arguments of
the process are checked. They can be read even if root may not trace processes (the default in containers), unlike
`/proc/<pid>/cwd`.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

_HAS_PROC = Path("/proc/self/cmdline").exists()


def read_pid(cluster: Path) -> int | None:
    """The process id in the folder's `postmaster.pid` (Postgres source: `src/include/utils/pidfile.h`), if any."""
    try:
        pid = int((cluster / "postmaster.pid").read_text(errors="replace").partition("\n")[0])
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return pid if pid > 0 else None


def is_postmaster_of(pid: int, cluster: Path) -> bool:
    """Whether `pid` is alive and is the server of `cluster` (absolute, resolved). A zombie is not alive."""
    arguments = _arguments(pid)
    if not arguments or Path(arguments[0]).name != "postgres":
        return False
    if "-D" in arguments[:-1] and arguments[arguments.index("-D") + 1] == str(cluster):
        return True
    try:  # started by hand with PGDATA or a relative path: the server changes into its folder
        return os.path.samefile(f"/proc/{pid}/cwd", cluster)
    except OSError:
        return False


def _arguments(pid: int) -> list[str]:
    """The command line of `pid`; empty if the process is not alive."""
    if _HAS_PROC:
        try:
            return os.fsdecode(Path(f"/proc/{pid}/cmdline").read_bytes()).rstrip("\0").split("\0")
        except OSError:
            return []
    listed = subprocess.run(  # noqa: S603 - a list of our own, no shell
        ["/bin/ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False, timeout=10
    ).stdout
    # `ps` joins the arguments with spaces, and a path may contain spaces. Our servers are started with -D first.
    program, found, rest = listed.strip().partition(" -D ")
    return [program, "-D", rest.partition(" -c ")[0]] if found else [program]
