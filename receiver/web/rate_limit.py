"""Rate limits: requests per minute with one key, and failed requests per minute from one address.

Token buckets in the memory of each web process count them, so a limit holds for each process and is reset when the
process restarts. A shared count would need a database write for every request. A key of 256 random bits cannot be
guessed. Without the limit of failures, each attempt would cause a query.
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
"""An address may send a tenth as many failed requests as a key may send requests."""

MOST_BUCKETS = 10_000
"""Maximum number of buckets. Beyond it, the least recently used one is dropped, which is usually full again."""


class TokenBuckets:
    """A bucket for each name. It holds `per_minute` tokens and is refilled evenly. 0: no limit. Safe to share between
    threads."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.per_minute = per_minute
        self._per_second = per_minute / 60
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __contains__(self, name: Hashable) -> bool:
        """Whether a token was taken under this name recently."""
        return name in self._buckets

    def take(self, name: Hashable) -> float:
        """Take a token and return 0.0, or return the seconds until there is one."""
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
        """What `take` would return. Takes nothing."""
        with self._lock:
            return self._wait(self._tokens(name, self._clock()))

    def _tokens(self, name: Hashable, now: float) -> float:
        tokens, at = self._buckets.get(name, (float(self.per_minute), now))
        return min(self.per_minute, tokens + (now - at) * self._per_second)

    def _wait(self, tokens: float) -> float:
        return 0.0 if tokens >= 1 or not self.per_minute else (1 - tokens) / self._per_second


@dataclass(frozen=True, slots=True)
class RateLimits:
    """The limits of one web process. Keys are named by their digests, so that no key stays in memory."""

    requests: TokenBuckets
    failures: TokenBuckets

    @classmethod
    def of(cls, per_minute: int) -> RateLimits:
        """0: no limits."""
        return cls(TokenBuckets(per_minute), TokenBuckets(math.ceil(per_minute / FAILURE_SHARE)))

    def check_failures(self, key_digest: bytes, address: str) -> None:
        """Raises Problem after too many failures. Call this before the key is read from the database.

        A key that was valid here recently is exempt: other clients may share its address.
        """
        if key_digest not in self.requests and (seconds := self.failures.wait_seconds(address)):
            raise _too_many("Too many requests without a valid key came from your address.", seconds)

    def count_request(self, key_digest: bytes) -> None:
        """Count a request with a valid key. Raises Problem if there were too many."""
        if seconds := self.requests.take(key_digest):
            raise _too_many(f"This key may send {self.requests.per_minute} requests per minute.", seconds)


def client_address() -> str:
    """The client's address (receiver.intake.proxies). For IPv6 its /64, the smallest network that one client has."""
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
