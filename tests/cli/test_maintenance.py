"""`resolve`, `purge` and `erase`, as typed by a person."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest

from receiver.database.pool import Connection
from receiver.intake.journal import Callback, Group
from receiver.intake.spool import Spool
from receiver.model import SubmissionKey
from receiver.release.resolution import list_resolutions
from receiver.summary.calls import get_call
from tests.cli.conftest import Run
from tests.factories import (
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    phone_number,
    read_batch,
    result_body,
)

ROOT = Path(__file__).parents[2]
NUMBERS = [phone_number(index) for index in range(3)]


@pytest.fixture
def unknown(conn: Connection) -> int:
    """A batch whose only submission is unknown."""
    batch_id = make_batch(conn, NUMBERS, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    return batch_id


@pytest.fixture
def old(conn: Connection) -> int:
    """A batch that was due forty days ago."""
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    conn.execute("update batch set created_at = now() - interval '41 days', due_at = now() - interval '40 days'")
    conn.commit()
    return batch_id


def test_resolve_applies_the_confirmed_decision_and_stores_who_and_why(
    run: Run, conn: Connection, unknown: int
) -> None:
    ran = run("resolve", str(unknown), "1", "--not-queued", "--note", "their page is empty", "--by", "Ana", "--yes")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"Submission 1 of batch {unknown} is pending now. A worker sends it again.\n"
    (kept,) = list_resolutions(conn, unknown)
    assert (kept.note, kept.resolved_by, kept.queued) == ("their page is empty", "Ana", False)
    conn.commit()
    again = run("resolve", str(unknown), "1", "--queued", "--note", "x", "--yes")
    assert (again.status, again.out) == (1, "")
    assert "needs no decision: it is waiting to be sent" in again.err


def test_resolve_uses_the_name_of_the_account_by_default(run: Run, conn: Connection, unknown: int) -> None:
    ran = run("resolve", str(unknown), "1", "--queued", "--note", "their page shows it", "--yes")
    assert ran.out == f"Submission 1 of batch {unknown} is accepted now. Its results are expected.\n"
    assert list_resolutions(conn, unknown)[0].resolved_by


@pytest.mark.parametrize(("option", "warning"), [("--queued", "nobody is called"), ("--not-queued", "DIALED TWICE")])
def test_resolve_without_a_terminal_needs_yes(
    run: Run, conn: Connection, unknown: int, option: str, warning: str
) -> None:
    ran = run("resolve", str(unknown), "1", option, "--note", "x")
    assert ran.status == 2
    assert warning in ran.err and "--yes" in ran.err and "3 calls for application 7, deployment 3" in ran.err
    assert read_batch(conn, unknown).state == "unknown"


def run_on_a_terminal(
    database_url: str, data_dir: Path, typed: str, *arguments: str
) -> subprocess.CompletedProcess[bytes]:
    """Run a command with a terminal as its input, in which a person types a line."""
    our_end, its_end = pty.openpty()
    try:
        os.write(our_end, f"{typed}\n".encode())
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "SECRET_KEY": "a secret that only the tests use",
            "DATA_DIR": str(data_dir),
        }
        command = [sys.executable, "-m", "receiver", *arguments]
        return subprocess.run(command, cwd=ROOT, env=environment, stdin=its_end, capture_output=True, timeout=180)
    finally:
        os.close(our_end)
        os.close(its_end)


@pytest.mark.parametrize(("typed", "status", "state"), [("yes", 0, "queued"), ("y", 1, "unknown"), ("", 1, "unknown")])
def test_resolve_on_a_terminal_asks(
    conn: Connection, database_url: str, tmp_path: Path, unknown: int, typed: str, status: int, state: str
) -> None:
    ran = run_on_a_terminal(database_url, tmp_path, typed, "resolve", str(unknown), "1", "--queued", "--note", "seen")
    assert ran.returncode == status, ran.stderr
    assert b"Type yes to continue" in ran.stderr
    assert read_batch(conn, unknown).state == state


@pytest.mark.parametrize(
    "arguments",
    [("1", "1", "--note", "x"), ("1", "1", "--queued"), ("1", "1", "--queued", "--not-queued", "--note", "x")],
)
def test_resolve_with_missing_arguments_is_refused(run_anywhere: Run, arguments: tuple[str, ...]) -> None:
    assert run_anywhere("resolve", *arguments).status == 2


def test_purge_needs_an_age(run: Run, environment: pytest.MonkeyPatch, old: int) -> None:
    environment.delenv("RETENTION_DAYS", raising=False)
    ran = run("purge")
    assert ran.status == 2 and "--older-than" in ran.err and "RETENTION_DAYS" in ran.err
    assert run("purge", "--older-than", "-1").status == 2
    assert run("purge", "--older-than", "soon").status == 2


def test_purge_reports_what_would_be_deleted_and_what_was_deleted(run: Run, conn: Connection, old: int) -> None:
    young = make_batch(conn, NUMBERS)
    would = run("purge", "--older-than", "30", "--dry-run")
    assert (would.status, would.err) == (0, "")
    assert would.out == "Would purge 1 batches older than 30 days, with 3 calls and 1 callbacks.\n"
    assert read_batch(conn, old)
    purged = run("purge", "--older-than", "30")
    assert (purged.status, purged.err) == (0, "")
    assert purged.out.startswith("Purged 1 batches older than 30 days, with 3 calls and 1 callbacks: 7 rows under 1")
    assert conn.execute("select batch_id from batch").fetchall() == [(young,)]
    assert differences(conn) == []
    assert run("status", str(old)).status == 1


def test_purge_reads_the_age_from_the_environment(run: Run, environment: pytest.MonkeyPatch, old: int) -> None:
    environment.setenv("RETENTION_DAYS", "50")
    assert run("purge").out.startswith("Purged 0 batches")
    environment.setenv("RETENTION_DAYS", "39")
    assert run("purge").out.startswith("Purged 1 batches")


def test_erase_accepts_any_spelling_and_masks_the_number(run: Run, conn: Connection, old: int) -> None:
    spelt = "(617) 555-0000"
    would = run("erase", spelt, "--dry-run")
    assert (
        would.out
        == "Would erase *********00: calls 1, contacts 0, skipped 0, callbacks 1, texts 0, drafts 0, suppressions 0.\n"
    )
    ran = run("erase", spelt, "--yes")
    assert ran.status == 0
    assert (
        ran.out
        == "Erased *********00: calls 1, contacts 0, skipped 0, callbacks 1, texts 0, drafts 0, suppressions 0.\n"
    )
    assert differences(conn) == []


def test_erase_reports_a_number_that_was_never_stored(run: Run, old: int) -> None:
    never = str(phone_number(77))
    ran = run("erase", never, "--yes")
    assert (ran.status, ran.out) == (0, "Nothing contains *********77, so nothing was erased.\n")
    assert run("erase", never, "--dry-run").out == "Nothing contains *********77, so nothing would be erased.\n"
    run("erase", str(NUMBERS[0]), "--yes")
    assert run("erase", str(NUMBERS[0]), "--yes").out.startswith("Nothing contains *********00")


def test_erase_reports_calls_whose_callbacks_may_still_arrive(run: Run, old: int) -> None:
    assert "1 of these calls have no result yet" in run("erase", str(NUMBERS[1]), "--yes").out


def test_erase_without_a_terminal_needs_yes(run: Run, conn: Connection, old: int) -> None:
    ran = run("erase", str(NUMBERS[0]))
    assert (ran.status, ran.out) == (2, "")
    assert "1 calls in 1 batches are to *********00." in ran.err and "--yes" in ran.err
    assert get_call(conn, old, 1).phone_number == f"+{NUMBERS[0]}"


@pytest.mark.parametrize(("typed", "status", "erased"), [("yes", 0, True), ("y", 1, False), ("", 1, False)])
def test_erase_on_a_terminal_asks(
    conn: Connection, database_url: str, tmp_path: Path, old: int, typed: str, status: int, erased: bool
) -> None:
    ran = run_on_a_terminal(database_url, tmp_path, typed, "erase", str(NUMBERS[0]))
    assert ran.returncode == status, ran.stderr
    assert b"Type yes to continue" in ran.stderr
    assert (get_call(conn, old, 1).phone_number == "erased") is erased


def test_erase_refuses_an_invalid_number(run: Run) -> None:
    ran = run("erase", "555", "--yes")
    assert ran.status == 2 and "NUMBER" in ran.err


def test_erase_waits_for_callbacks_in_the_spool_that_contain_the_number(
    run: Run, conn: Connection, tmp_path: Path, old: int
) -> None:
    spool = Spool(tmp_path / "data" / "spool.sqlite3", 1 << 24)
    for number in (NUMBERS[1], *(phone_number(index) for index in range(100, 300)), NUMBERS[0]):
        callback = Callback(SubmissionKey(old, 1), datetime.now(UTC), "", "", result_body(number))
        spool.append(Group(uuid4(), 1, (callback,)))
    spool.close()
    refused = run("erase", str(NUMBERS[0]), "--yes")
    assert refused.status == 1 and "callbacks in this machine's spool contain the number" in refused.err
    assert get_call(conn, old, 1).phone_number == f"+{NUMBERS[0]}"
    conn.commit()
    assert run("erase", str(NUMBERS[2]), "--yes").out.startswith("Erased *********02: calls 1,")
