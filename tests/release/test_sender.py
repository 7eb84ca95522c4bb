"""Each submission is sent by one sender, as the user meant it, and takes the answer to its own request only."""

from __future__ import annotations

import contextlib
import csv
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from receiver.database.pool import Connection, connect
from receiver.release import sender
from receiver.release.answer import Answer
from receiver.release.claim import REASONS, Outgoing, claim_submission
from receiver.release.sender import csv_blocks
from tests.factories import differences, read_batch
from tests.queueing.queueing import (
    ACCEPTED,
    NOT_SENT,
    UNKNOWN,
    batch_state,
    claim,
    contacts_csv,
    csv_of,
    from_now,
    number,
    queue,
    record,
    submission_states,
)


def test_each_submission_is_claimed_by_one_of_many_senders(conn: Connection, database_url: str) -> None:
    batch_ids = [queue(conn, contacts_csv(10), 1) for _ in range(4)]
    all_are_there = threading.Barrier(8)

    def is_left(own: Connection) -> bool:
        row = own.execute("select exists (select from submission where state = 'pending')").fetchone()
        own.commit()
        return row == (True,)

    def claim_all(worker_id: int) -> list[Outgoing]:
        claimed = []
        with contextlib.closing(connect(database_url, name="sender")) as own:
            all_are_there.wait(60)
            while is_left(own):  # none is claimed from a batch that another is claiming from
                if (outgoing := claim_submission(own, worker_id)) is not None:
                    claimed.append(outgoing)
                own.commit()
            return claimed

    with ThreadPoolExecutor(8) as threads:
        claimed = [each for share in threads.map(claim_all, range(1, 9)) for each in share]
    keys = [(each.batch_id, each.submission_no) for each in claimed]
    assert sorted(keys) == [(batch_id, no) for batch_id in batch_ids for no in range(1, 11)]
    assert {each.tries for each in claimed} == {1}
    assert {state for batch_id in batch_ids for state in submission_states(conn, batch_id)} == {"sending"}


def test_submission_is_not_claimed_before_its_time(conn: Connection) -> None:
    queue(conn, contacts_csv(1))
    conn.execute("update submission set next_try_at = now() + interval '1 minute'")
    conn.commit()
    assert claim_submission(conn, 1) is None


def test_claim_says_all_that_the_request_needs(conn: Connection) -> None:
    start, end = from_now(hours=1), from_now(hours=9)
    parameters = {"start_timestamp": start, "end_timestamp": end, "max_attempts": 3, "reattempt_wait": 300}
    batch_id = queue(conn, contacts_csv(5), 2, is_pci=True, **parameters)
    outgoing = claim(conn, 77)
    assert outgoing == Outgoing(
        batch_id=batch_id,
        submission_no=1,
        worker_id=77,
        tries=1,
        calls=2,
        withdrawn_calls=0,
        first_row=1,
        last_row=2,
        csv_bytes=len(b"destination,name\r\n6175550000,name 0\r\n6175550001,name 1\r\n"),
        columns=["name"],
        application_id=7,
        deployment_id=3,
        start_at=start,
        end_at=end,
        max_attempts=3,
        reattempt_wait_seconds=300,
        is_pci=True,
    )


@pytest.mark.parametrize("lines_at_once", [1, 2, 2000])
def test_what_is_sent_is_what_the_user_wrote(
    conn: Connection, monkeypatch: pytest.MonkeyPatch, lines_at_once: int
) -> None:
    monkeypatch.setattr(sender, "LINES_AT_ONCE", lines_at_once)
    a, b = number(1), number(2)
    rows = [
        (f"tel:+1{a}", 'Björn "Bo", jr.', "first line\nsecond\r\nthird\r"),
        (b, "", " kept as it is "),
        (a, "=cmd|'/c calc'!A0", "ελληνικά, 漢字, עברית, 🙂"),
        (f" ({b[:3]}) {b[3:6]}-{b[6:]};postd=1", "\\N", "\\.\t%s"),
        (number(3), "NULL", "'"),
    ]
    queue(conn, csv_of(rows, ("First name", "note")), on_duplicate="keep")
    outgoing, further = claim(conn), claim(conn)
    sent = b"".join(csv_blocks(conn, outgoing)), b"".join(csv_blocks(conn, further))
    assert (len(sent[0]), len(sent[1])) == (outgoing.csv_bytes, further.csv_bytes)
    header = ["destination", "First name", "note"]
    assert read_csv(sent[0]) == [header, *map(list, (rows[0], rows[1], rows[4]))]
    assert read_csv(sent[1]) == [header, list(rows[2]), [rows[3][0].strip(), *rows[3][1:]]]


