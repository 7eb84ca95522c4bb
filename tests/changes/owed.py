"""What is owed to an endpoint, compared with what really changed in the rows."""

from __future__ import annotations

from typing import Any

from receiver.changes.events import REMAINING
from receiver.database.pool import Connection
from receiver.model import EVENT_TYPES

Event = tuple[str, int, int | None]
"""The event, the batch, and its subject."""


def make_endpoint(conn: Connection, **columns: Any) -> int:
    """An endpoint that wants everything. `columns`: which events, and of which batches."""
    values = {"url": "https://example.com/", "secret": "", "events": list(EVENT_TYPES), **columns}
    row = conn.execute(
        f"insert into endpoint ({', '.join(values)}) values ({', '.join(['%s'] * len(values))}) returning endpoint_id",  # noqa: S608 names of ours
        list(values.values()),
    ).fetchone()
    assert row is not None
    conn.commit()
    return int(row[0])


class Owed:
    """Watches what is owed to an endpoint that wants everything, and what is in the queue of the feed."""

    def __init__(self, conn: Connection) -> None:
        self._conn = conn
        self._endpoint_id = make_endpoint(conn)
        self._seen = {change_id for change_id, *_ in self._read_feed()}
        self._seen_events: set[int] = set()
        self._before = self._read_rows()

    def new(self) -> list[Event]:
        """What was committed since the last time, sorted. The feed must have the same results, and the counter of the
        endpoint must agree with its rows."""
        conn, given = self._conn, {"id": self._endpoint_id}
        conn.commit()
        owed = conn.execute(
            "select event_id, event, batch_id, subject from owed_event where endpoint_id = %(id)s", given
        ).fetchall()
        counted = conn.execute(
            "select coalesce(sum(owed), 0) from endpoint_count where endpoint_id = %(id)s", given
        ).fetchone()
        assert counted == (len(owed),)
        fed = self._read_feed()
        events = sorted(((event, *subject) for id_, event, *subject in owed if id_ not in self._seen_events), key=str)
        results = [("call.result", *call) for id_, *call in fed if id_ not in self._seen]
        assert [each for each in events if each[0] == "call.result"] == sorted(results, key=str)
        self._seen_events = {event_id for event_id, *_ in owed}
        self._seen = {change_id for change_id, *_ in fed}
        return events

    def _read_feed(self) -> list[tuple[int, int, int]]:
        """(change_id, batch_id, row)"""
        found = self._conn.execute("select change_id, batch_id, unnest(rows) from changed_results").fetchall()
        self._conn.commit()
        return found

    def check(self) -> list[Event]:
        """Assert that exactly what changed in the rows since the last time is owed; returns it."""
        owed, before, after = self.new(), self._before, self._read_rows()
        self._before = after
        changed = {key for key in before["result"].keys() | after["result"] if
                   before["result"].get(key) != after["result"].get(key)}  # fmt: skip
        expected: list[Event] = [("call.result", *key) for key in changed]
        expected += [
            ("batch.ended", key, None)
            for key, remaining in after["remaining"].items()
            if remaining == 0 and before["remaining"].get(key, 1) > 0
        ]
        for event in ("batch.overdue", "batch.refused", "batch.canceled"):
            expected += [(event, key, None) for key in after[event].keys() - before[event].keys()]
        for event in ("submission.unknown", "submission.refused", "callback.unreadable"):
            expected += [(event, *key) for key in after[event].keys() - before[event].keys()]
        assert owed == sorted(expected, key=str)
        return owed

    def _read_rows(self) -> dict[str, dict[Any, Any]]:
        self._conn.commit()
        keyed = {
            "result": "select batch_id, row, callback_id, outcome, provider_status, attempts, max_attempts, queued_at,"
            " started_at, ended_at, duration_seconds from result where outcome is not null",
            "remaining": f"select batch_id, {REMAINING} from batch_total c join batch using (batch_id)",  # noqa: S608 names of ours
            "batch.overdue": "select batch_id, 0 from batch where overdue_noticed",
            "batch.refused": "select batch_id, 0 from batch where state = 'refused'",
            "batch.canceled": "select batch_id, 0 from batch where canceled_at is not null",
            "submission.unknown": "select batch_id, submission_no, 0 from submission where state = 'unknown'",
            "submission.refused": "select batch_id, submission_no, 0 from submission where state = 'refused'",
            "callback.unreadable": "select batch_id, callback_id, 0 from set_aside where state = 'unreadable'",
        }
        found: dict[str, dict[Any, Any]] = {}
        for name, query in keyed.items():
            width = 1 if name.startswith("batch") or name == "remaining" else 2
            found[name] = {
                row[0] if width == 1 else row[:2]: row[width:] if len(row) > width + 1 else row[width]
                for row in self._conn.execute(query)
            }
        self._conn.commit()
        return found
