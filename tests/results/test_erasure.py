"""One number is erased everywhere. Every count, outcome and equation stays."""

from __future__ import annotations

import gzip
from io import BytesIO

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import Connection, open_pool
from receiver.database.replica import Reader
from receiver.queueing.drafts import insert_draft
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.resolution import NOBODY_LEFT, resolve_submission
from receiver.release.sender import csv_blocks
from receiver.results.erasure import Erased, NotErasable, erase
from receiver.results.replay import find_settled, replay
from receiver.summary.calls import CallFilter, get_call, list_calls, list_calls_of_number
from receiver.summary.export import export_calls_csv, export_calls_ndjson, export_skipped_csv
from tests.factories import (
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    journal,
    make_callback,
    phone_number,
    present,
    read_batch,
    result_body,
)
from tests.queueing.queueing import queue

NUMBER, OTHER = phone_number(0), phone_number(1)
DIGITS = str(NUMBER)[1:]
CSV = (
    "destination,name,mobile\n"
    f"+1 (617) 555-0000,Ana Person,\n{OTHER},Ben,617.555.0000\n{phone_number(2)},Cid,\n"
    f"{DIGITS},Ana Person,x,too many\n555,Dev,{NUMBER}\n"
)


def erase_all(conn: Connection, number: int = NUMBER) -> Erased:
    total = Erased()
    for piece in erase(conn, number, by=SYSTEM):
        conn.commit()
        total += piece
    conn.commit()
    return total


def everything(conn: Connection) -> str:
    """The whole database as text, bodies decoded."""
    tables = conn.execute("select relname from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace")
    text = ""
    for (table,) in tables.fetchall():
        text += repr(conn.execute(f"select * from {table}").fetchall())  # noqa: S608
    conn.commit()
    return text


def send(conn: Connection, answer: Answer) -> list[Outgoing]:
    return answer_submissions(conn, lambda _: answer)


def make_traces(conn: Connection) -> int:
    """A batch whose first row's number is in every table."""
    batch_id = queue(conn, CSV.encode(), on_invalid="skip")
    answer = Answer("accepted", 200, 3, None, '{"calls_queued": 3, "call_ids": {"+1 (617) 555-0000": "7-1"}}')
    send(conn, answer)
    deliver(conn, batch_id, result_body(DIGITS), result_body(DIGITS, "failed", last_event=5), result_body(NUMBER))
    deliver(conn, batch_id, result_body(OTHER, note="call back"), f'{{"phone_number": "{DIGITS}"'.encode())
    deliver(conn, batch_id, result_body(DIGITS), submission_no=9)
    journaled = make_callback(batch_id + 77, gzip.compress(result_body(DIGITS)))
    journal(conn, journaled)
    deliver(conn, batch_id, f"phone_number=%27{DIGITS}%27&x=1".encode())
    conn.execute("insert into poll (batch_id, row, submission_no, call_id) values (%s, 1, 1, '7-1')", (batch_id,))
    conn.execute(
        "insert into resolution (batch_id, submission_no, tries, queued, note, resolved_by, answer)"
        " values (%s, 1, 1, true, %s, 'Ana', %s)",
        (batch_id, f"asked about {NUMBER}", f"[{DIGITS}]"),
    )
    insert_draft(conn, 1, BytesIO(CSV.encode("utf-16")), "a.csv", {})
    insert_draft(conn, 1, BytesIO(b"destination\n6175550009\n"), "b.csv", {})
    conn.commit()
    return batch_id


def test_no_trace_of_the_number_or_its_person_is_left(conn: Connection) -> None:
    batch_id = make_traces(conn)
    before = read_batch(conn, batch_id)
    assert DIGITS in everything(conn)
    erased = erase_all(conn)
    assert erased == Erased(calls=1, contacts=1, skipped=2, callbacks=7, texts=2, drafts=1, awaited=0)
    left = everything(conn)
    for trace in (DIGITS, "555-0000", "555.0000", "Ana Person"):
        assert trace not in left
    assert "Ben" in left and "Cid" in left and str(OTHER) in left
    assert read_batch(conn, batch_id) == before
    assert differences(conn) == []
    assert conn.execute("select count(*) from poll").fetchone() == (0,)
    assert erase_all(conn) == Erased()


