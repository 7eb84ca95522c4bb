"""Old batches are purged completely, in steps, and no count is ever wrong meanwhile."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import islice

import pytest
from psycopg.errors import LockNotAvailable

from receiver.changes.audit import SYSTEM
from receiver.database.locks import RESULTS_LOCK, own_results
from receiver.database.pool import Connection, connect
from receiver.errors import NotFound
from receiver.queueing.batches import set_external_id
from receiver.queueing.drafts import insert_draft
from receiver.release.recording import record_answer
from receiver.release.resolution import resolve_submission
from receiver.results import retention
from receiver.results.acknowledgement import acknowledge_callbacks
from receiver.results.replay import find_settled, replay
from receiver.results.retention import Removed, claim_purge, count_old, count_simulated, purge, purge_simulated
from receiver.summary.batches import BatchFilter, get_batch, list_batches
from receiver.summary.needs_attention import get_attention
from receiver.summary.series import SummaryFilter, get_summary
from tests.factories import (
    ACCEPTED,
    UNKNOWN,
    answer_submissions,
    claim_waiting,
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    present,
    read_batch,
    result_body,
    settle,
    settle_all,
    states,
)
from tests.results.traces import traces_in_tables

NUMBERS = [phone_number(index) for index in range(12)]
MONTH = timedelta(days=30)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "PURGE_ROWS", 5)


def make_full_batch(conn: Connection) -> int:
    """A batch with rows in every table about batches."""
    batch_id = make_batch(conn, [*NUMBERS, "nobody"], on_invalid="skip", submission_rows=7)
    deliver(conn, batch_id, *(result_body(number) for number in NUMBERS[:4]), result_body(NUMBERS[0], "failed"), b"{}")
    deliver(conn, batch_id, result_body(phone_number(99)), result_body(NUMBERS[8], "dialing"), submission_no=2)
    conn.execute("insert into poll (batch_id, row, submission_no, call_id) values (%s, 5, 1, 'a')", (batch_id,))
    conn.execute(
        "insert into idempotency (key_id, idempotency_key, digest, batch_id) values (%s, 'k', '', %s)",
        (batch_id, batch_id),
    )
    conn.execute(
        "insert into resolution (batch_id, submission_no, tries, queued, note, resolved_by)"
        " values (%s, 1, 1, true, 'n', 'b')",
        (batch_id,),
    )
    draft_id = insert_draft(conn, 1, BytesIO(b"destination\n"), "a.csv", {})
    conn.execute("update draft set batch_id = %s where draft_id = %s", (batch_id, draft_id))
    conn.execute("insert into callback_budget (batch_id, submission_no, stored) values (%s, 1, 8)", (batch_id,))
    set_external_id(conn, batch_id, f"batch {batch_id}")
    # As though it had been withdrawn before it was sent again.
    conn.execute("insert into withdrawn (batch_id, row, reason) values (%s, 6, 'suppressed')", (batch_id,))
    conn.execute("delete from outstanding where batch_id = %s and row = 6", (batch_id,))
    conn.execute("update batch_count set withdrawn = 1 where batch_id = %s", (batch_id,))
    acknowledge_callbacks(conn, by=SYSTEM, state="unreadable")
    conn.execute("insert into batch_count_part (batch_id, slot, at) values (%s, 0, '-infinity')", (batch_id,))
    conn.execute("insert into follow_up values (%s, 1, %s, 1)", (batch_id, 10**9))  # its follow-up is purged
    conn.commit()
    return batch_id


def age(conn: Connection, batch_id: int, days: int = 40) -> int:
    conn.execute(
        "update batch set created_at = now() - make_interval(days => %s), due_at = now() - make_interval(days => %s)"
        " where batch_id = %s",
        (days + 1, days, batch_id),
    )
    conn.execute(
        "update callback set received_at = received_at - interval '2000 days' where batch_id = %s", (batch_id,)
    )
    conn.commit()
    return batch_id


def purge_all(conn: Connection, older_than: timedelta = MONTH) -> list[int]:
    """Purge to the end; returns the purged batches."""
    ended = []
    for removed in purge(conn, older_than, by=SYSTEM):
        conn.commit()
        assert removed.rows <= 5
        assert differences(conn) == []
        if removed.ended:
            ended.append(removed.batch_id)
    conn.commit()
    return ended


def tables_of_a_batch(conn: Connection) -> list[str]:
    """Every table with the id of a batch, so that new tables are tested, too.

    The audit trail stays. What was delivered stays for its 30 days: it names batch and row, and nothing of the call.
    """
    found = conn.execute(
        "select c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attname = 'batch_id'"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and not a.attisdropped"
        " and c.relname <> all('{audit,changed_results,delivery,feed_entry,owed_event}') order by 1"
    )
    return [name for (name,) in found]


def rows_of(conn: Connection, batch_id: int) -> dict[str, int]:
    """How many rows with the batch's id each table has, without empty tables."""
    counted = {}
    for table in tables_of_a_batch(conn):
        row = conn.execute(f"select count(*) from {table} where batch_id = %s", (batch_id,)).fetchone()  # noqa: S608
        assert row is not None
        counted[table] = row[0]
    conn.commit()
    return present(counted)


