"""Settling whatever waits, group by group: what the worker does all day."""

from __future__ import annotations

import logging
import time
from collections import deque
from datetime import UTC, datetime

import psycopg

from receiver.database.locks import share_results
from receiver.database.measured import Measurements
from receiver.database.pool import GAVE_WAY, DatabaseUnavailable, Pool, connection
from receiver.logs import about
from receiver.results.settlement import claim_waiting, set_aside_unsettled, settle

GROUP_CALLBACKS = 500
"""How many callbacks one transaction settles."""

WHOLE_LOOK_SECONDS = 2.0
"""How often the queue is looked through from its very beginning."""

STRAGGLER_SECONDS = 1.0
"""How long after its neighbours a callback may be committed and still be found by the next look. Ids are given before
the commit, and web processes commit beside each other."""

SETTLE = "settle"
"""What the times from received to settled are measured as."""

_TRIES = 5

log = logging.getLogger(__name__)


class Settler:
    """Takes waiting callbacks and settles them. One for each thread; any number may work at once."""

    def __init__(self, pool: Pool, measurements: Measurements | None = None) -> None:
        self._pool = pool
        self._measurements = measurements
        # When a group was claimed, and its lowest id: a look from where we were STRAGGLER_SECONDS ago spares walking
        # over what was settled but not vacuumed, each whole look finds those that were committed later still.
        self._claimed: deque[tuple[float, int]] = deque()
        self._whole_look_at = 0.0

    def settle_group(self) -> int:
        """Settle up to GROUP_CALLBACKS; returns how many. Raises DatabaseUnavailable."""
        floor = self._look_from(time.monotonic())
        for _ in range(_TRIES):
            try:
                return self._settle(GROUP_CALLBACKS, floor)
            except GAVE_WAY:
                continue  # another worker was in the way; nothing was written
            except DatabaseUnavailable:
                raise
            except Exception:
                log.exception(
                    "a group of callbacks could not be settled; settling them one by one",
                    extra=about("settle_group_failed"),
                )
                return self._settle_one_by_one()
        return 0

    def _look_from(self, now: float) -> int:
        if now >= self._whole_look_at:
            self._whole_look_at = now + WHOLE_LOOK_SECONDS
            return 0
        before = now - STRAGGLER_SECONDS
        while len(self._claimed) > 1 and self._claimed[1][0] <= before:
            self._claimed.popleft()
        return self._claimed[0][1] if self._claimed and self._claimed[0][0] <= before else 0

    def _settle(self, limit: int, floor: int) -> int:
        with connection(self._pool) as conn:
            share_results(conn)
            claimed = claim_waiting(conn, limit, floor)
            if claimed:
                settle(conn, claimed)
        if claimed:
            self._claimed.append((time.monotonic(), min(callback.callback_id for callback in claimed)))
            if self._measurements is not None:
                now = datetime.now(UTC)
                self._measurements.observe(SETTLE, [(now - each.received_at).total_seconds() for each in claimed])
        return len(claimed)

    def _settle_one_by_one(self) -> int:
        """One callback that breaks settlement must not hold up the others: it is set aside for a person."""
        settled = 0
        for _ in range(GROUP_CALLBACKS):
            with connection(self._pool) as conn:
                share_results(conn)
                claimed = claim_waiting(conn, 1)
                if not claimed:
                    break
                try:
                    with conn.transaction():
                        settle(conn, claimed)
                except psycopg.OperationalError:
                    raise
                except Exception:
                    batch_id, callback_id = claimed[0].batch_id, claimed[0].callback_id
                    log.exception(
                        "callback %d cannot be settled",
                        callback_id,
                        extra=about("callback_not_settled", batch_id=batch_id, callback_id=callback_id),
                    )
                    set_aside_unsettled(conn, claimed)
            settled += 1
        return settled
