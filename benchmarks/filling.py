"""Batches with their results, made by SQL in the shape the service leaves them in: for sizes nobody waits for."""

from __future__ import annotations

from benchmarks.bodies import AREA, body
from benchmarks.world import SUBMISSION_ROWS
from receiver.database.pool import Connection
from receiver.intake.packing import pack

_PACKING, _BODY = pack(body(1))


def fill(conn: Connection, calls: int) -> int:
    """A batch of `calls` calls: one in a hundred thousand still out (at least one), one in ten thousand `other`,
    the rest ended in the usual mix. Returns its id. The caller commits.
    """
    row = conn.execute(
        "insert into batch (application_id, deployment_id, name, is_pci, default_region, columns, state, queued_at,"
        " due_at) values (1, 1, 'filled', false, 'US', '{first_name,city}', 'queued', now(), now() + interval '1 day')"
        " returning batch_id"
    ).fetchone()
    assert row is not None  # noqa: S101 an insert returns its row
    last = conn.execute("select coalesce(max(callback_id), 0) from callback").fetchall()[0][0]
    values = {
        "batch_id": row[0],
        "callback_id": last,
        "calls": calls,
        "size": SUBMISSION_ROWS,
        "area": AREA,
        "packing": _PACKING,
        "body": _BODY,
    }
    for statement in _STATEMENTS:
        conn.execute(statement, values)
    batch_id: int = row[0]
    return batch_id


_OUTCOME = """case when g %% 100000 = 7 or g = %(calls)s then null when g %% 10000 = 3 then 'other'
    when g %% 50 = 4 then 'rejected' when g %% 40 = 5 then 'canceled' when g %% 4 = 2 then 'failed'
    else 'completed' end"""

_AT = "now() - interval '10 hours' * ((%(calls)s - g)::float / %(calls)s)"

_STATEMENTS = (
    "insert into submission (batch_id, submission_no, state, calls, first_row, last_row, csv_bytes, answered_at,"
    " provider_status, calls_queued) select %(batch_id)s, no, 'accepted', last - first + 1, first, last,"
    " (last - first + 1) * 30, now(), 200, last - first + 1 from"
    " (select no, (no - 1) * %(size)s + 1 as first, least(no * %(size)s, %(calls)s) as last"
    " from generate_series(1, (%(calls)s + %(size)s - 1) / %(size)s) no) s",
    "insert into call (batch_id, phone_number, row, submission_no, line) select %(batch_id)s, %(area)s + g, g,"
    " (g - 1) / %(size)s + 1, (%(area)s + g) || ',Name' || g || ',Boston' from generate_series(1, %(calls)s) g",
    f"insert into outstanding (batch_id, row) select %(batch_id)s, g from generate_series(1, %(calls)s) g"
    f" where {_OUTCOME} is null",
    "insert into callback (batch_id, callback_id, received_at, submission_no, content_type, packing, body)"
    f" select %(batch_id)s, %(callback_id)s::bigint + g, {_AT}, (g - 1) / %(size)s + 1, 'application/json',"
    f" %(packing)s, %(body)s from generate_series(1, %(calls)s) g where {_OUTCOME} is not null",
    f"""insert into result (batch_id, row, callback_id, received_at, outcome, provider_status, attempts, max_attempts,
        queued_at, started_at, ended_at, duration_seconds, area)
    select %(batch_id)s, g, %(callback_id)s::bigint + g, at, outcome, outcome, 1 + g %% 3, 3, at, at, at, g %% 90,
        201 + g %% 780
    from generate_series(1, %(calls)s) g, lateral (select {_OUTCOME} as outcome, {_AT} as at) r
    where outcome is not null""",
    "select setval(pg_get_serial_sequence('callback', 'callback_id'), %(callback_id)s::bigint + %(calls)s)",
    """insert into batch_count (batch_id, rows, completed, failed, canceled, rejected, other, applied, attempts,
        duration_seconds, first_result_at, last_result_at)
    select %(batch_id)s, %(calls)s, count(*) filter (where outcome = 'completed'),
        count(*) filter (where outcome = 'failed'), count(*) filter (where outcome = 'canceled'),
        count(*) filter (where outcome = 'rejected'), count(*) filter (where outcome = 'other'), count(*),
        sum(attempts), sum(duration_seconds), min(received_at), max(received_at)
    from result where batch_id = %(batch_id)s""",
    """insert into result_count (batch_id, at, completed, failed, canceled, rejected, other, attempts, duration_seconds)
    select batch_id, date_bin('15 minutes', received_at, 'epoch'), count(*) filter (where outcome = 'completed'),
        count(*) filter (where outcome = 'failed'), count(*) filter (where outcome = 'canceled'),
        count(*) filter (where outcome = 'rejected'), count(*) filter (where outcome = 'other'),
        sum(attempts), sum(duration_seconds)
    from result where batch_id = %(batch_id)s group by 1, 2""",
    # The feed, as groups of 500 leave it.
    """with entry as (
        insert into feed_entry (position, batch_id, rows)
        select last_position + entry, %(batch_id)s, array_agg(g order by g)
        from feed, generate_series(1, %(calls)s) g, lateral (select (g + 499) / 500 as entry) e
        group by last_position, entry returning position
    )
    update feed set last_position = (select max(position) from entry)""",
)
