"""resolve, purge and erase, as people type them."""

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
from receiver.model import SubmissionKey
from receiver.queueing.resolution import list_resolutions
from receiver.results.journal import Callback, Group
from receiver.results.spool import Spool
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
def doubtful(conn: Connection) -> int:
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


def test_resolve_does_what_was_confirmed_and_keeps_who_and_why(run: Run, conn: Connection, doubtful: int) -> None:
    ran = run("resolve", str(doubtful), "1", "--not-queued", "--note", "their page is empty", "--by", "Ana", "--yes")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == f"Submission 1 of batch {doubtful} is pending now. A worker sends it again.\n"
    (kept,) = list_resolutions(conn, doubtful)
    assert (kept.note, kept.resolved_by, kept.queued) == ("their page is empty", "Ana", False)
    conn.commit()
    again = run("resolve", str(doubtful), "1", "--queued", "--note", "x", "--yes")
    assert (again.status, again.out) == (1, "")
    assert "needs no decision: it waits to be sent" in again.err


def test_resolve_takes_the_accounts_name_where_none_is_given(run: Run, conn: Connection, doubtful: int) -> None:
    ran = run("resolve", str(doubtful), "1", "--queued", "--note", "their page shows it", "--yes")
    assert ran.out == f"Submission 1 of batch {doubtful} is accepted now. Its results are waited for.\n"
    assert list_resolutions(conn, doubtful)[0].resolved_by


@pytest.mark.parametrize(("said", "warning"), [("--queued", "nobody is called"), ("--not-queued", "DIALED TWICE")])
def test_resolve_without_a_terminal_needs_yes(
    run: Run, conn: Connection, doubtful: int, said: str, warning: str
) -> None:
    ran = run("resolve", str(doubtful), "1", said, "--note", "x")
    assert ran.status == 2
    assert warning in ran.err and "--yes" in ran.err and "3 calls for application 7, deployment 3" in ran.err
    assert read_batch(conn, doubtful).state == "unknown"


@pytest.mark.parametrize(("typed", "status", "state"), [("yes", 0, "queued"), ("y", 1, "unknown"), ("", 1, "unknown")])
def test_resolve_on_a_terminal_asks(
    conn: Connection, database_url: str, tmp_path: Path, doubtful: int, typed: str, status: int, state: str
) -> None:
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{typed}\n".encode())
        environment = {
            **os.environ,
            "DATABASE_URL": database_url,
            "SECRET_KEY": "a secret of the tests and of nobody else",
            "DATA_DIR": str(tmp_path),
        }
        arguments = [sys.executable, "-m", "receiver", "resolve", str(doubtful), "1", "--queued", "--note", "seen"]
        ran = subprocess.run(arguments, cwd=ROOT, env=environment, stdin=theirs, capture_output=True, timeout=180)
    finally:
        os.close(ours)
        os.close(theirs)
    assert ran.returncode == status, ran.stderr
    assert b"Type yes to go on" in ran.stderr
    assert read_batch(conn, doubtful).state == state


@pytest.mark.parametrize(
    "arguments",
    [("1", "1", "--note", "x"), ("1", "1", "--queued"), ("1", "1", "--queued", "--not-queued", "--note", "x")],
)
def test_resolve_with_half_of_what_it_needs_is_unusable(run_anywhere: Run, arguments: tuple[str, ...]) -> None:
    assert run_anywhere("resolve", *arguments).status == 2


def test_purge_needs_an_age(run: Run, environment: pytest.MonkeyPatch, old: int) -> None:
    environment.delenv("RETENTION_DAYS", raising=False)
    ran = run("purge")
    assert ran.status == 2 and "--older-than" in ran.err and "RETENTION_DAYS" in ran.err
    assert run("purge", "--older-than", "-1").status == 2
    assert run("purge", "--older-than", "soon").status == 2


def test_purge_tells_what_would_go_and_then_what_went(run: Run, conn: Connection, old: int) -> None:
    young = make_batch(conn, NUMBERS)
    would = run("purge", "--older-than", "30", "--dry-run")
    assert (would.status, would.err) == (0, "")
    assert would.out == "Would purge 1 batches older than 30 days, with 3 calls and 1 callbacks.\n"
    assert read_batch(conn, old)
    went = run("purge", "--older-than", "30")
    assert (went.status, went.err) == (0, "")
    assert went.out.startswith("Purged 1 batches older than 30 days, with 3 calls and 1 callbacks: 7 rows under 1")
    assert conn.execute("select batch_id from batch").fetchall() == [(young,)]
    assert differences(conn) == []
    assert run("status", str(old)).status == 1


def test_purge_takes_the_age_from_the_environment(run: Run, environment: pytest.MonkeyPatch, old: int) -> None:
    environment.setenv("RETENTION_DAYS", "50")
    assert run("purge").out.startswith("Purged 0 batches")
    environment.setenv("RETENTION_DAYS", "39")
    assert run("purge").out.startswith("Purged 1 batches")


def test_erase_takes_any_spelling_and_shows_none(run: Run, conn: Connection, old: int) -> None:
    spelt = "(617) 555-0000"
    would = run("erase", spelt, "--dry-run")
    assert would.out.startswith("Would erase *********00: calls 1, contacts 0, skipped 0, callbacks 1,")
    ran = run("erase", spelt)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == "Erased *********00: calls 1, contacts 0, skipped 0, callbacks 1, texts 0, drafts 0.\n"
    assert run("erase", f"tel:+{NUMBERS[0]}").out.startswith("Erased *********00: calls 0,")
    assert differences(conn) == []


def test_erase_refuses_what_is_no_number(run: Run) -> None:
    ran = run("erase", "555")
    assert ran.status == 2 and "NUMBER" in ran.err


def test_erase_tells_of_callbacks_in_the_spool(run: Run, tmp_path: Path, old: int) -> None:
    spool = Spool(tmp_path / "data" / "spool.sqlite3", 1 << 20)
    callback = Callback(SubmissionKey(old, 1), datetime.now(UTC), "", "", result_body(NUMBERS[0]))
    spool.append(Group(uuid4(), 1, (callback,)))
    spool.close()
    assert "1 callbacks lie in this machine's spool" in run("erase", str(NUMBERS[1])).out


def test_purge_of_simulated_batches_leaves_real_ones(run: Run, conn: Connection, old: int) -> None:
    simulated = make_batch(conn, NUMBERS, simulated=True)
    deliver(conn, simulated, result_body(NUMBERS[0]))
    ran = run("purge", "--simulated", "--dry-run")
    assert (ran.status, ran.out) == (0, "Would purge 1 simulated batches, with 3 calls and 1 callbacks.\n")
    assert read_batch(conn, simulated).simulated
    conn.commit()
    ran = run("purge", "--simulated")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("Purged 1 simulated batches, with 3 calls and 1 callbacks: ")
    assert conn.execute("select batch_id from batch").fetchall() == [(old,)]
    conn.commit()
    assert run("purge", "--simulated", "--older-than", "1").status == 2
