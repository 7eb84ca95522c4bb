"""What the web processes need of their machine, looked at once before any of them starts.

Nothing here may import psycopg: gunicorn's parent asks (receiver.web.gunicorn_conf).
"""

from __future__ import annotations

import errno
import socket
import tempfile
import time
from pathlib import Path

from receiver.errors import ConfigurationError, Fault, ReceiverError

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
            f"{data_dir} cannot be written: {error.strerror}. Name a folder that this account may write to, on a disk"
            " that outlives the process"
        )
        raise ConfigurationError([Fault("DATA_DIR", "unusable", message)]) from None


def check_address(host: str, port: int, *, patience_seconds: float = 0.0) -> None:
    """See that the address can be listened on, or raise CannotStart. One in use is asked for until patience ends."""
    give_up_at = time.monotonic() + patience_seconds
    while (fault := _address_fault(host, port)) is not None:
        if fault.errno == errno.EADDRNOTAVAIL:
            raise CannotStart(f"BIND {host} is no address of this machine. Set it to one that is, or leave it out.")
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
