"""Endpoints cannot make this service send requests into its own network."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from ipaddress import ip_address, ip_network
from time import monotonic
from typing import Any

import pytest

from receiver.relay.addresses import connect, is_allowed, read_url
from receiver.relay.sending import Attempt, Sender
from tests.relay.endpoint_server import EndpointServer, receiving

SECRETS = ["whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"]
LOCAL = (ip_network("127.0.0.0/8"),)

REFUSED = {
    "private": "10.0.0.1", "private 172": "172.16.0.1", "private 192": "192.168.1.1", "private IPv6": "fd00::1",
    "loopback": "127.0.0.1", "loopback IPv6": "::1", "unspecified": "0.0.0.0", "unspecified IPv6": "::",  # noqa: S104 it is refused
    "link-local": "169.254.1.1", "metadata": "169.254.169.254", "link-local IPv6": "fe80::1",
    "with a zone": "fe80::1%lo",
    "metadata IPv6": "fd00:ec2::254", "carrier-grade NAT": "100.64.0.1", "multicast": "224.0.0.1",
    "multicast IPv6": "ff02::1", "broadcast": "255.255.255.255", "reserved": "240.0.0.1", "site-local": "fec0::1",
    "mapped": "::ffff:10.0.0.1", "mapped loopback": "::ffff:127.0.0.1", "IPv4-compatible": "::127.0.0.1",
    "6to4": "2002:7f00:1::", "6to4 private": "2002:a00:1::1", "NAT64": "64:ff9b::127.0.0.1",
    "NAT64 metadata": "64:ff9b::a9fe:a9fe", "NAT64 local use": "64:ff9b:1::a00:1", "Teredo": "2001:0:a00:1::1",
    "documentation": "192.0.2.1", "documentation IPv6": "2001:db8::1",
}  # fmt: skip


@pytest.mark.parametrize("address", REFUSED.values(), ids=REFUSED.keys())
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert not is_allowed(ip_address(address), ())


@pytest.mark.parametrize("address", ["93.184.215.14", "2606:2800:21f::1", "::ffff:93.184.215.14", "64:ff9b::5db8:d70e"])
def test_public_address_is_allowed_only_with_tls_on_the_usual_port(address: str) -> None:
    assert is_allowed(ip_address(address), ())
    assert not is_allowed(ip_address(address), (), plain=True)


@pytest.mark.parametrize("address", ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "2002:a01:203::"])
def test_named_network_is_allowed_without_tls(address: str) -> None:
    for network in ("10.1.0.0/16", "10.1.2.3/32"):
        assert is_allowed(ip_address(address), (ip_network(network),), plain=True)
    assert not is_allowed(ip_address(address), (ip_network("10.2.0.0/16"),), plain=True)


class Names:
    """Resolves names as a test says: at each look-up the next answer, the last one again and again."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **answers: list[str]) -> None:
        self.looked_up: list[str] = []
        real = socket.getaddrinfo

        def resolve(host: Any, port: Any, *args: Any, **kwargs: Any) -> Any:
            given = answers.get(str(host).partition(".")[0])
            if given is None:
                return real(host, port, *args, **kwargs)
            self.looked_up.append(host)
            address = given.pop(0) if len(given) > 1 else given[0]
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in address.split()]

        monkeypatch.setattr(socket, "getaddrinfo", resolve)


def sent(server: EndpointServer, host: str, networks: Any = LOCAL) -> Attempt:
    with closing(Sender(f"http://{host}:{server.port}/", networks)) as sender:
        return sender.send("msg_1", "{}", SECRETS)


def test_name_is_resolved_once_for_each_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    names = Names(monkeypatch, good=["127.0.0.1", "10.0.0.1"])
    with receiving() as server:
        assert sent(server, "good.example").delivered
    assert names.looked_up == ["good.example"] and server.requests[0].headers["host"] == f"good.example:{server.port}"


def test_name_that_resolves_to_a_private_address_at_the_second_look_up_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """DNS rebinding: the name was public when the endpoint was made."""
    Names(monkeypatch, rebinding=["127.0.0.9", "127.0.0.1"])
    public = (ip_network("127.0.0.9/32"),)  # the sandbox reaches no public address
    with receiving() as server:
        sender = Sender(f"http://rebinding.example:{server.port}/", public)
        first, second = (sender.send("msg_1", "{}", SECRETS) for _ in range(2))
        assert "RELAY_NETWORKS" not in str(first.error)
        assert second.status is None and "not allowed" in str(second.error)
        assert server.requests == []


def test_name_with_one_private_address_among_others_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, mixed=["127.0.0.1 10.0.0.1"])
    with receiving() as server:
        attempt = sent(server, "mixed.example")
    assert attempt.status is None and "not allowed" in str(attempt.error) and server.requests == []


def test_address_that_does_not_answer_leaves_time_for_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    Names(monkeypatch, slow=["127.0.0.2 127.0.0.1"])
    with receiving() as server, silent("127.0.0.2", server.port):
        place = read_url(f"http://slow.example:{server.port}/")
        with connect(place, LOCAL, monotonic() + 4) as connected:
            assert connected.getpeername()[0] == "127.0.0.1"


@contextmanager
def silent(host: str, port: int) -> Iterator[None]:
    """A port whose connections are not accepted, so that further ones get no answer."""
    with closing(socket.create_server((host, port), backlog=0)), ExitStack() as waiting:
        for _ in range(3):
            each = waiting.enter_context(closing(socket.socket()))
            each.setblocking(False)
            with suppress(BlockingIOError):
                each.connect((host, port))
        yield


def test_address_is_checked_at_each_connection_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with receiving() as server:
        assert sent(server, "127.0.0.1").delivered
        assert not sent(server, "127.0.0.1", networks=()).delivered
    assert len(server.requests) == 1


def test_unknown_name_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(*_: Any, **__: Any) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    attempt = Sender("https://nowhere.example/", ()).send("msg_1", "{}", SECRETS)
    assert attempt.status is None and "not known" in str(attempt.error)
