"""A web process tells the database how many callbacks it stored of each submission, and learns what the others did."""

from __future__ import annotations

import logging
import threading

import psycopg

from receiver.database.pool import DatabaseUnavailable, Pool, connection
from receiver.intake.budget import Budget, add_stored
from receiver.logs import OncePer, about

REPORT_SECONDS = 2.0
"""Between two reports where none is due sooner."""

LEAST_SECONDS = 0.1
"""Between two that are."""

MOST_REPORTED = 1_000
"""Submissions of one report."""

LOGGED_SECONDS = 60.0

log = logging.getLogger(__name__)
log.addFilter(OncePer(LOGGED_SECONDS))


class BudgetReports:
    """A thread that reports what `budget` counts, until it is stopped."""

    def __init__(self, pool: Pool, budget: Budget) -> None:
        self._pool = pool
        self._budget = budget
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callback-budget", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Report what is left, if the database is there."""
        self._stop.set()
        self._budget.due.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def report(self) -> None:
        """Report once. Raises DatabaseUnavailable, psycopg.Error; then it is all reported the next time."""
        if unreported := self._budget.list_unreported(MOST_REPORTED):
            with connection(self._pool) as conn:
                told = add_stored(conn, unreported)
            self._budget.learn(unreported, told)

    def _run(self) -> None:
        while True:
            self._budget.due.wait(REPORT_SECONDS)
            stopping = self._stop.is_set()
            self._budget.due.clear()
            try:
                self.report()
            except DatabaseUnavailable:
                pass  # what matters of it is told elsewhere
            except psycopg.Error as error:
                log.warning("counts of callbacks are not reported yet: %s", error, extra=about("budget_not_reported"))
            except Exception:
                log.exception("reporting counts of callbacks failed; trying again", extra=about("budget_failed"))
            if stopping:
                return
            self._stop.wait(LEAST_SECONDS)