def test_erased_call_keeps_its_result_and_shows_no_personal_data(conn: Connection, database_url: str) -> None:
    batch_id = make_traces(conn)
    result = get_call(conn, batch_id, 1)
    erase_all(conn)
    call = get_call(conn, batch_id, 1)
    assert (call.phone_number, call.destination, call.variables) == ("erased", "erased", {"name": "", "mobile": ""})
    assert call.read_events() == ((), 0)
    for name in ("state", "outcome", "attempts", "duration_seconds", "ended_at", "result_received_at"):
        assert getattr(call, name) == getattr(result, name)
    other = get_call(conn, batch_id, 2)
    assert (other.phone_number, other.variables) == (f"+{OTHER}", {"name": "Ben", "mobile": "erased"})
    assert [each.row for each in list_calls(conn, batch_id, CallFilter(), 10).calls] == [1, 2, 3]
    assert list_calls_of_number(conn, [NUMBER], 10).calls == []
    conn.commit()
    pool = open_pool(database_url, max_size=2, name="test")
    try:
        exported = [b"".join(export(Reader(pool), batch_id)).decode() for export in EXPORTS]
    finally:
        pool.close()
    assert exported[0].splitlines()[1].startswith("erased,,,1,erased,final,completed,")
    assert '"phone_number":"erased"' in exported[1]
    assert exported[2].splitlines()[1].startswith("erased,,,4,too_many_cells,")
    assert exported[2].splitlines()[2].startswith("555,Dev,erased,5,")


EXPORTS = (export_calls_csv, export_calls_ndjson, export_skipped_csv)


def test_dry_run_changes_nothing(conn: Connection) -> None:
    make_traces(conn)
    before = everything(conn)
    total = Erased()
    for piece in erase(conn, NUMBER, by=SYSTEM):
        conn.rollback()
        total += piece
    assert total.calls == 1 and total.callbacks == 7
    assert everything(conn) == before


def test_replay_does_not_change_erased_results(conn: Connection) -> None:
    batch_id = make_traces(conn)
    erase_all(conn)
    before = read_batch(conn, batch_id)
    for state in ("applied", "duplicate", "conflict", "unmatched", "unreadable"):
        keys = find_settled(conn, state=state)
        replay(conn, keys)
        conn.commit()
    assert read_batch(conn, batch_id) == before
    assert get_call(conn, batch_id, 1).outcome == "completed"
    conn.commit()
    assert differences(conn) == []


def test_replay_that_waited_for_an_erasure_does_not_change_its_results(conn: Connection) -> None:
    batch_id = make_traces(conn)
    found = find_settled(conn)  # as a replay does before it waits for the lock of an erasure
    erase_all(conn)
    before = read_batch(conn, batch_id)
    assert replay(conn, found) == []
    conn.commit()
    assert read_batch(conn, batch_id) == before
    assert get_call(conn, batch_id, 1).outcome == "completed"
    conn.commit()
    assert differences(conn) == []


def test_later_callback_is_unmatched_and_erased_by_the_next_erasure(conn: Connection) -> None:
    batch_id = queue(conn, f"destination\n{NUMBER}\n".encode())
    answer_submissions(conn)
    erase_all(conn)
    deliver(conn, batch_id, result_body(DIGITS))
    assert present(read_batch(conn, batch_id).callbacks) == {"received": 1, "unmatched": 1}
    assert erase_all(conn) == Erased(callbacks=1)
    assert DIGITS not in everything(conn)
    assert differences(conn) == []