def test_old_batches_are_purged_completely_and_others_stay_unchanged(conn: Connection) -> None:
    old, young = age(conn, make_full_batch(conn)), make_full_batch(conn)
    # If this fails for a new table, add rows of it to `make_full_batch`.
    assert set(rows_of(conn, old)) == set(tables_of_a_batch(conn)) - {"waiting", "purge"}
    before = (read_batch(conn, young), rows_of(conn, young))
    assert purge_all(conn) == [old]
    assert rows_of(conn, old) == {}
    assert (read_batch(conn, young), rows_of(conn, young)) == before


def test_no_text_of_an_old_batch_is_left_anywhere(conn: Connection) -> None:
    """A text that only this batch has is in no column of any table after the purge."""
    secret = "zanzibar"
    batch_id = make_batch(conn, [NUMBERS[0], f"{NUMBERS[1]};ani={NUMBERS[2]}", f"not {secret}"], on_invalid="skip",
                          name=secret, send=False)  # fmt: skip
    answer_submissions(conn, lambda _: replace(UNKNOWN, error=secret, answer_text=secret))
    resolve_submission(conn, batch_id, 1, queued=True, note=secret, by=secret)
    conn.commit()
    deliver(conn, batch_id, result_body(NUMBERS[0], secret), result_body(NUMBERS[0], note=secret * 40), secret.encode())
    draft_id = insert_draft(conn, 1, BytesIO(secret.encode()), f"{secret}.csv", {"name": secret})
    conn.execute("update draft set batch_id = %s where draft_id = %s", (batch_id, draft_id))
    conn.execute(
        "insert into idempotency (key_id, idempotency_key, digest, batch_id) values (1, %s, '', %s)", (secret, batch_id)
    )
    conn.execute("insert into poll (batch_id, row, submission_no, call_id) values (%s, 1, 1, %s)", (batch_id, secret))
    conn.commit()
    assert len(traces_in_tables(conn, secret, str(NUMBERS[0]))) > 10
    assert purge_all(conn) == []
    assert [age(conn, batch_id)] == purge_all(conn)
    # Who did what stays, with its note.
    assert set(traces_in_tables(conn, secret, *map(str, NUMBERS))) == {"audit.actor", "audit.note"}


def test_age_counts_from_the_due_time(conn: Connection) -> None:
    batch_id = age(conn, make_batch(conn, NUMBERS), days=29)
    assert purge_all(conn) == []
    assert purge_all(conn, timedelta(days=28)) == [batch_id]


def test_batch_that_is_still_queueing_is_never_old(conn: Connection) -> None:
    batch_id = age(conn, make_batch(conn, NUMBERS, send=False))
    assert purge_all(conn) == []
    answer_submissions(conn)
    assert purge_all(conn) == [batch_id]


def test_batch_leaves_lists_and_totals_with_the_first_step(conn: Connection) -> None:
    old, young = age(conn, make_full_batch(conn)), make_full_batch(conn)
    next(purge(conn, MONTH, by=SYSTEM))
    conn.commit()
    with pytest.raises(NotFound):
        get_batch(conn, old)
    assert [batch.id for batch in list_batches(conn, BatchFilter(), 10)] == [young]
    alone = read_batch(conn, young)
    summary = get_summary(conn, SummaryFilter())
    assert summary.totals == {
        **alone.counts, "attempts": alone.attempts, "duration_seconds": alone.duration_seconds
    }  # fmt: skip
    assert sum(point["final"] for point in json.loads(summary.series_json)) == alone.counts["final"]
    attention = get_attention(conn, BatchFilter())
    assert (attention.unmatched, attention.unreadable, attention.conflict) == (1, 0, 1)  # one is acknowledged
    assert attention.totals == alone.counts


