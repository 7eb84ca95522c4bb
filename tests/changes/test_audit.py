"""The audit trail: each change leaves its entry in its own transaction, with no whole number in it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from receiver.changes.audit import COMMAND_LINE, ChangeFilter, list_changes, record_change
from receiver.database.pool import Connection
from receiver.queueing.suppressions import delete_suppression, suppress, suppress_all, unsuppress
from receiver.results.erasure import erase
from receiver.results.replay import replay_all
from receiver.results.retention import purge, purge_simulated
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.results.test_erasure import erase_all
from tests.results.traces import traces_in_tables

NUMBER, OTHER = phone_number(34), phone_number(1)


def actions(conn: Connection) -> list[tuple[str, str]]:
    """(actor, action), oldest first, but for what makes the test's batches."""
    found = list_changes(conn, ChangeFilter(), 100)
    conn.rollback()
    return [(each.actor, each.action) for each in reversed(found) if each.action != "queue"]


def test_suppressions_are_recorded_with_two_digits(conn: Connection) -> None:
    found, _ = suppress(conn, NUMBER, by="Ana", reason="opted_out", note=f"asked from +{NUMBER}")
    suppress(conn, NUMBER, by="Ben")
    suppress_all(conn, {NUMBER: None, OTHER: None}, by="Cy", note="list of May")
    delete_suppression(conn, found.id, by="Dev")
    unsuppress(conn, OTHER, by="Eve")
    conn.commit()
    entries = list_changes(conn, ChangeFilter(), 100)[::-1]
    assert [(each.actor, each.action, each.details) for each in entries] == [
        ("Ana", "suppress", {"phone_number": "*********34", "reason": "opted_out"}),
        ("Cy", "suppress", {"added": 1, "present": 1}),
        ("Dev", "unsuppress", {"phone_number": "*********34", "suppression_id": found.id}),
        ("Eve", "unsuppress", {"phone_number": "*********01", "suppression_id": entries[3].details["suppression_id"]}),
    ]
    assert [each.note for each in entries] == ["asked from +*********34", "list of May", None, None]
    assert traces_in_tables(conn, str(NUMBER)[1:]) == []


def test_texts_and_numbers_of_other_kinds_stay(conn: Connection) -> None:
    record_change(
        conn, "Ana", "change", details={"application_id": 61755501234, "name": "Mai 2026"}, note="ticket 4711"
    )
    (entry,) = list_changes(conn, ChangeFilter(), 10)
    assert (entry.details, entry.note) == ({"application_id": 61755501234, "name": "Mai 2026"}, "ticket 4711")


@pytest.mark.parametrize(
    ("note", "kept"),
    [
        ("555-1234", "***-**34"),
        ("call 020 7946 0958 first", "call *** **** **58 first"),
        ("07911 123456", "***** ****56"),
        ("555\u20131234", "***\u2013**34"),
        ("+44 (0)20/7946.0958", "+** (*)**/****.**58"),
        ("4155550123, 1 2 3 4 5 6 7", "********23, * * * * * 6 7"),
        ("030 - 12 34 567", "*** - ** ** *67"),
        ("2026-12-01-5550123", "****-**-**-*****23"),
        ("2026-12-01 5550123", "****-**-** *****23"),
        ("asked on 2026-12-01 10:30:00, again 2026-12-02", "asked on 2026-12-01 10:30:00, again 2026-12-02"),
        ("list 2026-12-01T10:30Z, ticket 123456", "list 2026-12-01T10:30Z, ticket 123456"),
    ],
)
def test_number_in_a_note_keeps_two_digits_in_any_format(conn: Connection, note: str, kept: str) -> None:
    record_change(conn, "Ana", "cancel", note=note)
    (entry,) = list_changes(conn, ChangeFilter(), 10)
    assert entry.note == kept


def test_change_that_is_rolled_back_leaves_no_entry(conn: Connection) -> None:
    suppress(conn, NUMBER, by="Ana")
    conn.rollback()
    assert actions(conn) == []


def test_erasure_is_recorded_once_and_a_dry_run_never(conn: Connection) -> None:
    make_batch(conn, [NUMBER])
    for _ in erase(conn, NUMBER, by="Ana"):
        conn.rollback()
    assert actions(conn) == []
    erase_all(conn, NUMBER)
    assert actions(conn) == [("system", "erase")]
    (entry,) = list_changes(conn, ChangeFilter(action="erase"), 10)
    assert entry.details == {"phone_number": "*********34"}


def test_only_an_erasure_changes_an_entry(conn: Connection) -> None:
    record_change(conn, f"key of {NUMBER}", "pause", batch_id=1)
    conn.commit()
    erase_all(conn, NUMBER)
    assert {each.actor for each in list_changes(conn, ChangeFilter(), 10)} == {"key of erased", "system"}


def test_purge_is_recorded_for_each_batch(conn: Connection) -> None:
    batch_ids = [make_batch(conn, [NUMBER]), make_batch(conn, [OTHER])]
    simulated = make_batch(conn, [NUMBER], simulated=True)
    conn.execute(
        "update batch set created_at = now() - interval '9 days', due_at = created_at where batch_id = any(%s)",
        (batch_ids,),
    )
    conn.execute("update batch set due_at = now() - interval '9 days' where batch_id = any(%s)", (batch_ids,))
    conn.commit()
    for _ in purge(conn, timedelta(days=7), by=COMMAND_LINE):
        conn.commit()
    for _ in purge_simulated(conn, by="Ana"):
        conn.commit()
    entries = list_changes(conn, ChangeFilter(action="purge"), 10)[::-1]
    assert [(each.actor, each.batch_id) for each in entries] == [
        *((COMMAND_LINE, batch_id) for batch_id in batch_ids),
        ("Ana", simulated),
    ]


def test_replay_is_recorded_and_its_dry_run_is_not(conn: Connection) -> None:
    deliver(conn, make_batch(conn, [NUMBER]), result_body(NUMBER))
    list(replay_all(conn, by="Ana", state="applied", dry_run=True))
    assert actions(conn) == []
    list(replay_all(conn, by="Ana", state="applied"))
    assert actions(conn) == [("Ana", "replay")]
    (entry,) = list_changes(conn, ChangeFilter(action="replay"), 10)
    assert entry.details == {"callbacks": 1, "changed": 0}


def test_entries_are_narrowed_and_paged(conn: Connection) -> None:
    for number in range(3):
        record_change(conn, "Ana" if number else "Ben", "pause", batch_id=number)
        record_change(conn, "Ana", "resume", batch_id=number)
    conn.commit()
    now = datetime.now(UTC)
    assert len(list_changes(conn, ChangeFilter("Ana"), 10)) == 5
    assert len(list_changes(conn, ChangeFilter("Ana", "pause"), 10)) == 2
    assert list_changes(conn, ChangeFilter(since=now + timedelta(hours=1)), 10) == []
    assert len(list_changes(conn, ChangeFilter(since=now - timedelta(hours=1)), 10)) == 6
    first = list_changes(conn, ChangeFilter(), 4)
    assert [each.batch_id for each in first] == [2, 2, 1, 1]
    rest = list_changes(conn, ChangeFilter(), 4, first[-1].id)
    assert [each.action for each in rest] == ["resume", "pause"]
    at = first[0].at
    assert list_changes(conn, ChangeFilter(until=at), 10) == []
    assert len(list_changes(conn, ChangeFilter(since=at), 10)) == 6
