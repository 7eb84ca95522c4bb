"""The queue of an endpoint: events that are due, and the outcome of their attempts."""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg.rows import class_row

from receiver.database.arrays import bigints, smallints
from receiver.database.pool import Connection
from receiver.relay.endpoints import SECRETS, disable_endpoint
from receiver.relay.sending import SPEED, Attempt, next_wait

FAILING = timedelta(days=7) / SPEED
"""An endpoint is disabled after so long without a success."""

NOT_SENT = "It was not sent: its batch was purged, or the event is older than 30 days."
"""The error of an event that cannot be sent any more."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Owed:
    """An event that is due. `attempts`: those that failed, as JSON text."""

    id: int
    slot: int
    event: str
    batch_id: int
    subject: int | None
    owed_at: datetime
    attempts: str

    @property
    def message_id(self) -> str:
        """The same for each attempt. After a restore, the ids of events are given again, so it contains the time."""
        return f"msg_{self.id}_{(self.owed_at - _EPOCH) // timedelta(microseconds=1)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an attempt. Without one, there is nothing to send: the subject was purged."""

    owed: Owed
    attempt: Attempt | None


@dataclass(frozen=True, slots=True)
class Target:
    """An enabled endpoint, as it is now."""

    url: str
    secrets: list[str]
    failing_since: datetime | None


def list_targets(conn: Connection) -> list[int]:
    """Endpoints to which something can be sent now, the one that waits longest first."""
    found = conn.execute(
        "select e.endpoint_id from endpoint e cross join lateral (select next_try_at from owed_event o"
        " where o.endpoint_id = e.endpoint_id and o.next_try_at <= now() order by o.next_try_at limit 1) o"
        " where e.url is not null and e.disabled_at is null order by o.next_try_at",
        prepare=True,
    )
    return [endpoint_id for (endpoint_id,) in found]


def get_target(conn: Connection, endpoint_id: int) -> Target | None:
    """None: the endpoint is disabled or deleted."""
    row = conn.execute(
        f"select url, string_to_array({SECRETS}, ' '), failing_since from endpoint"
        " where endpoint_id = %s and disabled_at is null",
        (endpoint_id,),
        prepare=True,
    ).fetchone()
    return None if row is None else Target(*row)


def list_due(conn: Connection, endpoint_id: int, limit: int, besides: Collection[int]) -> list[Owed]:
    """The events that are due, except those in `besides`."""
    with conn.cursor(row_factory=class_row(Owed)) as cursor:
        return cursor.execute(
            "select event_id as id, slot, event, batch_id, subject, owed_at, coalesce(attempts::text, '[]') as attempts"
            " from owed_event where endpoint_id = %s and next_try_at <= now() and event_id <> all(%b)"
            " order by next_try_at limit %s",
            (endpoint_id, bigints(besides), limit),
            prepare=True,
        ).fetchall()


def record_outcomes(conn: Connection, endpoint_id: int, outcomes: Sequence[Outcome]) -> None:
    """Record attempts. An event that was recorded by another worker meanwhile stays as it is."""
    if not outcomes:
        return
    conn.execute("select from endpoint where endpoint_id = %s for update", (endpoint_id,), prepare=True)
    ended, later = list[tuple[Owed, str, str]](), list[tuple[Owed, datetime, str]]()
    attempts = [outcome.attempt for outcome in outcomes if outcome.attempt is not None]
    for outcome in outcomes:
        owed, attempt = outcome.owed, outcome.attempt or Attempt(datetime.now(UTC), None, 0, NOT_SENT)
        tried = [*json.loads(owed.attempts), attempt.members()]
        text = json.dumps(tried, ensure_ascii=False, separators=(",", ":"))
        # A person can send a delivered event again. Its waits begin again then.
        failures = next((number for number, each in enumerate(reversed(tried)) if each["error"] is None), len(tried))
        is_over = attempt.delivered or outcome.attempt is None
        wait = None if is_over else next_wait(failures, attempt.retry_after)
        if wait is not None:
            later.append((owed, datetime.now(UTC) + wait, text))
        else:
            ended.append((owed, "delivered" if attempt.delivered else "given_up", text))
    if attempts:
        _judge(conn, endpoint_id, attempts)
    if later:
        values = {"times": [time for _, time, _ in later], **_keys(endpoint_id, later)}
        conn.execute(_LATER, values, prepare=True)
    if ended:
        values = {"states": [state for _, state, _ in ended], **_keys(endpoint_id, ended)}
        conn.execute(_ENDED, values, prepare=True)


def _keys(endpoint_id: int, outcomes: Sequence[tuple[Owed, Any, str]]) -> dict[str, Any]:
    owed = [each for each, _, _ in outcomes]
    ids, slots = bigints(each.id for each in owed), smallints(each.slot for each in owed)
    return {"endpoint_id": endpoint_id, "ids": ids, "slots": slots, "attempts": [text for _, _, text in outcomes]}


def _judge(conn: Connection, endpoint_id: int, attempts: Sequence[Attempt]) -> None:
    """Note since when the endpoint fails, and disable it if it wants that, or has failed for too long."""
    if any(attempt.delivered for attempt in attempts):
        conn.execute(
            "update endpoint set failing_since = null where endpoint_id = %s and failing_since is not null",
            (endpoint_id,),
            prepare=True,
        )
    else:
        failing = conn.execute(
            "update endpoint set failing_since = now() where endpoint_id = %s and failing_since is null",
            (endpoint_id,),
            prepare=True,
        )
        since = None if failing.rowcount else get_target(conn, endpoint_id)
        if since is not None and since.failing_since and datetime.now(UTC) - since.failing_since > FAILING:
            disable_endpoint(conn, endpoint_id, "failing")
    if any(attempt.gone for attempt in attempts):
        disable_endpoint(conn, endpoint_id, "gone")


# An event is named by its slot too, so that only one partition is searched for it.
_LATER = """
update owed_event o set next_try_at = n.next_try_at, attempts = n.attempts
from unnest(%(ids)b::bigint[], %(slots)b::smallint[], %(times)s::timestamptz[], %(attempts)s::json[])
    as n (event_id, slot, next_try_at, attempts)
where o.endpoint_id = %(endpoint_id)s and o.event_id = n.event_id and o.slot = n.slot
"""

_ENDED = """
with n as (
    select * from unnest(%(ids)b::bigint[], %(slots)b::smallint[], %(states)s::text[], %(attempts)s::json[])
        as n (event_id, slot, state, attempts)
), gone as (
    delete from owed_event o using n
    where o.endpoint_id = %(endpoint_id)s and o.event_id = n.event_id and o.slot = n.slot
    returning o.event_id, o.slot, o.event, o.batch_id, o.subject, o.owed_at, n.state, n.attempts
), ended as (
    insert into delivery (endpoint_id, event_id, slot, event, batch_id, subject, owed_at, state, attempts)
    select %(endpoint_id)s, event_id, slot, event, batch_id, subject, owed_at, state, attempts from gone
    returning slot, state
), counted as (
    select slot, count(*) filter (where state = 'delivered') as delivered,
        count(*) filter (where state = 'given_up') as given_up
    from ended group by slot order by slot
)
insert into endpoint_count as c (endpoint_id, slot, delivered, given_up)
select endpoint_id, slot, delivered, given_up from counted join endpoint on endpoint_id = %(endpoint_id)s
on conflict (endpoint_id, slot, part) do update set delivered = c.delivered + excluded.delivered,
    given_up = c.given_up + excluded.given_up
"""
