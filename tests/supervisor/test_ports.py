"""A port that is given out stays the giver's."""

from __future__ import annotations

import socket

import pytest

from receiver.supervisor.ports import free_port


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])  # noqa: S104 for as long as the test takes
def test_program_that_is_told_of_the_port_listens_on_it_again_and_again(address: str) -> None:
    port = free_port()
    for _ in range(2):
        with socket.create_server((address, port)), socket.create_connection(("127.0.0.1", port), timeout=5):
            pass


def test_nobody_listens_before_the_program_does() -> None:
    with socket.socket() as client:
        assert client.connect_ex(("127.0.0.1", free_port())) != 0


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"])
def test_port_stays_held_at_every_address(address: str) -> None:
    with socket.socket() as other, pytest.raises(OSError, match="Address already in use"):
        other.bind((address, free_port()))


def test_each_has_its_own() -> None:
    assert len({free_port() for _ in range(100)}) == 100
