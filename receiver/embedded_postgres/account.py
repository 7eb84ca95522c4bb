"""Which account runs the embedded server, and what that account may reach.

Postgres refuses to run as root. Started by root, its programs therefore run as an unprivileged
account; started by anyone else, as that user. Nothing here changes the mode of a folder that this
service did not make: where the account cannot get in, another folder is used and the user is told.
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
"""Where root keeps what the server's account must reach (FHS: /var/lib/<name>, state of a program)."""

ACCOUNTS = ("postgres", "nobody")
"""Accounts that root may run the server as, best first. `nobody` exists nearly everywhere."""

# What libpq and the server's programs read from the environment could send them elsewhere (PGDATA,
# PGPORT, LD_LIBRARY_PATH) or translate the messages we quote.
_ENVIRONMENT = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "TZ": "UTC"}


class EmbeddedPostgresError(ReceiverError):
    """The embedded server cannot be started or stopped; the message says why and what to do."""

    code = "embedded_postgres"


@dataclass(frozen=True, slots=True)
class Account:
    """Runs programs as `uid` and `gid`, without further groups; both None: as ourselves."""

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
        """Run a program to its end, at most `timeout` seconds; what it says is in `stdout`, or in `output`.

        Its folder is `/`: ours may be one that the account cannot enter. Raises EmbeddedPostgresError
        where the program cannot be run at all; its exit status is the caller's to judge.
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
        """Whether the account passes `test` (`-r`, `-w` or `-x`) on `path`.

        Asked of the kernel, as that account: mode bits alone know nothing of access lists and mounts.
        """
        script = 'test "$1" "$2"'
        return self.run(["/bin/sh", "-c", script, "sh", test, path], timeout=10).returncode == 0

    def own(self, path: Path) -> None:
        """Give a file or folder that we have just made to the account."""
        if self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)


def account_for(cluster: Path) -> Account:
    """The account for the database folder `cluster`: ourselves; as root its owner, else one of ACCOUNTS.

    The owner comes first so that root can serve what a user began, and so that a `postgres` account
    made later does not lock us out of a folder that belongs to `nobody`.
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


def complaint(said: str) -> str:
    """What went wrong, of all that a Postgres program printed or logged: its last error, after the line of the log
    that says why, if there is one; else its last line.
    """
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    found = [match[1] for kind in (_CAUSE, _ERROR) for match in list(filter(None, map(kind.search, lines)))[-1:]]
    return "; ".join(found or lines[-1:] or ["it printed nothing"]).rstrip(".")
