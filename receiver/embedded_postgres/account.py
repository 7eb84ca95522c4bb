"""The account that runs the embedded server.

Postgres refuses to run as root. If root starts it, its programs run as an unprivileged account. Otherwise they run as
the user who starts it. This never changes the mode of a folder that the service did not create: if the account cannot
enter a folder, another one is used, and the user gets a message (`data_folder`).
"""

from __future__ import annotations

import os
import pwd
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from receiver.errors import ReceiverError

SHARED_FOLDER = Path("/var/lib/receiver")
"""The folder for files of root that the server's account must read (FHS: /var/lib/<name>, state of a program)."""

ACCOUNTS = ("postgres", "nobody")
"""Accounts under which root may run the server, the preferred one first. `nobody` exists on nearly every system."""

# Without the user's variables: some change what Postgres uses (PGDATA, PGPORT, LD_LIBRARY_PATH), and others translate
# the messages that we quote.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedPostgresError(ReceiverError):
    """The embedded server cannot be started or stopped. The message contains the reason and what to do."""

    code = "embedded_postgres"


@dataclass(frozen=True, slots=True)
class Account:
    """Runs programs as `uid` and `gid`, without other groups. Both None: as the current user."""

    name: str
    uid: int | None = None
    gid: int | None = None

    def run(
        self,
        arguments: Sequence[str | Path],
        *,
        timeout: float,
        stdin: str = "",
        output: IO[bytes] | None = None,
        pass_fds: Sequence[int] = (),
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, for at most `timeout` seconds. Its output is in `stdout`, or in the file `output`.

        It runs in `/`, because the account may be unable to enter the current folder. The caller checks the exit
        status. Raises EmbeddedPostgresError if the program cannot be started, or does not end in time.
        """
        try:
            return subprocess.run(  # noqa: S603 - a list of our own, no shell
                [str(argument) for argument in arguments],
                input=stdin,
                stdout=subprocess.PIPE if output is None else output,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                errors="replace",
                cwd="/",
                env=_ENVIRONMENT,
                timeout=timeout,
                user=self.uid,
                group=self.gid,
                extra_groups=None if self.uid is None else [],
                pass_fds=pass_fds,
                umask=0o077,
            )
        except subprocess.TimeoutExpired as error:
            raise EmbeddedPostgresError(f"{arguments[0]} did not end within {timeout:.0f} seconds.") from error
        except OSError as error:
            raise EmbeddedPostgresError(f"{arguments[0]} cannot be run as {self.name}: {error.strerror}.") from error

    def may(self, test: str, path: Path) -> bool:
        """Whether the account may read, write or execute `path` (`test`: `-r`, `-w` or `-x`).

        The test runs as the account, because mode bits do not show the effect of access lists and mounts.
        """
        script = 'test "$1" "$2"'
        return self.run(["/bin/sh", "-c", script, "sh", test, path], timeout=10).returncode == 0

    def own(self, path: Path) -> None:
        """Make the account the owner of a file or folder that we have just created."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(cluster: Path) -> Account:
    """The account for the database folder `cluster`: the current user, or for root its owner or one of ACCOUNTS.

    The owner is preferred, so that root can run the database of a user, and so that a database of `nobody` stays usable
    if an account `postgres` is created later.
    """
    if os.geteuid() != 0:
        return Account("the current user")
    try:
        owner = cluster.stat()
    except FileNotFoundError:
        owner = None
    if owner is not None and owner.st_uid != 0:
        try:
            name = pwd.getpwuid(owner.st_uid).pw_name
        except KeyError:
            name = f"uid {owner.st_uid}"
        return Account(name, owner.st_uid, owner.st_gid)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(name, entry.pw_uid, entry.pw_gid)
    raise EmbeddedPostgresError(
        f"Postgres does not run as root, and none of the accounts {', '.join(ACCOUNTS)} exists. "
        "Start the receiver as an ordinary user, make such an account, or set DATABASE_URL."
    )


_ERROR = re.compile(r"(?:PANIC|FATAL|error):\s+(.*)")
_CAUSE = re.compile(r"LOG:\s+((?:invalid|could not|unrecognized|cannot|parameter) .*)")


def error_in(output: str) -> str:
    """The error in the output or the log of a Postgres program: the last line with a cause, and the last error.

    If there is neither, the last line.
    """
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    found = [match[1] for kind in (_CAUSE, _ERROR) for match in list(filter(None, map(kind.search, lines)))[-1:]]
    return "; ".join(found or lines[-1:] or ["it printed nothing"]).rstrip(".")
