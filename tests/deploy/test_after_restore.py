"""after-restore.sql on a restored database: no number is dialed twice, and no id is used again."""

from __future__ import annotations

from pathlib import Path

import pytest

from receiver.database.pool import Connection
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.resolution import resolve_submission
from receiver.release.sender import abandon_submissions
from receiver.summary.batches import get_batch
from receiver.summary.feed import CursorExpired, list_entries
from tests.factories import deliver, differences, journal, make_batch, make_callback, phone_number, result_body
from tests.feeding import change, give_all, read_on, start

pytestmark = pytest.mark.long

SQL = (Path(__file__).resolve().parents[2] / "deploy" / "after-restore.sql").read_text()


def test_ids_skip_ahead_and_submissions_that_may_have_been_sent_wait_for_a_person(conn: Connection) -> None:
    accepted, pending = make_batch(conn), make_batch(conn, send=False)
    (callback_id,) = journal(conn, make_callback(accepted))
    change(conn, (accepted, 1))
    conn.commit()
    give_all(conn)
    place = start(conn)
    (event_id,) = conn.execute("select nextval('event_id')").fetchall()[0]
    conn.commit()
    conn.autocommit = True
    conn.execute(SQL)
    conn.autocommit = False

    worker_id = register_worker(conn, "after the restore", 1)
    assert claim_submission(conn, worker_id) is None, "no submission is sent automatically"
    assert abandon_submissions(conn, worker_id) == [(pending, 1)]
    conn.commit()
    assert get_batch(conn, accepted).state == "queued"
    assert get_batch(conn, pending).state == "unknown"
    assert differences(conn) == []

    assert make_batch(conn) > pending + 1_000_000
    assert journal(conn, make_callback(accepted))[0] > callback_id + 100_000_000
    assert conn.execute("select nextval('event_id')").fetchall()[0][0] > event_id + 100_000_000
    with pytest.raises(CursorExpired):
        list_entries(conn, place, 10)
    assert read_on(conn, start(conn))[0] == [(accepted, 1)]


def test_callbacks_prove_that_a_submission_was_sent_and_a_person_resolves_the_others(conn: Connection) -> None:
    sent, unsent = make_batch(conn, send=False), make_batch(conn, [phone_number(1)], send=False)
    conn.autocommit = True
    conn.execute(SQL)
    conn.autocommit = False
    worker_id = register_worker(conn, "after the restore", 1)
    abandon_submissions(conn, worker_id)
    deliver(conn, sent, result_body(phone_number(0)))
    assert get_batch(conn, sent).state == "queued"
    resolve_submission(conn, unsent, 1, queued=False, note="the provider's page has no such batch", by="Ana")
    conn.commit()
    outgoing = claim_submission(conn, worker_id)
    assert outgoing is not None and (outgoing.batch_id, outgoing.submission_no) == (unsent, 1)
