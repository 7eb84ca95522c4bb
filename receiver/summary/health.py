"""Whether the workers are alive: when one was last seen, and how long the oldest callback has waited."""

from __future__ import annotations

from dataclasses import dataclass

from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection


@dataclass(frozen=True, slots=True)
class Health:
    """Ages in whole seconds. None: no worker was ever seen, or no callback waits."""

    worker_seen_seconds: int | None
    oldest_waiting_seconds: int | None


def get_health(conn: Connection) -> Health:
    row = conn.execute(
        "select (select extract(epoch from now() - max(seen_at))::bigint from worker),"
        " (select extract(epoch from now() - received_at)::bigint from waiting"
        f"  where callback_id >= {LOW_WATER_MARK} order by callback_id limit 1)"
    ).fetchone()
    return Health(*row) if row is not None else Health(None, None)