@pytest.mark.parametrize("pieces", [1, 2, 4, 9])
def test_interrupted_purge_is_continued(conn: Connection, pieces: int) -> None:
    old = age(conn, make_full_batch(conn))
    for _ in islice(purge(conn, MONTH, by=SYSTEM), pieces):
        conn.commit()
    conn.rollback()
    assert differences(conn) == []
    assert purge_all(conn, timedelta(days=36500)) == [old]
    assert rows_of(conn, old) == {}


def test_killed_transaction_deletes_nothing(conn: Connection) -> None:
    old = age(conn, make_full_batch(conn))
    before = rows_of(conn, old)
    next(purge(conn, MONTH, by=SYSTEM))
    conn.rollback()
    assert rows_of(conn, old) == before


@pytest.mark.parametrize("pieces", [1, 3, 100])
def test_callbacks_received_during_a_purge_stay_as_unmatched(conn: Connection, pieces: int) -> None:
    old = age(conn, make_full_batch(conn))
    steps = purge(conn, MONTH, by=SYSTEM)
    for _ in islice(steps, pieces):
        conn.commit()
    now = datetime.now(UTC)
    late = journal(
        conn, *(make_callback(old, body, received_at=now) for body in (result_body(NUMBERS[5]), b"nonsense"))
    )
    settle_all(conn)
    waiting = journal(conn, make_callback(old, result_body(NUMBERS[6]), received_at=now))
    for _ in steps:
        conn.commit()
    assert states(conn, late) == [("unmatched", "unknown_batch"), ("unreadable", "not_recognised")]
    assert differences(conn) == []
    settle_all(conn)
    assert states(conn, waiting) == [("unmatched", "unknown_batch")]
    assert set(rows_of(conn, old)) == {"callback", "set_aside", "batch_count"}
    assert get_attention(conn, BatchFilter()).unmatched == 2
    assert differences(conn) == []


def test_callbacks_that_waited_at_the_purge_are_kept(conn: Connection) -> None:
    old = age(conn, make_full_batch(conn))
    waiting = journal(conn, make_callback(old, result_body(NUMBERS[6]), received_at=datetime.now(UTC)))
    assert purge_all(conn) == [old]
    settle_all(conn)
    assert states(conn, waiting) == [("unmatched", "unknown_batch")]
    assert differences(conn) == []


def test_late_callbacks_are_purged_when_they_are_old(conn: Connection) -> None:
    old = age(conn, make_full_batch(conn))
    purge_all(conn)
    now = datetime.now(UTC)
    journal(
        conn,
        *(make_callback(old, result_body(NUMBERS[1]), received_at=now - timedelta(days=31)) for _ in range(8)),
        make_callback(old, result_body(NUMBERS[2]), received_at=now - timedelta(days=29)),
        make_callback(old, result_body(NUMBERS[3]), received_at=now - timedelta(days=32)),
    )
    settle_all(conn)
    assert count_old(conn, MONTH).late_callbacks == 9
    assert purge_all(conn) == [old]
    # A callback from a spool stays until newer callbacks before it are old, too.
    assert rows_of(conn, old) == {"callback": 2, "set_aside": 2, "batch_count": 1}
    assert purge_all(conn, timedelta(days=20)) == [old]
    assert rows_of(conn, old) == {}


def test_purge_waits_for_a_settlement(conn: Connection, database_url: str) -> None:
    old = age(conn, make_full_batch(conn))
    journal(conn, make_callback(old, result_body(NUMBERS[6])))
    settle(conn, claim_waiting(conn, 10))
    with closing(connect(database_url, name="another")) as other:
        other.execute("set lock_timeout = '100ms'")
        with pytest.raises(Exception, match="lock timeout"):
            next(purge(other, MONTH, by=SYSTEM))
    conn.commit()
    assert purge_all(conn) == [old]
    assert rows_of(conn, old) == {}


def test_purge_of_late_callbacks_waits_for_their_replay(conn: Connection, database_url: str) -> None:
    old = age(conn, make_full_batch(conn))
    purge_all(conn)
    long_ago = datetime.now(UTC) - timedelta(days=31)
    journal(conn, make_callback(old, result_body(NUMBERS[1]), received_at=long_ago))
    settle_all(conn)
    own_results(conn, [old])
    with closing(connect(database_url, name="another")) as other:
        other.execute("set lock_timeout = '100ms'")
        with pytest.raises(LockNotAvailable):
            next(purge(other, MONTH, by=SYSTEM))
    conn.commit()
    assert purge_all(conn) == [old]


