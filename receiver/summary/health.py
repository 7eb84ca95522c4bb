"""Whether the workers are alive: when one was last seen, and how long the oldest callback has waited."""

from __future__ import annotations

from dataclasses import dataclass

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.release.presence import WORKER_SECONDS

WAITING_SECONDS = 60
"""A callback that waits longer for its settlement needs attention."""


@dataclass(frozen=True, slots=True)
class Health:
    """Ages in whole seconds. None: no worker was ever seen, or no callback waits."""

    worker_seen_seconds: int | None
    oldest_waiting_seconds: int | None

    @property
    def worker_gone(self) -> bool:
        return self.worker_seen_seconds is None or self.worker_seen_seconds > WORKER_SECONDS

    @property
    def settles_late(self) -> bool:
        return (self.oldest_waiting_seconds or 0) > WAITING_SECONDS


def get_health(conn: Connection) -> Health:
    row = conn.execute(
        "select (select extract(epoch from now() - max(seen_at))::bigint from worker),"
        " (select extract(epoch from now() - received_at)::bigint from waiting"
        f"  where callback_id >= {LOW_WATER_MARK} order by callback_id limit 1)"
    ).fetchone()
    return Health(*row) if row is not None else Health(None, None)
