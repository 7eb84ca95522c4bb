"""How much anybody may ask: so many requests a minute with one key, and so many failed ones from one address.

Counted by token buckets in the memory of each web process: a limit holds for each of them, and starts anew with it.
A shared count would cost every request a write to the database. Nobody can guess a key of 256 random bits; the
limit of failures keeps those who try from costing a query each.
"""

from __future__ import annotations

import ipaddress
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass

from flask import request

from receiver.web.problems import Problem

FAILURE_SHARE = 10
"""An address may fail a tenth as often as a key may ask."""

MOST_BUCKETS = 10_000
"""Beyond it the one that was used longest ago is forgotten: it is full again, or its owner gains a minute's worth."""


class TokenBuckets:
    """A bucket each for whoever is named: it holds `per_minute` tokens, and is filled evenly. Safe among threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __contains__(self, name: Hashable) -> bool:
        """Whether this one took a token lately."""
        return name in self._buckets

    def take(self, name: Hashable) -> float:
        """Take a token: 0.0, or, where there is none, the seconds until there is."""
        with self._lock:
            now = self._clock()
            tokens = self._tokens(name, now)
            wait_seconds = self._wait(tokens)
            self._buckets[name] = (tokens if wait_seconds else tokens - 1, now)
            self._buckets.move_to_end(name)
            if len(self._buckets) > MOST_BUCKETS:
                self._buckets.popitem(last=False)
            return wait_seconds

    def wait_seconds(self, name: Hashable) -> float:
        """What `take` would answer; takes nothing."""
        with self._lock:
            return self._wait(self._tokens(name, self._clock()))

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (float(self.per_minute), now))
        return min(self.per_minute, tokens + (now - at) * self._per_second)

    def _wait(self, tokens: float) -> float:
        return 0.0 if tokens >= 1 else (1 - tokens) / self._per_second


@dataclass(frozen=True, slots=True)
class RateLimits:
    """Those of one web process. A key is named by its digest, so that none lies in memory for longer than a request."""

    requests: TokenBuckets
    failures: TokenBuckets

    @classmethod
    def of(cls, per_minute: int) -> RateLimits | None:
        """None for 0: nobody is limited."""
        if not per_minute:
            return None
        return cls(TokenBuckets(per_minute), TokenBuckets(math.ceil(per_minute / FAILURE_SHARE)))

    def check_failures(self, key_digest: bytes, address: str) -> None:
        """Before a key is looked up. Raises Problem where too many from this address were none.

        A key that was good here lately is not held up: others may sit behind the same address.
        """
        if key_digest not in self.requests and (seconds := self.failures.wait_seconds(address)):
            raise _too_many("Too many requests without a valid key came from your address.", seconds)

    def count_failure(self, address: str) -> None:
        """A request came without a valid key."""
        self.failures.take(address)

    def count_request(self, key_digest: bytes) -> None:
        """A request came with this key, which is valid. Raises Problem where it asked too much."""
        if seconds := self.requests.take(key_digest):
            raise _too_many(f"This key may send {self.requests.per_minute} requests per minute.", seconds)


def client_address() -> str:
    """Whom the current request came from (receiver.intake.proxies); of IPv6, the /64 that its holder has at least."""
    address = request.remote_addr or ""
    try:
        ip = ipaddress.ip_address(address)
    except ValueError:
        return address[:100]
    if isinstance(ip, ipaddress.IPv6Address):
        return str(ip.ipv4_mapped or ipaddress.ip_network((int(ip) >> 64 << 64, 64)))
    return str(ip)


def _too_many(what: str, seconds: float) -> Problem:
    whole = math.ceil(seconds)
    wait = f"Wait {whole} second{'' if whole == 1 else 's'}, then send fewer requests."
    return Problem("rate_limited", f"{what} {wait}", headers={"Retry-After": str(whole)})
