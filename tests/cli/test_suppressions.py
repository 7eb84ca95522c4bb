"""suppress and unsuppress, as people type them, and what commands leave in the audit trail."""

from __future__ import annotations

from pathlib import Path

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.database.pool import Connection
from receiver.queueing.suppressions import list_suppressions
from tests.cli.conftest import Run
from tests.factories import deliver, make_batch, phone_number, result_body

NUMBER = phone_number(34)


def test_number_is_suppressed_and_let_go(run: Run, conn: Connection) -> None:
    ran = run("suppress", "(617) 555-0034", "--reason", "opted_out", "--note", "by mail")
    assert (ran.status, ran.out, ran.err) == (0, "*********34 is not called any more.\n", "")
    (entry,) = list_suppressions(conn, 10)
    conn.rollback()
    assert (entry.phone_number, entry.reason, entry.note, entry.created_by) == (
        NUMBER,
        "opted_out",
        "by mail",
        "command line",
    )
    assert run("suppress", str(NUMBER)).out == "*********34 is already suppressed.\n"
    assert run("unsuppress", str(NUMBER)).out == "*********34 can be called again.\n"
    ran = run("unsuppress", str(NUMBER))
    assert (ran.status, ran.err) == (1, "receiver: This suppression does not exist.\n")
    assert list_suppressions(conn, 10) == []


def test_file_is_suppressed_and_its_faults_are_reported(run: Run, conn: Connection, tmp_path: Path) -> None:
    file = tmp_path / "numbers.csv"
    file.write_text(f"phone_number,reason\n{NUMBER},a\n555,b\n{NUMBER},c\n6175550001,\n")
    ran = run("suppress", str(file), "--reason", "May")
    assert (ran.status, ran.out) == (0, "2 added, 1 already suppressed, 1 not valid.\n")
    assert ran.err.startswith("  row 2: ") and "(destination_invalid)" in ran.err
    assert [each.reason for each in list_suppressions(conn, 10)][::-1] in (["a", "May"], ["May", "a"])


def test_what_is_neither_number_nor_file_is_refused(run: Run, conn: Connection, tmp_path: Path) -> None:
    for arguments in (
        ("suppress", "555"),
        ("suppress", str(tmp_path / "missing.csv")),
        ("suppress", str(tmp_path)),
        ("suppress", str(NUMBER), "--reason", "x" * 201),
        ("unsuppress", "555"),
        ("suppress",),
    ):
        assert run(*arguments).status == 2, arguments
    file = tmp_path / "numbers.csv"
    file.write_text("number\n6175550001\n")
    ran = run("suppress", str(file))
    assert ran.status == 1 and "(missing_phone_number)" in ran.err
    assert list_suppressions(conn, 10) == []


def test_commands_leave_who_did_what(run: Run, conn: Connection) -> None:
    deliver(conn, make_batch(conn, [NUMBER], simulated=True), result_body(NUMBER))
    run("keys", "create", "team", "--scope", "read")
    run("keys", "revoke", "team")
    run("replay", "--state", "applied", "--dry-run")
    run("replay", "--state", "applied")
    run("erase", str(NUMBER), "--dry-run")
    run("erase", str(NUMBER), "--yes")
    run("purge", "--simulated", "--dry-run")
    run("purge", "--simulated")
    entries = list_changes(conn, ChangeFilter(actor="command line"), 100)[::-1]
    assert [(each.action, each.details) for each in entries] == [
        ("make_key", {"name": "team", "scope": "read"}),
        ("revoke_key", {"name": "team"}),
        ("replay", {"callbacks": 1, "changed": 0}),
        ("erase", {"phone_number": "*********34"}),
        ("purge", {}),
    ]
