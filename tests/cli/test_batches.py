"""`queue`, `status`, `export` and `verify`."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from receiver.cli import batches
from receiver.database.pool import Connection
from receiver.queueing.suppressions import digest_of, get_key
from receiver.release.answer import Answer
from tests.cli.conftest import Run
from tests.factories import REFUSED, answer_submissions, deliver, make_batch, phone_number, read_batch, result_body

CSV = "destination,name\n6175551234,Ana\n6175551299,Ben\n"
TO = ("--application", "7", "--deployment", "3")


@pytest.fixture
def contacts(tmp_path: Path) -> str:
    path = tmp_path / "contacts.csv"
    path.write_text(CSV)
    return str(path)


def count_batches(conn: Connection) -> int:
    row = conn.execute("select count(*) from batch").fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])


def test_queued_csv_is_a_batch_with_its_options(run: Run, conn: Connection, contacts: str) -> None:
    ran = run(
        "queue", contacts, *TO, "--name", "Reminders", "--max-attempts", "3", "--reattempt-wait", "300", "--is-pci", "1"
    )
    assert (ran.status, ran.err) == (0, "")
    (batch_id,) = (int(word) for word in ran.out.split() if word.isdigit())
    batch = read_batch(conn, batch_id)
    assert (batch.name, batch.application_id, batch.deployment_id) == ("Reminders", 7, 3)
    assert batch.parameters["max_attempts"] == 3 and batch.parameters["reattempt_wait"] == 300
    assert batch.parameters["is_pci"] and batch.counts["pending"] == 2


def test_default_name_is_the_name_of_the_file(run: Run, conn: Connection, contacts: str, tmp_path: Path) -> None:
    run("queue", contacts, *TO)
    strange = tmp_path / "caf\udce9\n.csv"
    strange.write_text(CSV)
    assert run("queue", str(strange), *TO).status == 0
    assert read_batch(conn, 1).name == "contacts.csv"
    assert read_batch(conn, 2).name.isprintable()


@pytest.mark.parametrize("more", [(), ("--dry-run",)])
def test_csv_is_read_from_standard_input(
    run: Run, conn: Connection, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    """A pipe cannot be read twice. The account of a deployment may be unable to read the caller's files."""
    reading, writing = os.pipe()
    with open(writing, "wb") as end:
        end.write(CSV.encode())
    with open(reading, encoding="utf-8") as pipe:
        monkeypatch.setattr(sys, "stdin", pipe)
        ran = run("queue", "-", *TO, *more)
    assert (ran.status, ran.err) == (0, "")
    if more:
        assert ran.lines[0] == "2 rows: 2 valid, 0 invalid, 0 duplicates"
    else:
        batch = read_batch(conn, 1)
        assert (batch.name, batch.counts["pending"]) == ("standard input", 2)


def test_dry_run_shows_the_counts_and_stores_nothing(run: Run, conn: Connection, contacts: str) -> None:
    Path(contacts).write_text(CSV + "911,Eve\n6175551234,Ana\n")
    ran = run("queue", contacts, *TO, "--dry-run")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[0] == "4 rows: 3 valid, 1 invalid, 1 duplicates"
    assert "row 3, line 4:" in ran.lines[2] and "destination_emergency" in ran.lines[2]
    assert "row 4, line 5:" in ran.lines[3] and "duplicate" in ran.lines[3]
    assert count_batches(conn) == 0


def test_dry_run_shows_zones_and_suppressed_numbers(run: Run, conn: Connection, contacts: str) -> None:
    conn.execute(
        "insert into suppression (phone_number, digest, created_by) values (16175551299, %s, 'test')",
        (digest_of(get_key(conn), 16175551299),),
    )
    conn.commit()
    ran = run("queue", contacts, *TO, "--dry-run", "--calling-hours", "09:00-21:00")
    assert ran.lines[0] == "2 rows: 1 valid, 0 invalid, 0 duplicates, 1 suppressed"
    assert ran.lines[2].startswith("  America/New_York: 1 calls, opens at 2")
    assert "row 2, line 3: " in ran.lines[3] and "(suppressed)" in ran.lines[3]


