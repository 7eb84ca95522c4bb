"""What a web process holds while it lives: its configuration, its connections, and the journal's writer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flask import current_app

from receiver.config import Config
from receiver.database.pool import PATIENCE_SECONDS, Pool, connect, open_pool
from receiver.database.replica import Replica
from receiver.queueing.acceptance import Limits
from receiver.results.intake import Intake
from receiver.results.spool import Spool
from receiver.results.token import ResultTokens
from receiver.web.rate_limit import RateLimits

POOL_SIZE = 10
"""Connections of a web process for reading and queueing; the journal has one of its own. As many to a replica."""


@dataclass(frozen=True, slots=True)
class Services:
    config: Config
    database_url: str
    pool: Pool
    replica: Replica | None
    intake: Intake
    tokens: ResultTokens
    rate_limits: RateLimits | None

    @classmethod
    def start(cls, config: Config, database_url: str) -> Services:
        """Open everything. Postgres may be away: then callbacks go to the spool, and the rest answers 503."""
        replica = None
        if config.database_replica_url is not None:
            replica = Replica(
                config.database_replica_url,
                database_url,
                max_lag_seconds=config.replica_max_lag_seconds,
                max_size=POOL_SIZE,
            )
        intake = Intake(
            partial(connect, database_url, name="receiver journal", autocommit=True, patience_seconds=PATIENCE_SECONDS),
            Spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes),
        )
        intake.start()
        return cls(
            config=config,
            database_url=database_url,
            pool=open_pool(database_url, max_size=POOL_SIZE, name="receiver web"),
            replica=replica,
            intake=intake,
            tokens=ResultTokens(config.secret_keys),
            rate_limits=RateLimits.of(config.rate_limit),
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.config.submission_rows, self.config.result_grace_seconds, self.config.simulated)

    def close(self) -> None:
        """Store what has been taken, and close every connection."""
        self.intake.stop()
        self.pool.close(timeout=2)
        if self.replica is not None:
            self.replica.close()


def services() -> Services:
    """Those of the app that answers the current request."""
    found: Services = current_app.extensions["receiver"]
    return found
