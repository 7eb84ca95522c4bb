"""Where endpoints may be.

An endpoint must not make this service send requests into its own network (server-side request forgery). So only public
addresses are allowed, with https on port 443, and the networks of `RELAY_NETWORKS`. A name can mean another address at
each look-up (DNS rebinding). So `connect` resolves it once, checks every address, and connects to a checked one.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from time import monotonic
from urllib.parse import urlsplit

from receiver.config import Network
from receiver.errors import invalid_parameter

_NETLOC = re.compile(r"(\[[0-9a-f:.]+\]|[\w.-]+)(:\d*)?", re.ASCII | re.IGNORECASE)
_NAT64 = IPv6Network("64:ff9b::/96")
_GLOBAL_UNICAST = IPv6Network("2000::/3")


class AddressRefused(OSError):
    """The name resolves to an address that is not allowed."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint is: its scheme is `http` or `https`, `netloc` the host and the port as they were written,
    `target` the path with the query."""

    scheme: str
    netloc: str
    host: str
    port: int
    target: str

    @property
    def is_plain(self) -> bool:
        """Whether it is allowed in RELAY_NETWORKS only."""
        return self.scheme != "https" or self.port != 443


def read_url(url: str) -> Place:
    """Raises ValueError if it cannot be the address of an endpoint."""
    parts = urlsplit(url)
    port = (443 if parts.scheme == "https" else 80) if parts.port is None else parts.port
    if not parts.hostname or port == 0 or parts.scheme not in ("http", "https") or not _NETLOC.fullmatch(parts.netloc):
        raise ValueError(url)
    if "#" in url or not re.fullmatch("[!-~]+", url):
        raise ValueError(url)
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    return Place(parts.scheme, parts.netloc, parts.hostname, port, target)


def check_url(url: str, networks: Sequence[Network]) -> None:
    """Check the address of an endpoint that is made or changed. Raises InvalidInput.

    A name that cannot be resolved now is accepted with https on port 443: it is checked at each request.
    """
    try:
        place = read_url(url)
    except ValueError:
        message = "It must be an https:// address in ASCII with a valid port, without spaces, a user, a password and #."
        raise invalid_parameter("url", "invalid", message) from None
    try:
        _resolve(place, networks)
    except OSError as error:
        if isinstance(error, AddressRefused) or place.is_plain:
            message = "It must be a public https:// address on port 443, or be in one of RELAY_NETWORKS."
            raise invalid_parameter("url", "address_not_allowed", message) from None


def connect(place: Place, networks: Sequence[Network], until: float) -> socket.socket:
    """A connection to an allowed address, before `until` on the monotonic clock. Raises AddressRefused, OSError."""
    failure = OSError("The name has no address.")
    addresses = _resolve(place, networks)
    for number, address in enumerate(addresses):
        try:
            # An address that does not answer leaves time for the others.
            patience = seconds_left(until) / (len(addresses) - number)
            connected = socket.create_connection((address, place.port), patience)
        except OSError as error:
            failure = error
            continue
        connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connected.settimeout(seconds_left(until))  # for the handshake
        return connected
    raise failure


def seconds_left(until: float) -> float:
    """Raises TimeoutError if there are none."""
    left = until - monotonic()
    if left <= 0:
        raise TimeoutError("It took too long.")
    return left


def _resolve(place: Place, networks: Sequence[Network]) -> list[str]:
    try:
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)
    except UnicodeError as error:  # an empty label, or one that is too long
        raise OSError(str(error)) from None
    addresses = [str(each[4][0]) for each in found]
    if not all(is_allowed(ip_address(address), networks, plain=place.is_plain) for address in addresses):
        raise AddressRefused("It resolves to an address that is not allowed (RELAY_NETWORKS).")
    return addresses


def is_allowed(address: IPv4Address | IPv6Address, networks: Sequence[Network], *, plain: bool = False) -> bool:
    """Whether an endpoint may have this address. `plain`: without TLS, or on another port than 443."""
    if isinstance(address, IPv6Address):
        # The IPv4 address that it stands for.
        inner = IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else None
        address = inner or address.ipv4_mapped or address.sixtofour or address
    if any(address in network for network in networks):
        return True
    if plain or not address.is_global or address.is_multicast:
        return False
    return isinstance(address, IPv4Address) or address in _GLOBAL_UNICAST
