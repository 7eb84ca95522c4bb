"""Who really asks, behind proxies that we believe (`TRUSTED_PROXIES`).

Each proxy appends the address it was asked from to `X-Forwarded-For`. Only what a believed one appended is
worth anything: so the list is read from its end, for as long as the address before it is believed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

Network = IPv4Network | IPv6Network


class Forwarded:
    """WSGI: gives `app` the client's own address and scheme, and none of the headers that they came in."""

    def __init__(self, app: WSGIApplication, trusted: Sequence[Network]) -> None:
        self._app = app
        self._believed = lru_cache(maxsize=256)(lambda address: _is_in(address, trusted))

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        hops = environ.pop("HTTP_X_FORWARDED_FOR", "")
        scheme = environ.pop("HTTP_X_FORWARDED_PROTO", "")
        address: str = environ.get("REMOTE_ADDR", "")
        if self._believed(address):
            if (said := scheme.rpartition(",")[2].strip().lower()) in ("http", "https"):
                environ["wsgi.url_scheme"] = said
            for hop in reversed(hops.split(",")):
                if not self._believed(address) or not (named := _address(hop)):
                    break
                address = named
            environ["REMOTE_ADDR"] = address
        return self._app(environ, start_response)


def _address(hop: str) -> str:
    """The address of one entry, which some proxies write with a port; empty where it is none."""
    hop = hop.strip()
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
