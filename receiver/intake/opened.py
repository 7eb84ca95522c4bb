"""Everything that a process needs to receive callbacks, opened and closed together."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from receiver.config import Config
from receiver.database.pool import STATEMENT_SECONDS, Pool, connect
from receiver.intake.budget import Budget
from receiver.intake.budget_reports import BudgetReports
from receiver.intake.callback_rules import CallbackRules
from receiver.intake.proxies import Proxies
from receiver.intake.senders import Senders
from receiver.intake.spool import Spool
from receiver.intake.token import ResultTokens
from receiver.intake.writer import Writer


@dataclass(frozen=True, slots=True)
class OpenedIntake:
    """Call `open` in the process that uses it, after any fork."""

    writer: Writer
    rules: CallbackRules
    senders: Senders
    budget_reports: BudgetReports

    @classmethod
    def open(cls, config: Config, database_url: str, pool: Pool) -> OpenedIntake:
        """Start the threads. If Postgres is unavailable, callbacks go to the spool. `pool`: for the reports."""
        writer = Writer(
            partial(
                connect, database_url, name="receiver journal", autocommit=True, patience_seconds=STATEMENT_SECONDS
            ),
            Spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes),
        )
        budget = Budget(config.callback_budget, config.submission_rows)
        opened = cls(
            writer,
            CallbackRules(ResultTokens(config.secret_keys), budget),
            Senders(Proxies(config.trusted_proxies), config.result_sources),
            BudgetReports(pool, budget),
        )
        opened.writer.start()
        opened.budget_reports.start()
        return opened

    def close(self) -> None:
        """Store what was received, and end the threads."""
        self.writer.stop()
        self.budget_reports.stop()
