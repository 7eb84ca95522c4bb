"""Who really asks, behind proxies that we believe (`TRUSTED_PROXIES`).

Each proxy appends the address it was asked from to `X-Forwarded-For`. Only what a believed one appended is
worth anything: so the list is read from its end, for as long as the address before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Network = IPv4Network | IPv6Network

HOP_LENGTH = 64
"""Longer than any address with its port: what is remembered of strangers' headers stays small."""


class Proxies:
    """Those that are believed, and whom a request really comes from."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self.believe = lru_cache(maxsize=256)(partial(_is_in, networks=trusted))

    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's own address: an IP address, or whatever the server calls a peer that has none.

        `peer` is who sent the request, `forwarded_for` its X-Forwarded-For.
        """
        address = peer
        for hop in reversed(forwarded_for.split(",")):
            if not self.believe(address) or not (named := _address(hop.strip()[:HOP_LENGTH])):
                break
            address = named
        return address


class Sources:
    """The networks that results may come from (`RESULT_SOURCES`)."""

    def __init__(self, networks: Sequence[Network], proxies: Proxies) -> None:
        self._proxies = proxies
        # Asked for every callback: to compare an address with twenty networks takes fifty microseconds.
        self._listed = lru_cache(maxsize=4096)(partial(_is_in, networks=networks))

    def admit(self, peer: str, forwarded_for: str) -> bool:
        """Whether the request comes from one of them."""
        return self._listed(self._proxies.client(peer, forwarded_for))


class Forwarded:
    """WSGI: gives `app` the client's own address and scheme, and none of the headers that they came in."""

    def __init__(self, app: WSGIApplication, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        address = self._proxies.client(environ.get("REMOTE_ADDR", ""), environ.pop("HTTP_X_FORWARDED_FOR", ""))
        scheme = environ.pop("HTTP_X_FORWARDED_PROTO", "")
        if self._proxies.believe(environ.get("REMOTE_ADDR", "")):
            if (said := scheme.rpartition(",")[2].strip().lower()) in ("http", "https"):
                environ["wsgi.url_scheme"] = said
            environ["REMOTE_ADDR"] = address
        return self._app(environ, start_response)


@lru_cache(maxsize=1024)
def _address(hop: str) -> str:
    """The address of one entry, which some proxies write with a port; empty where it is none."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        found = ip_address(hop)
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)


def _is_in(address: str, networks: Sequence[Network]) -> bool:
    plain = _address(address)
    return bool(plain) and any(ip_address(plain) in network for network in networks)
