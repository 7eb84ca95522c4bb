"""The deliveries of an endpoint: one for each event that is or was owed to it, with its attempts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from psycopg.rows import class_row

from receiver.changes.audit import record_change
from receiver.database.arrays import bigints
from receiver.database.pool import Connection
from receiver.relay.endpoints import CHOSEN, DUE, change_in_parts, get_endpoint, lock_endpoint
from receiver.relay.queue import NOT_SENT

DeliveryState = Literal["waiting", "delivered", "given_up"]
DELIVERY_STATES: tuple[DeliveryState, ...] = get_args(DeliveryState)

SEARCHED = 200_000
"""How many ids are searched at once for an event or a batch: no index has them, and there can be millions."""

LATE = timedelta(hours=1)
"""An endpoint is behind if an event has been waiting for longer than this."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One event. `subject`: the row of a call, the number of a submission, or the id of a callback, by the event."""

    id: int
    event: str
    batch_id: int
    subject: int | None
    state: DeliveryState
    owed_at: datetime
    next_try_at: datetime | None
    ended_at: datetime | None
    attempts: list[dict[str, Any]]

    @property
    def row(self) -> int | None:
        return self.subject if self.event == "call.result" else None

    @property
    def submission_id(self) -> int | None:
        return self.subject if self.event.startswith("submission.") else None

    @property
    def callback_id(self) -> int | None:
        return self.subject if self.event.startswith("callback.") else None


_COLUMNS = "event_id as id, event, batch_id, subject, owed_at, coalesce(attempts, '[]') as attempts"
_WANTED = """endpoint_id = %(endpoint_id)s and event_id < %(before)s and event_id > %(after)s
    and (%(event)s::text is null or event = %(event)s) and (%(batch_id)s::bigint is null or batch_id = %(batch_id)s)
    order by event_id desc limit %(limit)s"""
_WAITING = f"""select {_COLUMNS}, 'waiting' as state, next_try_at, null::timestamptz as ended_at from owed_event
    where {_WANTED}"""
_ENDED = f"""select {_COLUMNS}, state, null::timestamptz as next_try_at, ended_at from delivery
    where state = '{{state}}' and {_WANTED}"""


@dataclass(frozen=True, slots=True)
class DeliveryFilter:
    """Which deliveries are listed: those that match all that is given."""

    state: DeliveryState | None = None
    event: str | None = None
    batch_id: int | None = None


def list_deliveries(
    conn: Connection, endpoint_id: int, limit: int, wanted: DeliveryFilter, before: int | None = None, after: int = 0
) -> list[Delivery]:
    """Deliveries, newest event first, those with an id below `before` and above `after`. Raises NotFound."""
    get_endpoint(conn, endpoint_id)
    states = DELIVERY_STATES if wanted.state is None else (wanted.state,)
    queries = [_WAITING if state == "waiting" else _ENDED.format(state=state) for state in states]
    union = " union all ".join(f"({query})" for query in queries)
    values: dict[str, Any] = {"endpoint_id": endpoint_id, "before": before or 2**62, "after": after, "limit": limit}
    values |= {"event": wanted.event, "batch_id": wanted.batch_id}
    with conn.cursor(row_factory=class_row(Delivery)) as cursor:
        return cursor.execute(f"select * from ({union}) u order by id desc limit %(limit)s", values).fetchall()


def search_deliveries(
    conn: Connection, endpoint_id: int, limit: int, wanted: DeliveryFilter, before: int | None = None
) -> tuple[list[Delivery], int | None]:
    """A page of `list_deliveries`, and the `before` of the next page, or None. Raises NotFound.

    A page of an event or a batch ends after SEARCHED ids, also if nothing was found.
    """
    after, any_of_state = 0, DeliveryFilter(wanted.state)
    if wanted != any_of_state:
        newest = list_deliveries(conn, endpoint_id, 1, any_of_state, before)
        after = max(newest[0].id - SEARCHED, 0) if newest else 0
    found = list_deliveries(conn, endpoint_id, limit + 1, wanted, before, after)
    if len(found) > limit:
        return found[:limit], found[limit - 1].id
    older = after and list_deliveries(conn, endpoint_id, 1, any_of_state, after + 1)
    return found, after + 1 if older else None


def list_failures(conn: Connection, endpoint_ids: Sequence[int]) -> dict[int, dict[str, Any]]:
    """The last failed attempt at the event of each endpoint that is tried again last, or was given up last."""
    found = conn.execute(_FAILURES, (bigints(endpoint_ids),)).fetchall()
    return {endpoint_id: read_attempt(attempt) for endpoint_id, attempt in found}


def read_attempt(stored: dict[str, Any]) -> dict[str, Any]:
    """An attempt with its time."""
    return stored | {"at": datetime.fromisoformat(stored["at"])}