def read_csv(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))


def make_older(conn: Connection, batch_id: int, interval: str) -> None:
    """As if the batch had been made, and its submissions tried, this much earlier."""
    conn.execute("update batch set created_at = created_at - %s::interval where batch_id = %s", (interval, batch_id))
    conn.execute("update submission set sent_at = sent_at - %s::interval where batch_id = %s", (interval, batch_id))
    conn.commit()


def due_at_once(conn: Connection) -> None:
    conn.execute("update submission set next_try_at = now() where state = 'pending'")
    conn.commit()


def claim_none(conn: Connection) -> None:
    assert claim_submission(conn, 1) is None
    conn.commit()


def test_batch_whose_window_ended_before_a_worker_came_is_refused_and_not_sent(
    conn: Connection, caplog: pytest.LogCaptureFixture
) -> None:
    batch_id = queue(conn, contacts_csv(3), 2, end_timestamp=from_now(hours=1))
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    claim_none(conn)
    batch = read_batch(conn, batch_id)
    assert (batch.state, batch.counts["refused"], batch.counts["pending"]) == ("refused", 3, 0)
    assert [(each.state, each.error) for each in batch.submissions] == [("refused", REASONS["window_over"])] * 2
    assert differences(conn) == []
    claim_none(conn)
    assert caplog.messages == [
        f"batch {batch_id}: 2 submissions were not sent and are refused, because it is too late to send them"
    ]


def test_window_that_ends_while_a_batch_is_sent_ends_the_rest_of_it(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2), 1, end_timestamp=from_now(hours=1))
    record(conn, claim(conn), ACCEPTED)
    conn.execute("update batch set end_at = now() - interval '1 second'")
    conn.commit()
    claim_none(conn)
    assert submission_states(conn, batch_id) == ["accepted", "refused"]
    assert batch_state(conn, batch_id) == "partial"
    assert differences(conn) == []


@pytest.mark.parametrize(("late", "state"), [("59 minutes", "sending"), ("61 minutes", "refused")])
def test_batch_without_an_end_waits_an_hour_for_a_worker(conn: Connection, late: str, state: str) -> None:
    batch_id = queue(conn, contacts_csv(2))
    make_older(conn, batch_id, late)
    claim_submission(conn, 1)
    conn.commit()
    assert submission_states(conn, batch_id) == [state]
    error = REASONS["not_sent_in_time"] if state == "refused" else None
    assert read_batch(conn, batch_id).submissions[0].error == error
    assert differences(conn) == []


def test_hour_of_a_batch_begins_with_its_start(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(1), start_timestamp=from_now(minutes=-4))
    make_older(conn, batch_id, "20 hours")
    assert claim(conn).batch_id == batch_id


@pytest.mark.parametrize("answer", [ACCEPTED, UNKNOWN, None])
def test_large_batch_goes_on_as_long_as_it_takes(conn: Connection, answer: Answer | None) -> None:
    batch_id = queue(conn, contacts_csv(2), 1)
    first = claim(conn)
    if answer is not None:
        record(conn, first, answer)
    make_older(conn, batch_id, "3 hours")
    assert claim(conn).submission_no == 2


def test_provider_out_of_reach_for_seconds_ends_no_batch_however_old(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(3), 1)
    record(conn, claim(conn), ACCEPTED)
    make_older(conn, batch_id, "3 hours")
    assert [record(conn, claim(conn), NOT_SENT) for _ in range(2)] == ["pending"] * 2
    due_at_once(conn)
    assert [record(conn, claim(conn), answer) for answer in (NOT_SENT, ACCEPTED)] == ["pending", "accepted"]


def test_provider_out_of_reach_is_tried_for_an_hour_from_the_first_try_in_vain(conn: Connection) -> None:
    batch_id = queue(conn, contacts_csv(2), 1)
    for _ in range(2):
        record(conn, claim(conn), NOT_SENT)
    make_older(conn, batch_id, "59 minutes")
    due_at_once(conn)
    assert record(conn, claim(conn), NOT_SENT) == "pending"
    # Their worker dies, and the next one comes after the hour: for what was tried again and for what was not.
    make_older(conn, batch_id, "2 minutes")
    due_at_once(conn)
    claim_none(conn)
    batch = read_batch(conn, batch_id)
    assert [each.state for each in batch.submissions] == ["refused"] * 2
    assert batch.submissions[0].error == f"{REASONS['not_sent_in_time']} {NOT_SENT.error}"
    assert differences(conn) == []
