"""Finds the client's address behind trusted proxies (`TRUSTED_PROXIES`).

Each proxy appends the address of its client to `X-Forwarded-For`. Only entries of trusted proxies are reliable. So the
list is read from its end, as long as the previous address is trusted. (Werkzeug's ProxyFix trusts a number of proxies,
not networks.)
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

from receiver.config import Network

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

HOP_LENGTH = 64
"""Longest accepted entry: longer than any address with a port, but short, so that the cache of addresses stays
small."""


class Proxies:
    """The trusted proxies."""

    def __init__(self, trusted: Sequence[Network]) -> None:
        self.is_trusted = lru_cache(maxsize=256)(partial(is_in, networks=trusted))

    def client(self, peer: str, forwarded_for: str) -> str:
        """The client's address: an IP address, or the server's name for a peer without one.

        `peer` is the address of the connection, `forwarded_for` the header X-Forwarded-For.
        """
        address = peer
        for hop in reversed(forwarded_for.split(",")):
            if not self.is_trusted(address) or not (named := _address(hop.strip()[:HOP_LENGTH])):
                break
            address = named
        return address


class Forwarded:
    """WSGI: sets the client's address and scheme for `app`, and removes the headers that contained them."""

    def __init__(self, app: WSGIApplication, proxies: Proxies) -> None:
        self._app = app
        self._proxies = proxies

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        address = self._proxies.client(environ.get("REMOTE_ADDR", ""), environ.pop("HTTP_X_FORWARDED_FOR", ""))
        scheme = environ.pop("HTTP_X_FORWARDED_PROTO", "")
        if self._proxies.is_trusted(environ.get("REMOTE_ADDR", "")):
            if (client_scheme := scheme.rpartition(",")[2].strip().lower()) in ("http", "https"):
                environ["wsgi.url_scheme"] = client_scheme
            environ["REMOTE_ADDR"] = address
        return self._app(environ, start_response)


@lru_cache(maxsize=1024)
def _address(hop: str) -> str:
    """The address of one entry, without a port; empty if it is not an address."""
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        found = ip_address(hop)
    except ValueError:
        return ""
    return str(getattr(found, "ipv4_mapped", None) or found)


def is_in(address: str, networks: Sequence[Network]) -> bool:
    """Whether the text is an address in one of the networks."""
    plain = _address(address)
    return bool(plain) and any(ip_address(plain) in network for network in networks)
