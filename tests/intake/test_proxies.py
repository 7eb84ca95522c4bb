"""The client's address behind trusted and other proxies."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import ip_network
from typing import TYPE_CHECKING, Any

import pytest

from receiver.intake.proxies import Forwarded, Proxies

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

TRUSTED = [ip_network("127.0.0.0/8"), ip_network("10.1.0.0/16"), ip_network("fd00::/8")]


def seen(peer: str, forwarded_for: str | None = None, proto: str | None = None) -> tuple[str, str]:
    """The address and the scheme that the app sees."""
    environ: dict[str, Any] = {"REMOTE_ADDR": peer, "wsgi.url_scheme": "http"}
    if forwarded_for is not None:
        environ["HTTP_X_FORWARDED_FOR"] = forwarded_for
    if proto is not None:
        environ["HTTP_X_FORWARDED_PROTO"] = proto
    kept: list[WSGIEnvironment] = []

    def app(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        kept.append(environ)
        return []

    Forwarded(app, Proxies(TRUSTED))(environ, lambda *_: lambda _: None)
    assert not any(name.startswith("HTTP_X_FORWARDED") for name in kept[0]), "no later code may use the header"
    return kept[0]["REMOTE_ADDR"], kept[0]["wsgi.url_scheme"]


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "address"),
    [
        ("192.0.2.1", "198.51.100.7", "192.0.2.1"),  # not from a trusted proxy
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "203.0.113.5, 198.51.100.7", "198.51.100.7"),  # the first entry may be invented by the client
        ("127.0.0.1", "203.0.113.5, 198.51.100.7, 10.1.2.3", "198.51.100.7"),  # two proxies
        ("127.0.0.1", "10.1.9.9, 10.1.2.3", "10.1.9.9"),
        ("127.0.0.1", "198.51.100.7:4711", "198.51.100.7"),
        ("127.0.0.1", "[2001:db8::1]:443", "2001:db8::1"),
        ("::ffff:10.1.2.3", "2001:db8::1", "2001:db8::1"),
        ("fd00::1", "::ffff:198.51.100.7", "198.51.100.7"),
        ("127.0.0.1", "unknown", "127.0.0.1"),
        ("127.0.0.1", "198.51.100.7, nonsense", "127.0.0.1"),
        ("", "198.51.100.7", ""),
    ],
)
def test_address_is_the_last_that_is_not_a_trusted_proxy(peer: str, forwarded_for: str | None, address: str) -> None:
    assert seen(peer, forwarded_for)[0] == address


@pytest.mark.parametrize(
    ("peer", "proto", "scheme"),
    [
        ("127.0.0.1", "https", "https"),
        ("127.0.0.1", "HTTPS", "https"),
        ("127.0.0.1", "http, https", "https"),
        ("127.0.0.1", "gopher", "http"),
        ("192.0.2.1", "https", "http"),
    ],
)
def test_scheme_is_that_of_a_trusted_proxy(peer: str, proto: str, scheme: str) -> None:
    assert seen(peer, proto=proto)[1] == scheme
