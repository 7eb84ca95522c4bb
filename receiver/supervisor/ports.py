"""Reserve a port of this machine for a process that will listen on it."""

from __future__ import annotations

import atexit
import socket


def free_port() -> int:
    """A port that is reserved until this process ends. A server can listen on it.

    A free port that is not reserved may be used by any process a moment later, even by a client. So a socket stays
    bound to it. That socket never listens, and has `SO_REUSEADDR` (see socket(7)). Another socket with this option,
    which servers set, can bind to the port and listen. The port is reserved at all addresses, because the server may
    use all of them.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    atexit.register(holder.close)
    port: int = holder.getsockname()[1]
    return port
