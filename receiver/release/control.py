"""What people do with a batch that is on its way: pause, resume, cancel, and change what is unreleased.

All of these take the batch's lock, as a claim does. So what was claimed before is finished, and nothing is claimed
afterwards that the change holds back.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from receiver.changes.audit import record_change
from receiver.changes.events import REMAINING, Events
from receiver.database.locks import lock_batch
from receiver.database.pool import Connection
from receiver.errors import Fault, InvalidInput, ReceiverError
from receiver.queueing.batches import get_now, set_external_id
from receiver.release.calls import withdraw_pending
from receiver.release.states import refresh_state
from receiver.schedule import TERMS, Terms, earliest, estimate_due_at, has_common_hours


class NothingUnreleased(ReceiverError):
    """The change is about what was not released yet, and there is nothing left of it."""

    code = "nothing_unreleased"


class NotCutByZone(ReceiverError):
    """The batch was queued without calling hours, so its submissions have no time zones."""

    code = "not_cut_by_zone"


@dataclass(frozen=True, slots=True)
class Canceled:
    """`withdrawn`: calls withdrawn now. `at_provider`: calls that were sent, have no result yet, and continue."""

    withdrawn: int
    at_provider: int


def pause_batch(conn: Connection, batch_id: int, *, by: str, note: str | None = None) -> bool:
    """Release nothing further; False if that changes nothing. A request in progress is finished. Raises NotFound."""
    change = "paused_at = now() where paused_at is null and state = 'queueing'"
    return _change_pause(conn, batch_id, change, by, "pause", note)


def resume_batch(conn: Connection, batch_id: int, *, by: str, note: str | None = None) -> bool:
    """Go on releasing at the previous pace; False if that changes nothing. Raises NotFound."""
    change = "paused_at = null, resumed_at = now() where paused_at is not null"
    return _change_pause(conn, batch_id, change, by, "resume", note)


def _change_pause(conn: Connection, batch_id: int, change: str, by: str, action: str, note: str | None) -> bool:
    lock_batch(conn, batch_id)
    changed = conn.execute(f"update batch set {change} and batch_id = %s", (batch_id,)).rowcount
    if changed:
        record_change(conn, by, action, batch_id=batch_id, note=note)
    return changed == 1


def cancel_batch(conn: Connection, batch_id: int, *, by: str, note: str | None = None) -> Canceled:
    """Withdraw everything unreleased; nothing of the batch becomes pending again. Raises NotFound."""
    lock_batch(conn, batch_id)
    events = Events()
    canceled = cancel_locked(conn, batch_id, events, by=by, note=note)
    events.write(conn)
    return canceled


def cancel_locked(conn: Connection, batch_id: int, events: Events, *, by: str, note: str | None = None) -> Canceled:
    """`cancel_batch` of a batch that is locked. The caller writes the events."""
    withdrawn = withdraw_pending(conn, batch_id, events)
    first = conn.execute(
        "update batch set canceled_at = now(), paused_at = null where batch_id = %s and canceled_at is null",
        (batch_id,),
    ).rowcount
    refresh_state(conn, [batch_id], events)
    if first:
        events.add("batch.canceled", batch_id)
        record_change(conn, by, "cancel", batch_id=batch_id, details={"withdrawn": withdrawn}, note=note)
    row = conn.execute(f"select {REMAINING} from batch_total c where batch_id = %s", (batch_id,)).fetchall()[0]
    return Canceled(withdrawn, row[0])


OF_THE_REST = ("calls_per_minute", "calling_hours", "calling_days", "end_timestamp")
"""Changes that are about what is unreleased."""


def change_batch(
    conn: Connection, batch_id: int, changes: Mapping[str, Any], *, by: str, grace: timedelta = timedelta(hours=1)
) -> None:
    """Change some of `name`, `external_id` (None: none), `labels`, and of OF_THE_REST: `calls_per_minute` and
    `end_timestamp` (None: none), `calling_hours` (a pair of minutes after midnight), `calling_days` (a bit mask).
    `grace`: RESULT_GRACE.

    Raises NotFound, NothingUnreleased, NotCutByZone, ExternalIdUsed, and InvalidInput for what does not fit together.
    """
    lock_batch(conn, batch_id)
    if any(name in changes for name in OF_THE_REST):
        _change_rest(conn, batch_id, changes, grace)
    if "name" in changes:
        conn.execute("update batch set name = %s where batch_id = %s", (changes["name"], batch_id))
    if "labels" in changes:
        conn.execute("update batch set labels = %s where batch_id = %s", (Jsonb(changes["labels"]), batch_id))
    if "external_id" in changes:
        set_external_id(conn, batch_id, changes["external_id"])
    record_change(conn, by, "change", batch_id=batch_id, details={"changed": sorted(changes)})


@dataclass(frozen=True, slots=True)
class _Terms(Terms):
    """Of a batch. `largest`: calls of its largest unreleased submission, None if there is none."""

    retries: timedelta
    largest: int | None


def _change_rest(conn: Connection, batch_id: int, changes: Mapping[str, Any], grace: timedelta) -> None:
    before = _get_terms(conn, batch_id)
    if before.largest is None:
        message = "Everything in this batch was released, refused or withdrawn: nothing is left to change."
        raise NothingUnreleased(message)
    after = replace(
        before,
        calls_per_minute=changes.get("calls_per_minute", before.calls_per_minute),
        end_at=changes.get("end_timestamp", before.end_at),
        calling_days=changes.get("calling_days", before.calling_days),
    )
    if "calling_hours" in changes or "calling_days" in changes:
        if before.hours is None:
            raise NotCutByZone("This batch was queued without calling hours, so nothing is known of its time zones.")
        opens, closes = changes.get("calling_hours", (before.opens_minute, before.closes_minute))
        after = replace(after, opens_minute=opens, closes_minute=closes)
    now = get_now(conn)
    calls_of = _count_unreleased(conn, batch_id)
    moments = _next_moments(before, after, calls_of, now)
    due_at = estimate_due_at(after.gates, calls_of, after.retries, now, grace)
    conn.execute(
        "update batch b set calls_per_minute = %(calls_per_minute)s, opens_minute = %(opens_minute)s,"
        " closes_minute = %(closes_minute)s, calling_days = %(calling_days)s, end_at = %(end_at)s,"
        " next_release_at = case when %(calls_per_minute)s::integer is not null then next_release_at end,"
        " due_at = greatest(%(due_at)s,"
        "  (select max(s.due_at) from submission s where s.batch_id = b.batch_id and s.state <> 'pending'))"
        " where batch_id = %(batch_id)s",
        {**asdict(after), "batch_id": batch_id, "due_at": due_at},
    )
    for zones, moment in moments.items():
        conn.execute(
            "update submission set next_try_at = %s where batch_id = %s and state = 'pending'"
            " and coalesce(time_zones, '{}') = %s::text[]",
            (moment, batch_id, list(zones)),
        )


def _count_unreleased(conn: Connection, batch_id: int) -> dict[tuple[str, ...], int]:
    """How many calls of each set of zones are unreleased."""
    return {
        tuple(zones): calls
        for zones, calls in conn.execute(
            "select coalesce(time_zones, '{}'), sum(calls - withdrawn_calls)::integer from submission"
            " where batch_id = %s and state = 'pending' group by 1",
            (batch_id,),
        )
    }


def _next_moments(
    before: _Terms, after: _Terms, of_zones: Iterable[tuple[str, ...]], now: datetime
) -> dict[tuple[str, ...], datetime]:
    """When each set of zones opens after the change. Raises InvalidInput."""
    faults = []
    if after.calls_per_minute is not None and after.calls_per_minute < (before.largest or 0):
        message = f"The largest submission that is left has {before.largest} calls."
        faults.append(Fault("calls_per_minute", "out_of_range", message))
    if after.end_at is not None and after.end_at != before.end_at and after.end_at <= now:
        faults.append(Fault("end_timestamp", "in_the_past", "It is in the past: nobody would be called."))
    elif after.end_at is not None and after.start_at is not None and after.end_at <= after.start_at:
        faults.append(Fault("end_timestamp", "invalid", "It must be after start_timestamp."))
    moments = {}
    for zones in of_zones:
        span = earliest(after.gates, zones, now)
        if after.hours is not None and not has_common_hours(after.hours, zones, now):
            message = f"These hours have less than 30 minutes in common in {', '.join(zones)}."
            faults.append(Fault("calling_hours", "no_common_hours", message))
        elif span is None and not faults:
            where = f" in {', '.join(zones)}" if zones else ""
            message = f"The calling hours{where} do not open before the end."
            faults.append(Fault("end_timestamp", "outside_calling_hours", message))
        elif span is not None:
            moments[zones] = span.opens
    if faults:
        raise InvalidInput("Some parameters cannot be taken.", faults)
    return moments


def _get_terms(conn: Connection, batch_id: int) -> _Terms:
    with conn.cursor(row_factory=class_row(_Terms)) as cursor:
        return cursor.execute(
            f"select {TERMS},"
            " make_interval(secs => coalesce((max_attempts - 1) * reattempt_wait_seconds, 0)) as retries,"
            " (select max(s.calls - s.withdrawn_calls) from submission s"
            "  where s.batch_id = b.batch_id and s.state = 'pending') as largest"
            " from batch b where batch_id = %s",
            (batch_id,),
        ).fetchall()[0]