def test_pace_hours_and_names_are_options(run: Run, conn: Connection, contacts: str) -> None:
    options = {
        "--calls-per-minute": "60",
        "--calling-hours": "09:00-21:00",
        "--calling-days": "mon,sun",
        "--time-zone": "Europe/Berlin",
        "--time-zone-column": "name",
        "--external-id": "crm 7",
        "--labels": '{"team": "north"}',
    }
    Path(contacts).write_text("destination,name\n6175551234,Asia/Tokyo\n6175551299,\n")
    assert run("queue", contacts, *TO, *(word for pair in options.items() for word in pair)).status == 0
    batch = read_batch(conn, 1)
    assert batch.parameters | {"calls_per_minute": 60, "calling_hours": "09:00-21:00"} == batch.parameters
    assert batch.parameters | {"calling_days": "mon,sun", "time_zone": "Europe/Berlin"} == batch.parameters
    assert (batch.external_id, batch.labels, batch.created_by) == ("crm 7", {"team": "north"}, "command line")
    assert [submission.time_zone for submission in batch.submissions] == ["Asia/Tokyo", "Europe/Berlin"]
    again = run("queue", contacts, *TO, "--external-id", "crm 7")
    fault = "external_id: Batch 1 has this external_id. (external_id_used)"
    assert (again.status, again.err) == (1, f"receiver: Each batch needs an external_id of its own.\n  {fault}\n")
    assert run("queue", contacts, *TO, "--calling-days", "mon").status == 2


def test_dry_run_needs_no_database_and_counts_the_faults_that_it_does_not_show(
    run_anywhere: Run, environment: pytest.MonkeyPatch, contacts: str
) -> None:
    environment.setenv("DATABASE_URL", "postgresql://127.0.0.1:9/none")
    Path(contacts).write_text("destination\n" + "12\n" * 150)
    ran = run_anywhere("queue", contacts, *TO, "--dry-run")
    assert ran.status == 0
    assert "suppressed and recent numbers are not checked: The database is unavailable" in ran.err
    assert len(ran.lines) == 103 and ran.lines[-1].strip() == "and 50 more"


def test_refused_csv_is_status_1_with_each_fault(run: Run, conn: Connection, contacts: str) -> None:
    Path(contacts).write_text("destination\n" + "12\n" * 150)
    ran = run("queue", contacts, *TO)
    assert (ran.status, ran.out) == (1, "")
    assert "  row 1, line 2: " in ran.err and "  row 100, line 101: " in ran.err and "and 50 more" in ran.err
    assert count_batches(conn) == 0


def test_refusal_names_lines_options_and_recent_batches_but_no_skipped_rows(
    run: Run, conn: Connection, contacts: str
) -> None:
    recent = make_batch(conn, [6175551234])
    Path(contacts).write_text("destination\n12\n6175551234\n6175551299\n6175551299\n")
    ran = run("queue", contacts, *TO, "--on-invalid", "skip", "--on-recent", "refuse")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.splitlines() == [
        "receiver: Some rows cannot be called. Correct them, or leave them out (on_duplicate, on_recent: skip).",
        f"  row 2, line 3: This number was queued recently, in batch {recent}. (recent)",
        "  row 4, line 5: Same number as row 3. (duplicate)",
    ]


def test_invalid_parameters_are_status_2_with_each_field(run: Run, conn: Connection, contacts: str) -> None:
    ran = run("queue", contacts, "--application", "x", "--deployment", "0", "--max-attempts", "99")
    assert (ran.status, ran.out) == (2, "")
    for field in ("application_id", "deployment_id", "max_attempts"):
        assert f"  {field}: " in ran.err
    assert count_batches(conn) == 0


def break_off(monkeypatch: pytest.MonkeyPatch, conn: Connection, name: str) -> None:
    """Terminate the command's connection at the server after `name` was called."""
    done = getattr(batches, name)

    def then_break(own: Connection, *arguments: object, **named: object) -> object:
        found = done(own, *arguments, **named)
        conn.execute("select pg_terminate_backend(%s, 5000)", (own.info.backend_pid,))
        conn.rollback()
        if name == "get_batch":
            return done(own, *arguments)
        return found

    monkeypatch.setattr(batches, name, then_break)


