"""A reserved port stays reserved, and a server can listen on it."""

from __future__ import annotations

import socket

import pytest

from receiver.supervisor.ports import free_port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 for as long as the test takes
def test_server_can_listen_on_a_reserved_port_repeatedly(address: str) -> None:
    port = free_port()
    for _ in range(2):
        with socket.create_server((address, port)), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_reserved_port_accepts_no_connections() -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", free_port())) != 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_port_is_reserved_at_every_address(address: str) -> None:
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind((address, free_port()))


def test_reserved_ports_differ() -> None:
    assert len({free_port() for _ in range(100)}) == 100