def test_batch_that_is_locked_is_left_to_the_next_purge_with_its_results(conn: Connection, database_url: str) -> None:
    """Two results locks in one transaction would not be in order."""
    busy, old = (age(conn, make_full_batch(conn)) for _ in range(2))
    with closing(connect(database_url, name="another")) as other:
        other.execute("select from batch where batch_id = %s for update", (busy,))
        purged = []
        for removed in purge(conn, MONTH, by=SYSTEM):
            held = "select from pg_locks where classid = %s and mode = 'ExclusiveLock' and pid = pg_backend_pid()"
            assert conn.execute(held, (RESULTS_LOCK,)).rowcount <= 1
            conn.commit()
            purged += [removed.batch_id] * removed.ended
        assert purged == [old]
        other.rollback()
    assert purge_all(conn) == [busy]


def test_two_concurrent_purges_delete_once(conn: Connection, database_url: str) -> None:
    batches = [age(conn, make_full_batch(conn)) for _ in range(2)]
    with closing(connect(database_url, name="another")) as other:
        ours, theirs = purge(conn, MONTH, by=SYSTEM), purge(other, MONTH, by=SYSTEM)
        while any([_piece(ours, conn), _piece(theirs, other)]):
            pass
    assert [rows_of(conn, batch_id) for batch_id in batches] == [{}, {}]
    assert differences(conn) == []


def _piece(steps: Iterator[Removed], conn: Connection) -> bool:
    more = next(steps, None) is not None
    conn.commit()
    return more


def test_late_answer_for_a_purged_batch_is_dropped(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False)
    (outgoing,) = answer_submissions(conn, lambda _: UNKNOWN)
    age(conn, batch_id)
    purge_all(conn)
    assert record_answer(conn, outgoing, ACCEPTED) is None


def test_count_of_old_batches_deletes_nothing(conn: Connection) -> None:
    age(conn, make_full_batch(conn))
    make_full_batch(conn)
    old = count_old(conn, MONTH)
    assert (old.batches, old.calls, old.callbacks, old.late_callbacks) == (1, 12, 8, 0)
    assert len(list_batches(conn, BatchFilter(), 10)) == 2


def test_workers_purge_once_a_day_and_continue_an_interrupted_purge_at_once(conn: Connection) -> None:
    assert claim_purge(conn)
    assert not claim_purge(conn)
    conn.commit()
    age(conn, make_full_batch(conn))
    next(purge(conn, MONTH, by=SYSTEM))
    conn.commit()
    assert claim_purge(conn)
    conn.execute("update upkeep set next_at = now() where task = 'purge'")
    purge_all(conn)
    assert claim_purge(conn)


def test_draft_is_purged_with_its_batch(conn: Connection) -> None:
    batch_id = age(conn, make_batch(conn, NUMBERS))
    draft_id = insert_draft(conn, 1, BytesIO(b"destination\n"), "a.csv", {})
    conn.execute("update draft set batch_id = %s where draft_id = %s", (batch_id, draft_id))
    conn.commit()
    purge_all(conn)
    assert conn.execute("select count(*) from draft").fetchone() == (0,)


def test_replay_skips_a_batch_that_is_being_purged(conn: Connection) -> None:
    old, young = age(conn, make_full_batch(conn)), make_full_batch(conn)
    everything = find_settled(conn)
    removed = next(purge(conn, MONTH, by=SYSTEM))
    conn.commit()
    assert (removed.batch_id, removed.ended) == (old, False)
    before = read_batch(conn, young)
    assert replay(conn, everything) == replay(conn, find_settled(conn)) == []
    conn.commit()
    assert read_batch(conn, young) == before
    assert purge_all(conn) == [old]
    assert rows_of(conn, old) == {}


def test_simulated_batches_in_any_state_are_purged_completely_and_real_ones_stay(conn: Connection) -> None:
    real, queueing = make_full_batch(conn), make_batch(conn, NUMBERS, send=False, simulated=True)
    simulated = make_full_batch(conn)
    conn.execute("update batch set simulated = true where batch_id = %s", (simulated,))
    conn.commit()
    old = count_simulated(conn)
    assert (old.batches, old.calls) == (2, 24)
    assert old.callbacks == read_batch(conn, simulated).callbacks["received"] > 0
    kept = rows_of(conn, real)
    for _ in purge_simulated(conn, by=SYSTEM):
        conn.commit()
    assert rows_of(conn, simulated) == rows_of(conn, queueing) == {}
    assert rows_of(conn, real) == kept
    assert count_simulated(conn).batches == 0
    assert differences(conn) == []
