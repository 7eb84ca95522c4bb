"""The resources of a web process: its configuration, its connections, and the journal's writer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial

from flask import current_app
from itsdangerous import URLSafeSerializer

from receiver.config import Config
from receiver.database.pool import Connection, DatabaseUnavailable, Pool, open_pool, reading
from receiver.database.replica import Replica
from receiver.intake.opened import OpenedIntake
from receiver.intake.writer import Writer
from receiver.queueing.acceptance import Limits
from receiver.server.in_progress import Turns
from receiver.summary.batches import list_decided
from receiver.summary.feed import list_given
from receiver.web.rate_limit import RateLimits, TokenBuckets
from receiver.web.waiting import SharedCheck

POOL_SIZE = 10
"""Connections of a web process for reading and queueing, and as many to a replica. The journal has its own
connection."""


FAILED_SIGN_INS_PER_MINUTE = 10
"""How many wrong keys may be entered from one address, in each web process."""


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    database_url: str
    pool: Pool
    replica: Replica | None
    opened_intake: OpenedIntake
    rate_limits: RateLimits
    failed_sign_ins: TokenBuckets
    turns: Turns
    decisions: SharedCheck
    """Of batches: whether the provider has answered."""
    positions: SharedCheck
    """Of positions of the feed: whether there is an entry."""

    @classmethod
    def start(cls, config: Config, database_url: str) -> Services:
        """Open everything. Without Postgres callbacks go to the spool, and other requests are answered 503."""
        replica = None
        if config.database_replica_url is not None:
            replica = Replica(
                config.database_replica_url,
                database_url,
                max_lag_seconds=config.replica_max_lag_seconds,
                max_size=POOL_SIZE,
            )
        pool = open_pool(database_url, max_size=POOL_SIZE, name="receiver web")
        return cls(
            config=config,
            database_url=database_url,
            pool=pool,
            replica=replica,
            opened_intake=OpenedIntake.open(config, database_url, pool),
            rate_limits=RateLimits.of(config.rate_limit),
            failed_sign_ins=TokenBuckets(FAILED_SIGN_INS_PER_MINUTE),
            turns=Turns(),
            decisions=SharedCheck(partial(_find, pool, list_decided)),
            positions=SharedCheck(partial(_find, pool, list_given)),
        )

    @property
    def intake(self) -> Writer:
        return self.opened_intake.writer

    @property
    def limits(self) -> Limits:
        return Limits(self.config.submission_rows, self.config.result_grace_seconds, self.config.batch_kind)

    def close(self) -> None:
        """Store the accepted callbacks, and close every connection."""
        self.opened_intake.close()
        self.pool.close(timeout=2)
        if self.replica is not None:
            self.replica.close()


def services() -> Services:
    """The services of the app that answers the current request."""
    found: Services = current_app.extensions["receiver"]
    return found


def serializer(purpose: str) -> URLSafeSerializer:
    """Signs values for one purpose with the first secret key, and verifies them with all keys."""
    # itsdangerous signs with the last of its keys.
    return URLSafeSerializer(list(reversed(services().config.secret_keys)), salt=purpose)


def _find(pool: Pool, find: Callable[[Connection, Collection[int]], set[int]], numbers: Collection[int]) -> set[int]:
    try:
        with reading(pool) as conn:
            return find(conn, numbers)
    except DatabaseUnavailable:
        return set()