def test_unsettled_callbacks_with_the_number_prevent_the_erasure(conn: Connection) -> None:
    batch_id = queue(conn, f"destination\n{NUMBER}\n{OTHER}\n".encode())
    answer_submissions(conn)
    journal(conn, make_callback(batch_id, result_body(OTHER)))
    assert erase_all(conn).calls == 1
    journal(conn, make_callback(batch_id, result_body(OTHER)))
    with pytest.raises(NotErasable, match="not settled"):
        erase_all(conn, OTHER)


def csv_sent(conn: Connection, outgoing: Outgoing) -> bytes:
    sent = b"".join(csv_blocks(conn, outgoing))
    conn.commit()
    assert len(sent) == outgoing.csv_bytes
    return sent


def test_number_that_is_erased_before_sending_is_not_called(conn: Connection) -> None:
    batch_id = queue(conn, f"destination,name\n{NUMBER},Ana\n{OTHER},{NUMBER} is her mother\n".encode())
    assert erase_all(conn) == Erased(calls=1, contacts=1)
    assert present(read_batch(conn, batch_id).counts) == {"rows": 2, "refused": 1, "pending": 1}
    assert get_call(conn, batch_id, 1).state == "refused"
    conn.commit()
    (outgoing,) = answer_submissions(conn)
    assert csv_sent(conn, outgoing) == f"destination,name\r\n{OTHER},erased is her mother\r\n".encode()
    assert differences(conn) == []


def test_number_that_is_erased_while_unknown_is_not_sent_again(conn: Connection) -> None:
    batch_id = queue(conn, f"destination,name\n{NUMBER},Ana\n{OTHER},Ben\n".encode())
    send(conn, UNKNOWN)
    erase_all(conn)
    assert present(read_batch(conn, batch_id).counts) == {"rows": 2, "pending": 2}
    resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana")
    conn.commit()
    assert present(read_batch(conn, batch_id).counts) == {"rows": 2, "refused": 1, "pending": 1}
    (outgoing,) = answer_submissions(conn)
    assert csv_sent(conn, outgoing) == f"destination,name\r\n{OTHER},Ben\r\n".encode()
    assert differences(conn) == []


def test_nothing_is_sent_again_if_all_numbers_were_erased_while_unknown(conn: Connection) -> None:
    batch_id = queue(conn, f"destination,name\n{NUMBER},Ana\n".encode())
    send(conn, UNKNOWN)
    erase_all(conn)
    assert resolve_submission(conn, batch_id, 1, queued=False, note="not there", by="Ana") == "refused"
    conn.commit()
    assert answer_submissions(conn) == []
    batch = read_batch(conn, batch_id)
    assert (batch.state, present(batch.counts)) == ("refused", {"rows": 1, "refused": 1})
    assert batch.submissions[0].error == NOBODY_LEFT
    assert differences(conn) == []


def test_nothing_is_erased_while_it_is_being_sent(conn: Connection) -> None:
    queue(conn, f"destination,name\n{NUMBER},Ana\n{OTHER},{phone_number(5)}\n".encode())
    assert claim_submission(conn, register_worker(conn, "test", 1)) is not None
    conn.commit()
    for number in (NUMBER, phone_number(5)):
        with pytest.raises(NotErasable, match="being sent"):
            erase_all(conn, number)
        conn.rollback()
    assert str(NUMBER) in everything(conn)


def test_number_in_several_rows_and_batches_is_erased_from_all(conn: Connection) -> None:
    batches = [
        queue(conn, f"destination\n{NUMBER}\n{NUMBER}\n{OTHER}\n".encode(), on_duplicate="keep") for _ in range(2)
    ]
    answer_submissions(conn)
    for batch_id in batches:
        deliver(conn, batch_id, result_body(DIGITS), result_body(OTHER))
        deliver(conn, batch_id, result_body(DIGITS, "failed"), submission_no=2)
    before = [read_batch(conn, batch_id) for batch_id in batches]
    assert erase_all(conn) == Erased(calls=4, callbacks=4)
    assert [read_batch(conn, batch_id) for batch_id in batches] == before
    assert DIGITS not in everything(conn)
    assert differences(conn) == []
