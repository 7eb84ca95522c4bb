"""Checks of the machine before the first web process starts.

Nothing here may import an application: gunicorn's parent process runs these checks (receiver.server.gunicorn_conf).
"""

from __future__ import annotations

import errno
import socket
import tempfile
import time
from pathlib import Path

from receiver.errors import ConfigurationError, Fault, ReceiverError

HANDOVER_SECONDS = 5.0
"""How long a stopping process may still use the port."""


class CannotStart(ReceiverError):
    """The service cannot start here. The user can change the reason."""

    code = "invalid_parameters"  # exit status 2, as for a wrong configuration


def check_data_dir(data_dir: Path) -> None:
    """Create DATA_DIR, and check that it can be written. Raises ConfigurationError.

    A full disk is accepted: while the database is available, callbacks can still be stored.
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


def check_address(host: str, port: int, *, patience_seconds: float = 0.0) -> None:
    """Raise CannotStart if the service cannot listen on the address. If it is in use, try again for
    `patience_seconds`."""
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
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as test_socket:
        test_socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            test_socket.bind((host, port))
        except OSError as error:
            return error
    return None
