"""The states of submissions that callbacks prove, and of batches, which follow from their submissions'."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

from receiver.changes.events import Events
from receiver.database.arrays import columns
from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.queueing.batches import get_now
from receiver.release.calls import count_open

BATCH_STATE = """case when bool_or(submission.state in ('pending', 'sending')) then 'queueing'
    when bool_and(submission.state = 'withdrawn') then 'canceled'
    when bool_and(submission.state in ('accepted', 'withdrawn')) then 'queued'
    when bool_and(submission.state = 'refused') then 'refused'
    when bool_and(submission.state = 'unknown') then 'unknown'
    else 'partial' end"""
"""SQL: the state of a batch, computed from all of its rows in `submission`."""

PROVEN = """exists (select from call join result using (batch_id, row)
    where call.batch_id = s.batch_id and call.submission_no = s.submission_no)"""
"""SQL: a callback contained one of the calls of submission `s`, so the provider has them."""


def refresh_state(conn: Connection, batch_ids: Iterable[int], events: Events) -> None:
    """Derive the states of batches, which are locked, from their submissions'.

    Once nothing is unreleased, `due_at` is that of the last submission.
    """
    wanted = sorted(set(batch_ids))
    # A batch can have a hundred thousand slices. While one is pending, the others need not be read.
    queueing = conn.execute(
        "select b.batch_id from batch b where b.batch_id = any(%s) and exists (select from submission s"
        " where s.batch_id = b.batch_id and s.state = 'pending')",
        (wanted,),
        prepare=True,
    ).fetchall()
    unreleased = [batch_id for (batch_id,) in queueing]
    if unreleased:
        conn.execute(
            "update batch set state = 'queueing', queued_at = null, decided_at = null"
            " where batch_id = any(%s) and state <> 'queueing'",
            (unreleased,),
        )
    released = [batch_id for batch_id in wanted if batch_id not in unreleased]
    if released:
        refused = conn.execute(
            f"""
            update batch b set state = s.state, queued_at = s.queued_at, decided_at = s.decided_at,
                due_at = coalesce(s.due_at, b.due_at)
            from (
                select batch_id,
                    {BATCH_STATE} as state, max(due_at) as due_at,
                    case when not bool_or(state = 'sending') then max(answered_at) end as decided_at,
                    case when not bool_or(state = 'sending')
                         then max(answered_at) filter (where state = 'accepted') end as queued_at
                from submission where batch_id = any(%(ids)s) group by batch_id
            ) s join (select batch_id, state from batch where batch_id = any(%(ids)s)) before using (batch_id)
            where b.batch_id = s.batch_id and (b.state, b.queued_at, b.decided_at, b.due_at)
                is distinct from (s.state, s.queued_at, s.decided_at, coalesce(s.due_at, b.due_at))
            returning b.batch_id, b.state = 'refused' and before.state <> 'refused'
            """,
            {"ids": released},
        ).fetchall()
        for batch_id, became_refused in refused:
            if became_refused:
                events.add("batch.refused", batch_id)


def accept_proven(
    conn: Connection, keys: Collection[tuple[int, int]], events: Events, also_lock: Collection[int] = ()
) -> Mapping[int, int]:
    """Mark these submissions (batch_id, submission_no) accepted, because a callback contained one of their calls.

    This includes unknown ones, withdrawn ones, and pending ones that a person resolved as not queued. Locks the batches
    of all that are not accepted, and `also_lock`, so call it before anything is written about their calls
    (`receiver.database.locks`). Returns, by batch, how many calls the caller must subtract from `withdrawn`.
    """
    if not keys:
        return {}
    unaccepted = conn.execute(
        "select s.batch_id, s.submission_no from submission s"
        " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no) using (batch_id, submission_no)"
        " where s.state in ('pending', 'sending', 'unknown', 'withdrawn')",
        columns(keys, list, list),
        prepare=True,
    ).fetchall()
    batch_ids = [batch_id for batch_id, _ in unaccepted]
    if batch_ids or also_lock:
        lock_batches(conn, [*batch_ids, *also_lock])
    if not unaccepted:
        return {}
    given = columns(unaccepted, list, list)
    withdrawn: defaultdict[int, list[int]] = defaultdict(list)
    for batch_id, submission_no in conn.execute(
        "select s.batch_id, s.submission_no from submission s"
        " join unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no) using (batch_id, submission_no)"
        " where s.state = 'withdrawn'",
        given,
    ):
        withdrawn[batch_id].append(submission_no)
    reopened = {batch_id: count_open(conn, batch_id, submissions) for batch_id, submissions in withdrawn.items()}
    now = get_now(conn)
    # What was to be sent again has neither of these times any more; it is due with its batch.
    conn.execute(
        "update submission s set state = 'accepted', error = null, answered_at = coalesce(answered_at, %s),"
        " released_at = coalesce(released_at, sent_at, %s), due_at = coalesce(s.due_at, b.due_at)"
        " from unnest(%s::bigint[], %s::integer[]) as g (batch_id, submission_no) join batch b using (batch_id)"
        " where s.batch_id = g.batch_id and s.submission_no = g.submission_no"
        " and s.state in ('unknown', 'pending', 'withdrawn')",
        [now, now, *given],
    )
    refresh_state(conn, batch_ids, events)
    return reopened
