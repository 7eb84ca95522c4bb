"""A thread that reports to the database how many callbacks this process stored for each submission."""

from __future__ import annotations

import logging
import threading

import psycopg

from receiver.database.pool import DatabaseUnavailable, Pool, connection
from receiver.intake.budget import Budget, add_stored
from receiver.logs import OncePer, about

REPORT_SECONDS = 2.0
"""Interval between two reports, if none is due sooner."""

LEAST_SECONDS = 0.1
"""Shortest interval between two reports."""

MOST_REPORTED = 1_000
"""The most submissions in one report."""

LOGGED_SECONDS = 60.0

log = logging.getLogger(__name__)
log.addFilter(OncePer(LOGGED_SECONDS))


class BudgetReports:
    """Reports what `budget` counts, until it is stopped."""

    def __init__(self, pool: Pool, budget: Budget) -> None:
        self._pool = pool
        self._budget = budget
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="callback-budget", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Report the rest, if the database is available."""
        self._stop.set()
        self._budget.due.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def report(self) -> None:
        """Report once. Raises DatabaseUnavailable or psycopg.Error; then everything is reported the next time."""
        if unreported := self._budget.list_unreported(MOST_REPORTED):
            with connection(self._pool) as conn:
                totals = add_stored(conn, unreported)
            self._budget.update(unreported, totals)

    def _run(self) -> None:
        while True:
            self._budget.due.wait(REPORT_SECONDS)
            stopping = self._stop.is_set()
            self._budget.due.clear()
            try:
                self.report()
            except DatabaseUnavailable:
                pass  # the writer logs that
            except psycopg.Error as error:
                log.warning("counts of callbacks are not reported yet: %s", error, extra=about("budget_not_reported"))
            except Exception:
                log.exception("reporting counts of callbacks failed; trying again", extra=about("budget_failed"))
            if stopping:
                return
            self._stop.wait(LEAST_SECONDS)
