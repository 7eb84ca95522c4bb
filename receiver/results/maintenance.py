"""The slow steps of a worker: report overdue calls, fetch results, extend the feed, remove what is old."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

from psycopg.errors import LockNotAvailable

from receiver.changes.audit import SYSTEM
from receiver.changes.feed import AT_ONCE, give_positions
from receiver.changes.slots import rotate
from receiver.config import Config
from receiver.database.pool import Pool, connection
from receiver.logs import about
from receiver.release.provider import Provider
from receiver.results.overdue import mark_overdue
from receiver.results.polls import plan_polls
from receiver.results.recovery import poll_once
from receiver.results.retention import claim_purge, purge

OVERDUE_CHECK_SECONDS = 2.0
"""Interval between two checks for overdue calls. They must be counted within five seconds."""

PLAN_SECONDS = 10.0
"""Interval between two searches for overdue calls whose results can be requested from the provider."""

POLLERS = 2
"""Parallel requests for results: while one waits for its answer, the other keeps the rate."""

POLL_SECONDS = 20.0
"""The longest wait for the provider's answer to such a request."""

IDLE_SECONDS = 2.0
PURGE_SECONDS = 60.0
ROTATE_SECONDS = 60.0

FEED_SECONDS = 0.2
"""Interval between two searches for results that are not in the feed yet."""

log = logging.getLogger(__name__)


class Maintenance:
    """Steps for a worker's threads. Each returns the seconds until it is repeated."""

    def __init__(self, pool: Pool, provider: Provider, config: Config, stop: threading.Event) -> None:
        self._pool = pool
        self._provider = replace(provider, read_timeout=min(provider.read_timeout, POLL_SECONDS))
        self._rate = config.result_poll_rate
        self._suppress_statuses = config.suppress_statuses
        self._age = None if config.retention_days is None else timedelta(days=config.retention_days)
        self._stop = stop

    def steps(self) -> list[tuple[str, Callable[[], float]]]:
        """The steps with their names, as far as they are configured."""
        steps: list[tuple[str, Callable[[], float]]] = [
            ("overdue", self.check_overdue),
            ("feed", self.give_positions),
            ("slots", self.rotate),
        ]
        if self._rate > 0:
            steps.append(("plan-polls", self.plan_polls))
            steps += [(f"poll-{number}", self.poll) for number in range(1, POLLERS + 1)]
        if self._age is not None:
            steps.append(("purge", self.purge))
        return steps

    def check_overdue(self) -> float:
        """Count calls that became overdue, and report their batches."""
        with connection(self._pool) as conn:
            noticed, more = mark_overdue(conn)
        for batch in noticed:
            log.warning(
                "batch %d: %d of its %d calls are overdue", batch.batch_id, batch.overdue, batch.calls,
                extra=about("batch_overdue", batch_id=batch.batch_id, overdue=batch.overdue),
            )  # fmt: skip
        return 0.0 if more else OVERDUE_CHECK_SECONDS

    def give_positions(self) -> float:
        """Add the results that changed to the feed."""
        with connection(self._pool) as conn:
            return 0.0 if give_positions(conn) == AT_ONCE else FEED_SECONDS

    def rotate(self) -> float:
        """Once an hour: remove events of more than 30 days ago."""
        try:
            with connection(self._pool) as conn:
                rotate(conn)
        except LockNotAvailable:
            log.info("old events are still being read; they are removed later", extra=about("slot_in_use"))
        return ROTATE_SECONDS

    def plan_polls(self) -> float:
        """Plan which overdue calls are asked about."""
        while not self._stop.is_set():
            with connection(self._pool) as conn:
                planned = plan_polls(conn, simulated=self._provider.simulated)
            if planned is None:
                break
            if planned.calls:
                log.info(
                    "batch %d, submission %d: fetching the results of %d overdue calls",
                    planned.batch_id, planned.submission_no, planned.calls,
                    extra=about("polls_planned", batch_id=planned.batch_id, calls=planned.calls),
                )  # fmt: skip
        return PLAN_SECONDS

    def poll(self) -> float:
        """Request one result."""
        polled_once = poll_once(self._pool, self._provider, self._rate, self._suppress_statuses)
        if polled_once is None:
            return min(IDLE_SECONDS, 1 / self._rate)
        poll, polled, reason = polled_once
        level = logging.WARNING if polled == "paused" else logging.INFO
        log.log(
            level, "batch %d, row %d: fetched the result, try %d: %s%s",
            poll.batch_id, poll.row, poll.tries, polled, f" ({reason})" if reason else "",
            extra=about("call_polled", batch_id=poll.batch_id, row=poll.row, result=polled),
        )  # fmt: skip
        return 0.0

    def purge(self) -> float:
        """Once a day: remove batches that are older than RETENTION_DAYS."""
        assert self._age is not None  # noqa: S101 else it is not a step
        with connection(self._pool) as conn:
            is_due = claim_purge(conn)
        if not is_due:
            return PURGE_SECONDS
        with connection(self._pool) as conn:
            for removed in purge(conn, self._age, by=SYSTEM):
                conn.commit()
                if removed.ended:
                    about_batch = about("batch_purged", batch_id=removed.batch_id)
                    log.info("batch %d: purged", removed.batch_id, extra=about_batch)
                if self._stop.is_set():
                    break
        return PURGE_SECONDS
