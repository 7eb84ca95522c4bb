"""The id with which a call is polled, also after submissions were sent again or numbers erased."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import Connection
from receiver.release.answer import Answer
from receiver.release.recording import record_answer
from receiver.release.resolution import resolve_submission
from receiver.results.erasure import erase
from tests.factories import answer_submissions, make_batch, make_overdue, phone_number
from tests.results.polling import plan_all

NUMBERS = [phone_number(index) for index in range(3)]


def told_ids(*call_ids: str) -> Answer:
    told = json.dumps({"calls_queued": len(call_ids), "call_ids": call_ids})
    return Answer("accepted", 200, calls_queued=len(call_ids), answer_text=told)


def asked(conn: Connection, batch_id: int) -> dict[int, str]:
    rows = conn.execute("select row, call_id from poll where batch_id = %s", (batch_id,)).fetchall()
    conn.commit()
    return dict(rows)


def test_ids_of_a_later_answer_replace_earlier_ones(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False)
    (first,) = answer_submissions(conn, lambda _: Answer("unknown", 500, error="late", answer_text='["a", "b"]'))
    make_overdue(conn)
    conn.execute("update submission set polls_planned = true")
    resolve_submission(conn, batch_id, 1, queued=True, note="seen there", by="Ana")
    conn.commit()
    assert plan_all(conn) == 0
    assert record_answer(conn, first, told_ids("c", "d")) == "accepted"
    assert (plan_all(conn), asked(conn, batch_id)) == (2, {1: "c", 2: "d"})


def test_submission_that_is_sent_again_is_polled_with_its_new_ids(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False)
    doubtful = replace(told_ids("a", "b"), state="unknown", error="cut off")
    answer_submissions(conn, lambda _: doubtful)
    make_overdue(conn)
    assert plan_all(conn) == 2
    assert (plan_all(conn), asked(conn, batch_id)) == (0, {1: "a", 2: "b"})
    resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana")
    conn.commit()
    answer_submissions(conn, lambda _: told_ids("a", "d"))
    make_overdue(conn)
    conn.execute("update poll set tries = 9")
    assert plan_all(conn) == 2
    assert asked(conn, batch_id) == {1: "a", 2: "d"}
    assert conn.execute("select tries from poll order by row").fetchall() == [(9,), (0,)]


@pytest.mark.parametrize("erased", ["before it was sent", "before it was sent again", "after it was sent"])
def test_ids_in_order_are_those_of_the_rows_that_were_sent(conn: Connection, erased: str) -> None:
    batch_id = make_batch(conn, NUMBERS[:3], send=False)

    def erase_first() -> None:
        for _ in erase(conn, NUMBERS[0], by=SYSTEM):
            conn.commit()

    if erased == "before it was sent again":
        answer_submissions(conn, lambda _: Answer("unknown", 500, error="late"))
        erase_first()
        resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana")
        conn.commit()
    elif erased == "before it was sent":
        erase_first()
    if erased == "after it was sent":
        answer_submissions(conn, lambda _: told_ids("a", "b", "c"))
        erase_first()
    else:
        answer_submissions(conn, lambda _: told_ids("b", "c"))
    make_overdue(conn)
    assert (plan_all(conn), asked(conn, batch_id)) == (2, {2: "b", 3: "c"})
