"""What the web processes need of their machine, looked at once before any of them starts.

Nothing here may import an application: gunicorn's parent asks (receiver.server.gunicorn_conf).
"""

from __future__ import annotations

import errno
import socket
import sys
import tempfile
import time
from pathlib import Path

from receiver.config import Config
from receiver.errors import ConfigurationError, Fault, ReceiverError
from receiver.intake.signing_keys import check_keys_at_start

HANDOVER_SECONDS = 5.0
"""How long a port may still be an earlier process's that was told to stop."""


class CannotStart(ReceiverError):
    """The service cannot start here, for a reason that the user can change."""

    code = "invalid_parameters"  # exit status 2: it lies in the configuration


def check_data_dir(data_dir: Path) -> None:
    """Make DATA_DIR and see that it can be written, or raise ConfigurationError.

    A disk that is full is none of its reasons: callbacks are stored all the same while the database is there, and a
    process that does not start takes none at all.
    """
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=data_dir).close()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return
        message = (
            f"{data_dir} cannot be written: {error.strerror}. Set it to a folder that this account can write, on a disk"
            " that outlives the process"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None


_keys_checked = False
"""Whether this process, or the one that it was forked from, has checked them."""


def check_keys(config: Config, database_url: str) -> None:
    """Raise ConfigurationError if results are expected that SECRET_KEY cannot verify; once, before any process starts.

    A web process that is started again later does not ask: that would stop a service which still takes other results.
    """
    global _keys_checked
    if not _keys_checked:
        check_keys_at_start(config, database_url)
        _keys_checked = True


def print_refusal(error: ReceiverError) -> None:
    """Say on standard error why the start is refused: one line for each fault of a configuration."""
    faults = (
        [f"{fault.where} {fault.message}" for fault in error.faults] if isinstance(error, ConfigurationError) else []
    )
    for line in faults or [str(error)]:
        print(f"receiver: {line}", file=sys.stderr)


def check_address(host: str, port: int, *, patience_seconds: float = 0.0) -> None:
    """See that the address can be listened on, or raise CannotStart. One in use is asked for until patience ends."""
    give_up_at = time.monotonic() + patience_seconds
    while (fault := _address_fault(host, port)) is not None:
        if fault.errno == errno.EADDRNOTAVAIL:
            raise CannotStart(f"BIND {host} is not an address of this machine. Set it to one, or leave it out.")
        if fault.errno != errno.EADDRINUSE or time.monotonic() >= give_up_at:
            raise CannotStart(
                f"Port {port} cannot be used: {fault.strerror}. Stop what uses it, or set PORT to another."
            )
        time.sleep(0.1)


def _address_fault(host: str, port: int) -> OSError | None:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
    return None
