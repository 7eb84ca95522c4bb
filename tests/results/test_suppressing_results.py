"""A result with one of SUPPRESS_STATUSES suppresses the number, in the transaction that settles it."""

from __future__ import annotations

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.database.pool import Connection
from receiver.queueing.suppressions import list_suppressions, unsuppress
from receiver.results.replay import replay_all
from tests.factories import claim_waiting, journal, make_batch, make_callback, phone_number, result_body, settle

NUMBERS = [phone_number(index) for index in range(4)]
STATUSES = frozenset({"do-not-call", "failed"})


def deliver(conn: Connection, batch_id: int, *bodies: bytes, statuses: frozenset[str] = STATUSES) -> None:
    journal(conn, *(make_callback(batch_id, body) for body in bodies))
    settle(conn, claim_waiting(conn, 500), statuses)
    conn.commit()


def suppressed(conn: Connection) -> dict[int | None, tuple[str | None, str]]:
    return {each.phone_number: (each.reason, each.created_by) for each in list_suppressions(conn, 10)}


def test_result_with_one_of_the_statuses_suppresses_the_number(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(
        conn,
        batch_id,
        result_body(NUMBERS[0], "Do-Not-Call"),
        result_body(NUMBERS[1], "completed"),
        result_body(NUMBERS[2], "failed"),
        result_body(NUMBERS[3], "dialing"),
    )
    assert suppressed(conn) == {NUMBERS[0]: ("Do-Not-Call", "system"), NUMBERS[2]: ("failed", "system")}
    entries = list_changes(conn, ChangeFilter(action="suppress"), 10)
    assert {(each.actor, each.batch_id, each.details["phone_number"]) for each in entries} == {
        ("system", batch_id, "*********00"),
        ("system", batch_id, "*********02"),
    }


def test_without_the_setting_nobody_is_suppressed(conn: Connection) -> None:
    deliver(conn, make_batch(conn, NUMBERS), result_body(NUMBERS[0], "failed"), statuses=frozenset())
    assert suppressed(conn) == {}


def test_status_that_only_names_a_step_suppresses_nobody(conn: Connection) -> None:
    deliver(conn, make_batch(conn, NUMBERS), result_body(NUMBERS[0], "ringing"), statuses=frozenset({"ringing"}))
    assert suppressed(conn) == {}


def test_only_the_result_that_wins_counts(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0], "completed", last_event=60))
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed", last_event=50))
    assert suppressed(conn) == {}
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed", last_event=70))
    assert suppressed(conn) == {NUMBERS[0]: ("failed", "system")}


def test_repeated_result_does_not_suppress_again_who_was_let_go(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
    unsuppress(conn, NUMBERS[0], by="Ana")
    conn.commit()
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
    assert suppressed(conn) == {}


def test_two_results_of_one_number_suppress_it_once(conn: Connection) -> None:
    batch_ids = [make_batch(conn, NUMBERS) for _ in range(2)]
    journal(conn, *(make_callback(batch_id, result_body(NUMBERS[0], "failed")) for batch_id in batch_ids))
    settle(conn, claim_waiting(conn, 500), STATUSES)
    conn.commit()
    assert suppressed(conn) == {NUMBERS[0]: ("failed", "system")}
    assert len(list_changes(conn, ChangeFilter(action="suppress"), 10)) == 1


def test_replay_suppresses_as_settlement_does(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"), statuses=frozenset())
    list(replay_all(conn, by="Ana", state="applied", dry_run=True, suppress_statuses=STATUSES))
    assert suppressed(conn) == {}
    list(replay_all(conn, by="Ana", state="applied", suppress_statuses=STATUSES))
    assert suppressed(conn) == {NUMBERS[0]: ("failed", "system")}


def test_simulated_result_suppresses_nobody(conn: Connection) -> None:
    simulated, real = (make_batch(conn, NUMBERS, simulated=simulated) for simulated in (True, False))
    deliver(conn, simulated, result_body(NUMBERS[0], "failed"))
    assert suppressed(conn) == {}
    deliver(conn, real, result_body(NUMBERS[1], "failed"))
    assert suppressed(conn) == {NUMBERS[1]: ("failed", "system")}