def test_connection_lost_while_storing_advises_to_check_first(
    run: Run, conn: Connection, contacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(monkeypatch, conn, "accept")
    ran = run("queue", contacts, *TO)
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert "may have been stored" in ran.err and "before you queue it again" in ran.err


def test_connection_lost_while_watching_names_the_stored_batch(
    run: Run, conn: Connection, contacts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_off(monkeypatch, conn, "get_batch")
    ran = run("queue", contacts, *TO, "--watch")
    assert (ran.status, ran.out) == (1, "Batch 1 is stored; a worker sends it.\n")
    assert len(ran.err.splitlines()) == 1
    assert "Batch 1 is stored" in ran.err and "Do not queue it again" in ran.err and "status 1" in ran.err
    assert count_batches(conn) == 1


@pytest.mark.parametrize("watch", [(), ("--watch",)], ids=["once", "watch"])
def test_connection_lost_during_status_is_reported_in_one_line(
    run: Run, conn: Connection, monkeypatch: pytest.MonkeyPatch, watch: tuple[str, ...]
) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    break_off(monkeypatch, conn, "get_batch")
    ran = run("status", str(batch_id), *watch)
    assert (ran.status, ran.out, len(ran.err.splitlines())) == (1, "", 1)
    assert "The database is unavailable" in ran.err


def test_csv_that_cannot_be_opened_is_status_2(run: Run, tmp_path: Path) -> None:
    for path in (tmp_path / "nothing.csv", tmp_path):
        ran = run("queue", str(path), *TO)
        assert (ran.status, ran.out) == (2, "")
        assert str(path) in ran.err


def test_status_shows_the_balance(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    deliver(conn, batch_id, result_body(phone_number(0)))
    ran = run("status", str(batch_id))
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[0] == f"batch {batch_id} queued: 50%, 1 ended, 1 pending, 0 overdue"
    assert ran.lines[1].split() == ["phase", "calling"]
    assert "rows 2" in ran.lines[2] and "completed 1" in ran.lines[2]
    assert "received 1" in ran.lines[3] and "applied 1" in ran.lines[3]


def test_status_of_a_missing_batch_is_status_1(run: Run) -> None:
    for batch in ("99", "-1", "9" * 30):
        ran = run("status", batch)
        assert (ran.status, ran.out) == (1, ""), batch
        assert ran.err == f"receiver: Batch {batch} does not exist.\n"


def test_watch_ends_with_the_last_result_and_shows_no_progress_when_piped(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(phone_number(0)))
    ran = run("status", str(batch_id), "--watch")
    assert (ran.status, ran.err) == (0, "")
    assert ran.lines[0].startswith(f"batch {batch_id} queued: 100%")


def test_watch_of_a_refused_batch_is_status_1_with_the_reason(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    ran = run("status", str(batch_id), "--watch")
    assert ran.status == 1
    assert "refused, provider status 400: data improperly formatted" in ran.out
    assert run("status", str(batch_id)).status == 0


def test_verify_passes_if_all_counters_are_right(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(phone_number(0)))
    for arguments in ((), (str(batch_id),)):
        ran = run("verify", *arguments)
        assert (ran.status, ran.lines) == (0, ["The balance holds, and every counter agrees with the rows."])


def test_verify_lists_differences_with_status_1(run: Run, conn: Connection) -> None:
    wrong, right = make_batch(conn, [phone_number(0), phone_number(1)]), make_batch(conn)
    conn.execute("update batch_count set completed = 1, duplicate = 2 where batch_id = %s", (wrong,))
    conn.commit()
    for arguments in ((), (str(wrong),)):
        ran = run("verify", *arguments)
        assert ran.status == 1
        assert f"batch {wrong}: completed: stored 1, counted from the rows 0" in ran.lines
        assert f"batch {wrong}: duplicate: stored 2, counted from the rows 0" in ran.lines
        assert not any(line.startswith(f"batch {right}:") for line in ran.lines)
    assert run("verify", str(right)).status == 0


def test_verify_of_a_missing_batch_is_status_1(run: Run) -> None:
    ran = run("verify", "99")
    assert (ran.status, ran.err) == (1, "receiver: Batch 99 does not exist.\n")


def test_export_writes_the_users_columns_and_then_the_results(run: Run, conn: Connection, contacts: str) -> None:
    run("queue", contacts, *TO)
    ran = run("export", "1")
    assert (ran.status, ran.err) == (0, "")
    header, first, second = ran.out.splitlines()
    assert header.startswith("destination,name,row,phone_number,state")
    assert first.startswith("6175551234,Ana,1,+16175551234,pending") and second.startswith("6175551299,Ben,2,")


def test_export_as_ndjson_has_one_call_on_each_line(run: Run, conn: Connection, contacts: str) -> None:
    run("queue", contacts, *TO)
    calls = [json.loads(line) for line in run("export", "1", "--format", "ndjson").out.splitlines()]
    assert [(call["row"], call["variables"]) for call in calls] == [(1, {"name": "Ana"}), (2, {"name": "Ben"})]


def test_export_of_a_missing_batch_is_refused(run: Run, conn: Connection) -> None:
    ran = run("export", "4711")
    assert (ran.status, ran.out) == (1, "") and "Batch 4711 does not exist" in ran.err


def test_status_says_that_the_provider_queued_fewer_calls(run: Run, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1), phone_number(2)], send=False)
    answer_submissions(conn, lambda _: Answer("accepted", 200, calls_queued=1))
    said = (
        "The provider queued 1 of 3 calls of submission 1. 2 may get no result. Calls without a result are overdue at 2"
    )
    assert run("status", str(batch_id)).lines[-1].startswith(said)
    deliver(conn, batch_id, *(result_body(phone_number(index)) for index in range(3)))
    assert "queued 1 of 3" not in run("status", str(batch_id)).out
