"""What a web process holds while it lives: its configuration, its connections, and the journal's writer."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from flask import current_app

from receiver.config import Config
from receiver.database.pool import PATIENCE_SECONDS, Pool, connect, open_pool
from receiver.database.replica import Replica
from receiver.queueing.acceptance import Limits
from receiver.results.budget import Budget
from receiver.results.budget_reports import BudgetReports
from receiver.results.callback_rules import CallbackRules
from receiver.results.intake import Intake
from receiver.results.spool import Spool
from receiver.results.token import ResultTokens
from receiver.web.in_progress import Turns
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
    callback_rules: CallbackRules
    budget_reports: BudgetReports
    rate_limits: RateLimits | None
    turns: Turns

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
        pool = open_pool(database_url, max_size=POOL_SIZE, name="receiver web")
        tokens = ResultTokens(config.secret_keys)
        budget = Budget(config.callback_budget, config.submission_rows)
        budget_reports = BudgetReports(pool, budget)
        budget_reports.start()
        return cls(
            config=config,
            database_url=database_url,
            pool=pool,
            replica=replica,
            intake=intake,
            tokens=tokens,
            callback_rules=CallbackRules(tokens, budget),
            budget_reports=budget_reports,
            rate_limits=RateLimits.of(config.rate_limit),
            turns=Turns(),
        )

    @property
    def limits(self) -> Limits:
        return Limits(self.config.submission_rows, self.config.result_grace_seconds, self.config.batch_kind)

    def close(self) -> None:
        """Store what has been taken, and close every connection."""
        self.intake.stop()
        self.budget_reports.stop()
        self.pool.close(timeout=2)
        if self.replica is not None:
            self.replica.close()


def services() -> Services:
    """Those of the app that answers the current request."""
    found: Services = current_app.extensions["receiver"]
    return found
