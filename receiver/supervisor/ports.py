"""Ports of this machine for processes that are started with a number, and listen a little later."""

from __future__ import annotations

import atexit
import socket


def free_port() -> int:
    """A port that nobody is given before this process ends, and that whoever is told of it can listen on.

    A port found free and let go of could be anybody's a moment later, a passing client's too. So a socket stays
    bound to it. As that one never listens, and allows its address to be used again (`SO_REUSEADDR`, see socket(7)),
    another socket that allows it too, as servers' do, can bind to the port and listen. It is bound for all addresses,
    as a server may be: whoever had the port of another address would be in its way.
    """
    holder = socket.socket()
    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    holder.bind(("", 0))
    atexit.register(holder.close)
    port: int = holder.getsockname()[1]
    return port
