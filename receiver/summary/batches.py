"""Batches with their balance, read from counters: the same cost for ten calls and for ten million."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any, NamedTuple

from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from receiver.changes.events import REMAINING
from receiver.database.conditions import all_given
from receiver.database.low_water_mark import LOW_WATER_MARK
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import CALLBACK_STATES, OUTCOMES, BatchPhase, BatchState, SubmissionState
from receiver.queueing.form_fields import days_text, hours_text


@dataclass(frozen=True, slots=True)
class Loss:
    """Results that the provider did not deliver in time, in batches that are due. They were fetched by polling, or are
    missing. A result that was delivered after it was fetched also counts, because its call was already overdue.

    `due`: calls that should have a result. `overdue`: calls without one. `polled`: calls whose result was fetched.
    """

    due: int
    overdue: int
    polled: int

    @property
    def rate(self) -> float | None:
        """The share of results that were never delivered; None if there is no call."""
        return round((self.overdue + self.polled) / self.due, 6) if self.due else None


class Submission(NamedTuple):
    id: int
    """Its number in the batch, from 1."""
    state: SubmissionState
    calls: int
    calls_queued: int | None
    """The number that the provider reported. It can differ from `calls`."""
    provider_status: int | None
    error: str | None
    error_code: str | None
    time_zone: str | None
    """One name, or several joined by commas."""
    release_at: str | None
    """When it was released, or the earliest time when it can be; null while it is paused."""
    due_at: str | None


SUBMISSIONS_LISTED = 100
"""Most submissions of a batch that come with it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch with its balance: the equations of the balance hold for `counts` and `callbacks`."""

    id: int
    name: str
    external_id: str | None
    labels: dict[str, str]
    application_id: int
    deployment_id: int
    state: BatchState
    phase: BatchPhase
    simulated: bool
    """Whether it was made for a simulator, which calls nobody."""
    follows: int | None
    """The batch whose calls it follows up."""
    follow_ups: list[int]
    left_out: dict[str, int] | None
    """How many rows of the earlier batch were not chosen, by reason."""
    created_by: str | None
    parameters: dict[str, Any]
    created_at: datetime
    queued_at: datetime | None
    due_at: datetime
    due_at_estimated: bool
    paused_at: datetime | None
    """None once nothing is unreleased; but what turns out not to have been sent is still held back."""
    ended_at: datetime | None
    submissions_total: int
    submissions_json: str
    """`submissions` as the API writes them, SUBMISSIONS_LISTED at most, those that need attention first. Whoever waits
    for results asks every few seconds: Postgres writes them, instead of Python reading, converting and writing them."""
    counts: dict[str, int]
    callbacks: dict[str, int]
    attempts: int
    duration_seconds: int
    progress: float
    """final / (rows - skipped - refused - withdrawn); 1.0 where there was nobody to call."""
    first_result_at: datetime | None
    last_result_at: datetime | None
    loss_rate: float | None
    """See `Loss`; None before the batch is due."""

    @property
    def submissions(self) -> tuple[Submission, ...]:
        return tuple(Submission(**members) for members in json.loads(self.submissions_json))


@dataclass(frozen=True, slots=True)
class BatchFilter:
    """The conditions of a list of batches; None: no condition."""

    state: str | None = None
    phase: str | None = None
    """One phase, or several with commas between them."""
    application_id: int | None = None
    deployment_id: int | None = None
    created_from: datetime | None = None
    created_to: datetime | None = None
    name: str | None = None
    """Any part of the name, case aside."""
    text: str | None = None
    """Any part of the name, the external id, or a label as `name: value` or `name:value`, case aside."""
    external_id: str | None = None
    idempotency_key: str | None = None
    label: tuple[str, str] | None = None
    """Its name and its value."""
    running: bool | None = None
    """Whether calls are still being queued or made."""
    overdue: bool | None = None
    """Whether calls are overdue."""
    submission_state: SubmissionState | None = None
    """The state of at least one of its submissions."""
    lineage: int | None = None
    """The first batch, and those that follow from it."""
    not_sent_by: bool | None = None
    """Batches with unsent submissions that were not made for this kind of provider (True: a simulator)."""


_UNRELEASED = """select q.batch_id from batch q where q.state = 'queueing' and exists (select from submission u
    where u.batch_id = q.batch_id and u.state = 'pending')"""
"""SQL: the batches of which something waits to be released."""

_RELEASED = f"case when {REMAINING} > c.overdue then 'calling' when {REMAINING} > 0 then 'overdue' else 'ended' end"
"""SQL: the phase of a batch of which everything was released."""


def _phase(batch_id: str, released: str, condition: str = "") -> str:
    """SQL: the phase of batch `b`. `batch_id`, `released`: SQL for its id, and for its phase once everything is
    released. `condition`: limits which batches `q` are read."""
    return f"""case when {batch_id} in ({_UNRELEASED}{condition}) then case when b.paused_at is not null then 'paused'
        when b.last_release_at is null then 'scheduled' else 'releasing' end else {released} end"""


PAST_DUE = "b.due_at < now() and b.state <> 'queueing'"
"""SQL: all submissions of batch `b` are due."""


def sql_time(moment: str) -> str:
    """SQL: a time as `rfc3339` writes it. Of a session in UTC, as all of ours are."""
    return f"""replace(to_char({moment}, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'), '.000000Z', 'Z')"""


RELEASE_AT = """case when s.released_at is not null then s.released_at
    when s.state = 'pending' and b.paused_at is null then greatest(s.next_try_at, b.next_release_at) end"""
"""SQL: when submission `s` of batch `b` was released, or can be at the earliest."""

DUE_AT = "case when s.released_at is not null then s.due_at end"
"""SQL: the due time of submission `s`; null if it is sent again, because its last try was not queued."""

_LISTED = f"""s.submission_no as id, s.state, s.calls, s.calls_queued, s.provider_status, s.error, s.error_code,
    array_to_string(s.time_zones, ',') as time_zone, {sql_time(RELEASE_AT)} as release_at,
    {sql_time(DUE_AT)} as due_at"""

_COLUMNS = f"""b.batch_id as id, b.name, x.external_id, b.labels, b.application_id, b.deployment_id, b.state,
    coalesce(b.simulated, false) as simulated, b.follows, b.left_out, b.created_by,
    b.start_at as start_timestamp, b.end_at as end_timestamp, b.max_attempts,
    b.reattempt_wait_seconds as reattempt_wait, b.is_pci, b.calls_per_minute, b.opens_minute, b.closes_minute,
    b.calling_days, b.time_zone, b.created_at, b.queued_at, b.due_at, b.paused_at, b.decided_at,
    {PAST_DUE} as past_due, b.submissions as submissions_total,
    c.rows, c.skipped, c.refused, c.withdrawn, c.overdue, c.completed, c.failed, c.canceled, c.rejected, c.other,
    c.applied, c.duplicate, c.conflict, c.unmatched, c.unreadable,
    c.attempts, c.duration_seconds, c.polled, c.first_result_at, c.last_result_at"""

_TABLES = "batch b join batch_total c using (batch_id) left join external_id x using (batch_id)"

_IN_DOUBT = "state in ('unknown', 'refused')"

# One statement, so that all figures are of the same moment. Subqueries depend on no row but that of the batch.
_ONE = f"""
select {_COLUMNS}, {_phase("b.batch_id", _RELEASED, " and q.batch_id = %(batch_id)s")} as phase,
    array(select f.batch_id from batch f where f.first_batch_id =
        (select coalesce(o.first_batch_id, o.batch_id) from batch o where o.batch_id = %(batch_id)s)
        and f.follows = %(batch_id)s order by 1) as follow_ups,
    (select count(*) from waiting w where w.batch_id = %(batch_id)s and w.callback_id >= {LOW_WATER_MARK}) as waiting
    {{submissions}}
from {_TABLES} where b.batch_id = %(batch_id)s
"""

# The second list ends early, however many submissions there are.
_SUBMISSIONS_OF_ONE = f""",
    (select json_agg(each)::text from (
        (select {_LISTED} from submission s where s.batch_id = b.batch_id and {_IN_DOUBT}
            order by s.state = 'refused', s.submission_no limit {SUBMISSIONS_LISTED})
        union all
        (select {_LISTED} from submission s where s.batch_id = b.batch_id and not {_IN_DOUBT}
            order by s.submission_no limit {SUBMISSIONS_LISTED})
        limit {SUBMISSIONS_LISTED}
    ) as each) as submissions_json
"""

# The same of several batches, in forms that a distributed Postgres can run. Each part is read once: with the ids as an
# array, no plan reads a whole table, and `materialized` keeps a plan from reading it again for each batch.
_EACH = f"""
with page as materialized (
    select {_COLUMNS}, {_RELEASED} as released, coalesce(b.first_batch_id, b.batch_id) as first_batch_id,
        b.last_release_at, b.next_release_at
    from {_TABLES} where {{where}}
), followed as materialized (
    select follows as id, array_agg(batch_id order by batch_id) as follow_ups from batch
    where first_batch_id = any(array(select first_batch_id from page)) and follows = any(array(select id from page))
    group by 1
), waits as materialized (
    select batch_id as id, count(*) as waiting from waiting
    where batch_id = any(array(select id from page)) and callback_id >= {LOW_WATER_MARK} group by 1
){{submissions}}
select *, {_phase("id", "released", " and q.batch_id = any(array(select id from page))")} as phase
from page b left join followed using (id) left join waits using (id) {{with_submissions}} order by id desc
"""

# The order makes Postgres use the index on a submission's number, which ends early.
_SUBMISSIONS_OF_EACH = f""", listed as materialized (
    select batch_id as id, json_agg(listed)::text as submissions_json from (
        select s.batch_id, listed, row_number() over (partition by s.batch_id
            order by case s.state when 'unknown' then 0 when 'refused' then 1 else 2 end, s.submission_no) as place
        from (
            select * from submission where batch_id = any(array(select id from page)) and {_IN_DOUBT}
            union all
            (select * from submission where batch_id = any(array(select id from page)) and not {_IN_DOUBT}
                and submission_no <= {SUBMISSIONS_LISTED} order by batch_id, submission_no)
        ) s join page b on b.id = s.batch_id cross join lateral (select {_LISTED}) as listed
    ) as each where place <= {SUBMISSIONS_LISTED} group by 1
)"""


def get_batch(conn: Connection, batch_id: int, *, with_submissions: bool = True) -> Batch:
    """One batch; without its submissions the cost does not depend on their number. Raises NotFound."""
    query = _ONE.format(submissions=_SUBMISSIONS_OF_ONE if with_submissions else "")
    # The view takes a seventh of the time, and only a busy batch has parts that it must add.
    in_one_row = (
        query.replace("batch_total", "batch_count") + " and not exists (select from batch_count_part"
        " where batch_id = %(batch_id)s)"
    )
    found = _read(conn, in_one_row, {"batch_id": batch_id}) or _read(conn, query, {"batch_id": batch_id})
    if not found:
        raise NotFound(f"Batch {batch_id} does not exist.")
    return found[0]


def get_default_region(conn: Connection, batch_id: int) -> str:
    """The country of numbers without a country code in the batch's CSV. Raises NotFound."""
    row = conn.execute("select default_region from batch where batch_id = %s", (batch_id,)).fetchone()
    if row is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    region: str = row[0]
    return region


def list_batches(
    conn: Connection, wanted: BatchFilter, limit: int, before: int | None = None, *, with_submissions: bool = True
) -> list[Batch]:
    """Batches, newest first, with ids below `before`."""
    where, values = where_of(wanted)
    # A fixed limit lets Postgres keep one plan. For a rare state it must not: a plan for all states reads every batch.
    is_fixed = (wanted.state, wanted.submission_state, wanted.not_sent_by) == (None, None, None)
    older, most = "true" if before is None else "b.batch_id < %s", limit if is_fixed else "%s"
    query = _EACH.format(
        where=f"{where} and {older} order by b.batch_id desc limit {most}",
        submissions=_SUBMISSIONS_OF_EACH if with_submissions else "",
        with_submissions="left join listed using (id)" if with_submissions else "",
    )
    return _read(conn, query, [*values, *([] if before is None else [before]), *([] if is_fixed else [limit])])


def where_of(wanted: BatchFilter) -> tuple[str, list[Any]]:
    """SQL: the condition for batch `b`, and its values. Some conditions also need the tables of a list of batches."""
    conditions = {
        "b.state = %s": wanted.state,
        "b.application_id = %s": wanted.application_id,
        "b.deployment_id = %s": wanted.deployment_id,
        "b.created_at >= %s": wanted.created_from,
        "b.created_at < %s": wanted.created_to,
        "position(lower(%s) in lower(b.name)) > 0": wanted.name,
        "position(lower(%s) in lower(concat_ws(e'\\n', b.name, x.external_id, (select string_agg(concat(l.key, ': ',"
        " l.value, e'\\n', l.key, ':', l.value), e'\\n') from jsonb_each_text(b.labels) l)))) > 0": wanted.text,
        f"(b.state = 'queueing' or {REMAINING} > c.overdue) = %s": wanted.running,
        f"(c.overdue > c.acknowledged_overdue and {REMAINING} > 0) = %s": wanted.overdue,
        f"{_phase('b.batch_id', _RELEASED)} = any(string_to_array(%s, ','))": wanted.phase,
        "x.external_id = %s": wanted.external_id,
        "b.batch_id in (select batch_id from idempotency where idempotency_key = %s)": wanted.idempotency_key,
        "b.labels @> %s": None if wanted.label is None else Jsonb(dict([wanted.label])),
        "%s in (b.batch_id, b.first_batch_id)": wanted.lineage,
        "exists (select from submission s where s.batch_id = b.batch_id and s.state = %s"
        " and s.acknowledged_at is null)": wanted.submission_state,
        "b.simulated <> %s and exists (select from submission s"
        " where s.batch_id = b.batch_id and s.state = 'pending')": wanted.not_sent_by,
    }
    return all_given(conditions)


def _read(conn: Connection, query: str, values: Sequence[Any] | Mapping[str, Any]) -> list[Batch]:
    with conn.cursor(row_factory=dict_row) as cursor:
        return [_batch(row) for row in cursor.execute(query, values)]


def _batch(row: dict[str, Any]) -> Batch:
    callbacks: dict[str, int] = {state: row[state] or 0 for state in CALLBACK_STATES}
    counts = balance(row)
    callable_rows = counts["rows"] - counts["skipped"] - counts["refused"] - counts["withdrawn"]
    days, decided_at = row["calling_days"], row["decided_at"] or row["queued_at"]
    hours = None if row["opens_minute"] is None else hours_text(row["opens_minute"], row["closes_minute"])
    ended_at = max(filter(None, (decided_at, row["last_result_at"])), default=None)
    made: dict[str, Any] = {
        "parameters": {
            **{name: row[name] for name in _PARAMETERS},
            "calling_hours": hours,
            "calling_days": None if days is None else days_text(days),
            "time_zone": row["time_zone"],
        },
        "due_at_estimated": row["phase"] in ("paused", "scheduled", "releasing"),
        "paused_at": row["paused_at"] if row["phase"] == "paused" else None,
        "ended_at": ended_at if row["phase"] == "ended" else None,
        "follow_ups": row["follow_ups"] or [],
        "submissions_json": row.get("submissions_json") or "[]",
        "counts": counts,
        "callbacks": {"received": sum(callbacks.values()), **callbacks},
        "progress": round(counts["final"] / callable_rows, 4) if callable_rows else 1.0,
        "loss_rate": Loss(callable_rows, counts["overdue"], row["polled"]).rate if row["past_due"] else None,
    }
    return Batch(**{each.name: row[each.name] for each in fields(Batch) if each.name not in made}, **made)


_PARAMETERS = ("start_timestamp", "end_timestamp", "max_attempts", "reattempt_wait", "is_pci", "calls_per_minute")
"""Those of `Batch.parameters` that are columns, before the hours and the time zone."""


def balance(counters: dict[str, Any]) -> dict[str, int]:
    """The balance of a row of counters. Calls that are in no other state are pending."""
    final = sum(counters[outcome] for outcome in OUTCOMES)
    remaining = counters["rows"] - counters["skipped"] - counters["refused"] - counters["withdrawn"] - final
    # Release 1.0.0 settles overdue calls without counting them off.
    overdue = min(counters["overdue"], remaining)
    return {
        "rows": counters["rows"],
        "skipped": counters["skipped"],
        "refused": counters["refused"],
        "withdrawn": counters["withdrawn"],
        "pending": remaining - overdue,
        "overdue": overdue,
        "final": final,
        **{outcome: counters[outcome] for outcome in OUTCOMES},
    }


def sum_balances(rows: Iterable[dict[str, Any]]) -> dict[str, int]:
    """The balance of several rows of counters together. Without rows, all counts are zero."""
    nothing = dict.fromkeys(("rows", "skipped", "refused", "withdrawn", "overdue", *OUTCOMES), 0)
    balances = [balance(row) for row in (nothing, *rows)]
    return {name: sum(each[name] for each in balances) for name in balances[0]}


def get_names(conn: Connection, batch_ids: Collection[int]) -> dict[int, str]:
    """The names of these batches."""
    found = conn.execute("select batch_id, name from batch where batch_id = any(%s)", (list(batch_ids),))
    return dict(found.fetchall())


def list_decided(conn: Connection, batch_ids: Collection[int]) -> set[int]:
    """The batches, of these, that need no waiting: nothing is being sent, or will be sent at once."""
    queueing = conn.execute(
        "select b.batch_id from batch b where b.batch_id = any(%s) and b.state = 'queueing' and exists (select"
        " from submission s where s.batch_id = b.batch_id and (s.state = 'sending' or s.state = 'pending'"
        " and b.paused_at is null and (s.tries > 0 or greatest(s.next_try_at, b.next_release_at) <= now())))",
        (list(batch_ids),),
        prepare=True,
    ).fetchall()
    return set(batch_ids) - {batch_id for (batch_id,) in queueing}
