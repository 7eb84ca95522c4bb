"""Reserve a port of this machine for a process that will listen on it."""

from __future__ import annotations

import atexit
import socket


def free_port() -> int:
    """A port that is reserved until this process ends. A server can listen on it.

    Without a reservation, any process could use the free port a moment later, even a client. So a socket stays bound to
    it. This socket never listens, and has `SO_REUSEADDR` (see socket(7)). A server's socket, which also has this
    option, can bind to the port and listen. The port is reserved at all addresses, because the server may use all of
    them.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    atexit.register(holder.close)
    port: int = holder.getsockname()[1]
    return port
