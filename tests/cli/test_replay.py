"""`replay`."""

from __future__ import annotations

from receiver.database.pool import Connection
from tests.cli.conftest import Run
from tests.factories import deliver, give_way_once, make_batch, phone_number, read_batch, result_body


def make_unreadable_callback(conn: Connection) -> tuple[int, int]:
    """A batch, and its callback that is stored as unreadable but can be read now."""
    batch_id = make_batch(conn)
    (callback_id,) = deliver(conn, batch_id, b"{")
    conn.execute("update callback set packing = 0, body = %s", (result_body(phone_number(0)),))
    conn.commit()
    return batch_id, callback_id


def test_replay_by_state_settles_again_and_shows_the_changes(run: Run, conn: Connection) -> None:
    batch_id, callback_id = make_unreadable_callback(conn)
    ran = run("replay", "--state", "unreadable")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines == [
        f"callback {callback_id}, batch {batch_id}, row 1: unreadable -> applied",
        "1 callbacks settled again; 1 changed.",
    ]
    assert read_batch(conn, batch_id).counts["completed"] == 1
    assert run("verify").status == 0


def test_dry_run_shows_the_same_and_changes_nothing(run: Run, conn: Connection) -> None:
    batch_id, callback_id = make_unreadable_callback(conn)
    ran = run("replay", str(callback_id), "--dry-run")
    assert ran.status == 0
    assert ran.lines[-1] == "1 callbacks settled again; 1 would change."
    assert read_batch(conn, batch_id).counts["completed"] == 0


def test_neither_or_both_of_ids_and_state_are_status_2(run: Run) -> None:
    for arguments in ((), ("1", "--state", "applied")):
        ran = run("replay", *arguments)
        assert (ran.status, ran.out) == (2, "")
        assert "--state" in ran.err


def test_missing_callback_changes_nothing(run: Run, conn: Connection) -> None:
    make_batch(conn)
    for callback_id in ("99", "9" * 30):
        assert run("replay", callback_id).lines == ["0 callbacks settled again; 0 changed."]


def test_replay_is_repeated_after_a_deadlock(run: Run, conn: Connection) -> None:
    batch_id, callback_id = make_unreadable_callback(conn)
    give_way_once(conn)
    ran = run("replay", str(callback_id))
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[-1] == "1 callbacks settled again; 1 changed."
    assert read_batch(conn, batch_id).counts["completed"] == 1
