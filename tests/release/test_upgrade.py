"""A database of an older release, with batches on their way, is migrated while that release goes on writing into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from receiver.database.migrations import MIGRATIONS, migrate
from receiver.database.pool import Connection, connect
from receiver.queueing.suppressions import erase_suppression, suppress, unsuppress
from receiver.release.claim import claim_submission
from receiver.release.control import cancel_batch, pause_batch
from receiver.results.overdue import mark_overdue
from tests.changes.owed import Owed
from tests.factories import (
    ACCEPTED,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    present,
    read_batch,
    result_body,
)

DAY = timedelta(days=1)


def insert_batch(conn: Connection, state: str, submissions: list[str], *, due_in: timedelta = DAY) -> int:
    """As 1.0.0 and 1.1.0 write it: two calls a submission, all outstanding."""
    row = conn.execute(
        "insert into batch (application_id, deployment_id, name, is_pci, default_region, columns, state, due_at)"
        " values (7, 3, 'before', false, 'US', '{}', %s, now() + %s) returning batch_id",
        (state, due_in),
    ).fetchone()
    assert row is not None
    batch_id: int = row[0]
    for number, its_state in enumerate(submissions, 1):
        first = number * 2 - 1
        conn.execute(
            "insert into submission (batch_id, submission_no, state, calls, first_row, last_row, csv_bytes, tries,"
            " worker_id, sent_at, answered_at) values (%s, %s, %s, 2, %s, %s, 38, %s, 1,"
            " case when %s <> 'pending' then now() end, case when %s = 'accepted' then now() end)",
            (batch_id, number, its_state, first, first + 1, int(its_state != "pending"), its_state, its_state),
        )
        conn.execute(
            "insert into call (batch_id, phone_number, row, submission_no, line)"
            " select %s, 16175550000 + row, row, %s, (16175550000 + row)::text"
            " from generate_series(%s::integer, %s::integer) as row",
            (batch_id, number, first, first + 1),
        )
    conn.execute(
        "insert into outstanding (batch_id, row) select batch_id, row from call where batch_id = %s", (batch_id,)
    )
    conn.execute("insert into batch_count (batch_id, rows) values (%s, %s)", (batch_id, 2 * len(submissions)))
    conn.commit()
    return batch_id


OLD_CLAIM = """update submission s set state = 'sending', worker_id = 1, sent_at = now(),
    next_try_at = coalesce(s.sent_at, now()), tries = s.tries + 1, error = null
    where batch_id = %s and submission_no = %s"""
OLD_ANSWER = """update submission set state = 'accepted', answered_at = now(), provider_status = 200
    where batch_id = %s and submission_no = %s"""

OLD_SETTLEMENT = """with stored as (
    insert into callback (batch_id, submission_no, received_at, content_type, packing, body)
    values (%s, 1, now(), '', 0, '') returning *
), settled as (
    insert into result (batch_id, row, callback_id, received_at, polled, outcome, provider_status)
    select batch_id, 1, callback_id, received_at, false, 'failed', 'failed' from stored
), closed as (
    delete from outstanding o using stored where o.batch_id = stored.batch_id and o.row = 1
), counted as (
    update batch_count c set failed = failed + 1, applied = applied + 1, first_result_at = received_at,
        last_result_at = received_at from stored where c.batch_id = stored.batch_id
)
insert into result_count (batch_id, at, failed)
select batch_id, date_bin('15 minutes', received_at, 'epoch'), 1 from stored"""


@pytest.mark.parametrize("last", [pytest.param(6, id="1.0.0"), pytest.param(22, id="1.1.0")])
def test_batches_of_an_older_release_go_on_where_they_were(empty_database_url: str, tmp_path: Path, last: int) -> None:
    """`last`: the number of its last migration."""
    for path in sorted(MIGRATIONS.glob("*.sql")):
        if int(path.name[:4]) <= last:
            shutil.copy(path, tmp_path)
    migrate(empty_database_url, tmp_path)
    with closing(connect(empty_database_url, name="test")) as conn:
        ended = insert_batch(conn, "queued", ["accepted"], due_in=-DAY)
        late = insert_batch(conn, "queued", ["accepted", "accepted"], due_in=-DAY / 24)
        under_way = insert_batch(conn, "queueing", ["accepted", "sending", "pending"])
        conn.execute("delete from outstanding where batch_id = %s", (ended,))
        conn.execute("update batch_count set completed = 2, applied = 2 where batch_id = %s", (ended,))
        conn.commit()

        migrate(empty_database_url)
        # The older release answers what it had sent, sends the next, and takes a new batch.
        conn.execute(OLD_ANSWER, (under_way, 2))
        conn.execute(OLD_CLAIM, (under_way, 3))
        conn.execute(OLD_ANSWER, (under_way, 3))
        conn.execute("update batch set state = 'queued', queued_at = now(), simulated = false")
        conn.commit()
        new = insert_batch(conn, "queueing", ["pending", "pending"])
        conn.execute("update batch set simulated = false where batch_id = %s", (new,))
        conn.commit()
        totals = {batch_id: read_batch(conn, batch_id).submissions_total for batch_id in (ended, late, under_way, new)}
        assert totals == {ended: 1, late: 2, under_way: 3, new: 2}
        times = conn.execute(
            "select s.released_at is not null, s.due_at = b.due_at from submission s join batch b using (batch_id)"
            " where batch_id = %s",
            (under_way,),
        ).fetchall()
        assert times == [(True, True)] * 3

        # Its worker is gone: this release counts what is overdue, sends, settles and cancels.
        assert [(each.batch_id, each.overdue) for each in mark_overdue(conn)[0]] == [(late, 4)]
        conn.commit()
        assert read_batch(conn, late).phase == "overdue"
        assert read_batch(conn, under_way).phase == "calling"
        assert claim_submission(conn, 5) is not None
        conn.rollback()
        (sent, *_) = answer_submissions(conn, lambda _: ACCEPTED)
        assert sent.batch_id == new
        deliver(conn, late, result_body(16175550001))
        deliver(conn, under_way, result_body(16175550005), submission_no=3)
        cancel_batch(conn, late, by="Ana")
        conn.commit()
        assert present(read_batch(conn, late).counts) == {"rows": 4, "overdue": 3, "final": 1, "completed": 1}
        for batch_id in (late, under_way, new):
            assert differences(conn, batch_id) == []


def cancel_and_reopen(conn: Connection, batch_id: int) -> None:
    """An older release finds out that it did not send a submission, and does not know that its batch is canceled."""
    conn.execute("update submission set state = 'sending', released_at = now() where batch_id = %s", (batch_id,))
    cancel_batch(conn, batch_id, by="Ana")
    conn.execute("update submission set state = 'pending' where batch_id = %s", (batch_id,))


def cancel_deployment(conn: Connection, state: str) -> None:
    """Its request is in this state. Nothing of it was withdrawn: a new batch can be queued for it meanwhile."""
    conn.execute(
        "insert into deployment_cancel (application_id, deployment_id, requested_by, state) values (7, 9, 'Ana', %s)",
        (state,),
    )


@pytest.mark.parametrize(
    ("parameters", "hold"),
    [
        ({"calls_per_minute": 1}, lambda conn, batch_id: None),
        ({"calling_hours": (0, 1440)}, lambda conn, batch_id: None),
        ({}, lambda conn, batch_id: pause_batch(conn, batch_id, by="Ana")),
        ({}, cancel_and_reopen),
        ({}, lambda conn, batch_id: suppress(conn, phone_number(0), by="Ana")),
        ({"deployment_id": 9}, lambda conn, batch_id: cancel_deployment(conn, "waiting")),
        ({"deployment_id": 9}, lambda conn, batch_id: cancel_deployment(conn, "asking")),
    ],
    ids=["paced", "hours", "paused", "canceled", "suppressed", "deployment-waiting", "deployment-asking"],
)
def test_older_release_does_not_send_what_it_must_not(
    conn: Connection, parameters: dict[str, Any], hold: Callable[[Connection, int], object]
) -> None:
    held, free = make_batch(conn, send=False, **parameters), make_batch(conn, [phone_number(1)], send=False)
    hold(conn, held)
    for batch_id in (held, free):
        conn.execute(OLD_CLAIM, (batch_id, 1))
    assert [each.state for batch_id in (held, free) for each in read_batch(conn, batch_id).submissions] == [
        "pending",
        "sending",
    ]


def test_older_release_sends_nothing_while_an_erased_number_is_suppressed(conn: Connection) -> None:
    """It cannot see whether one of its calls has this number."""
    batch_id = make_batch(conn, send=False)
    suppress(conn, phone_number(0), by="Ana")
    erase_suppression(conn, phone_number(0))
    conn.execute(OLD_CLAIM, (batch_id, 1))
    assert read_batch(conn, batch_id).submissions[0].state == "pending"
    unsuppress(conn, phone_number(0), by="Ana")
    conn.execute(OLD_CLAIM, (batch_id, 1))
    assert read_batch(conn, batch_id).submissions[0].state == "sending"


def test_what_an_older_release_makes_pending_again_in_a_canceled_batch_is_withdrawn(conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    cancel_and_reopen(conn, batch_id)
    assert claim_submission(conn, 5) is None
    batch = read_batch(conn, batch_id)
    assert (batch.state, present(batch.counts)) == ("canceled", {"rows": 1, "withdrawn": 1})
    conn.commit()
    assert differences(conn, batch_id) == []


def test_what_an_older_release_settles_owes_nothing_and_what_this_one_settles_then_does(conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    owed = Owed(conn)
    conn.execute(OLD_SETTLEMENT, (batch_id,))
    assert owed.new() == []
    deliver(conn, batch_id, result_body(phone_number(1)))
    assert owed.new() == [("batch.ended", batch_id, None), ("call.result", batch_id, 2)]
    assert differences(conn) == []