_FAILURES = """
select e.id, coalesce(w.attempts -> -1, g.attempts -> -1) from unnest(%b::bigint[]) e (id)
left join lateral (
    select attempts from owed_event where endpoint_id = e.id order by next_try_at desc limit 1
) w on true left join lateral (
    select attempts from delivery where endpoint_id = e.id and state = 'given_up' order by event_id desc limit 1
) g on true where coalesce(w.attempts -> -1, g.attempts -> -1) is not null
"""


@dataclass(frozen=True, slots=True)
class Debt:
    """What waits for those endpoints that are disabled, or for those that are behind (LATE)."""

    disabled: bool
    endpoints: int
    waiting: int
    oldest_at: datetime | None


def list_debts(conn: Connection) -> list[Debt]:
    """The debts that need attention: of disabled endpoints, and of those that are behind."""
    with conn.cursor(row_factory=class_row(Debt)) as cursor:
        return cursor.execute(_DEBTS, (LATE,)).fetchall()


_DEBTS = """
select e.disabled_at is not null as disabled, count(*) as endpoints, sum(c.waiting)::bigint as waiting,
    min(o.owed_at) as oldest_at
from endpoint e left join lateral (
    select owed_at from owed_event where endpoint_id = e.endpoint_id order by event_id limit 1
) o on true cross join lateral (
    select coalesce(sum(owed - delivered - given_up), 0) as waiting from endpoint_count
    where endpoint_id = e.endpoint_id
) c where e.url is not null and (e.disabled_at is not null or o.owed_at < now() - %s)
group by 1 order by 1 desc
"""


def retry_deliveries(
    conn: Connection,
    endpoint_id: int,
    *,
    by: str,
    ids: Sequence[int] | None = None,
    state: Literal["waiting", "given_up"] | None = None,
    since: datetime | None = None,
) -> int:
    """Send events again now; returns how many. Commits after each AT_ONCE. Raises NotFound.

    `ids`: these, also if they were delivered. `state`: all in this state. `since`: all that were owed then or later and
    were not delivered. What waits becomes due; what was given up is owed again, unless it cannot be sent any more.
    """
    chosen = {"ids": None if ids is None else bigints(ids), "since": since, "not_sent": NOT_SENT}
    given = {"ids": None if ids is None else len(ids), "state": state, "since": None if since is None else str(since)}
    details = {"endpoint_id": endpoint_id, **{name: value for name, value in given.items() if value is not None}}
    statements = [_OWED_AGAIN] * (state != "waiting") + [DUE] * (state != "given_up")
    lock_endpoint(conn, endpoint_id)
    record_change(conn, by, "retry_deliveries", details=details)
    retried = sum(change_in_parts(conn, endpoint_id, statement, chosen) for statement in statements)
    # What is given up once more needs attention again.
    conn.execute(
        "update endpoint set seen_given_up = least(seen_given_up, %s) where endpoint_id = %s",
        (get_endpoint(conn, endpoint_id).given_up, endpoint_id),
    )
    return retried


def acknowledge_given_up(conn: Connection, endpoint_id: int, *, by: str, note: str | None = None) -> None:
    """Mark the events that were given up as seen. Later ones need attention. Raises NotFound."""
    found = lock_endpoint(conn, endpoint_id)
    conn.execute("update endpoint set seen_given_up = %s where endpoint_id = %s", (found.given_up, endpoint_id))
    if found.unseen_given_up:
        details = {"endpoint_id": endpoint_id, "given_up_events": found.unseen_given_up}
        record_change(conn, by, "acknowledge", details=details, note=note)


_OWED_AGAIN = f"""
with chosen as (
    select state, event_id, slot from delivery
    where state = any(case when %(ids)b::bigint[] is null then '{{given_up}}' else '{{given_up,delivered}}'::text[] end)
        and attempts -> -1 ->> 'error' is distinct from %(not_sent)s and {CHOSEN}
), again as (
    delete from delivery d using chosen c
    where d.endpoint_id = %(endpoint_id)s and d.state = c.state and d.event_id = c.event_id and d.slot = c.slot
    returning d.*
), owed as (
    insert into owed_event (endpoint_id, event_id, slot, event, batch_id, subject, owed_at, attempts)
    select endpoint_id, event_id, slot, event, batch_id, subject, owed_at, attempts from again returning slot
), counted as (
    select slot, count(*) filter (where state = 'delivered') as delivered,
        count(*) filter (where state = 'given_up') as given_up from again group by slot
), less as (
    insert into endpoint_count as c (endpoint_id, slot, delivered, given_up)
    select %(endpoint_id)s, slot, -delivered, -given_up from counted
    on conflict (endpoint_id, slot, part) do update set delivered = c.delivered + excluded.delivered,
        given_up = c.given_up + excluded.given_up
)
select count(*) from owed
"""
