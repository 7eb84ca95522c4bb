"""`pause`, `resume` and `cancel`."""

from __future__ import annotations

from receiver.database.pool import Connection
from tests.cli.conftest import Run
from tests.factories import differences, make_batch, phone_number


def test_batch_is_paused_resumed_and_canceled(run: Run, conn: Connection) -> None:
    batch_id = str(make_batch(conn, map(phone_number, range(3)), calls_per_minute=1))
    for command, said in (
        (("pause", batch_id), f"Batch {batch_id} is paused."),
        (("pause", batch_id), "Nothing changed:"),
        (("status", batch_id), f"batch {batch_id} queueing: 0%, 0 ended, 3 pending, 0 overdue\nphase     paused\n"),
        (("resume", batch_id, "--note", "go on"), f"Batch {batch_id} continues."),
        (("resume", batch_id), "Nothing changed:"),
        (("cancel", batch_id, "--note", "wrong file"), f"Batch {batch_id} is canceled: 2 calls withdrawn now; 1 calls"),
        (("cancel", batch_id), f"Batch {batch_id} is canceled: 0 calls withdrawn now; 1 calls"),
        (("verify",), "The balance holds"),
    ):
        ran = run(*command)
        assert (ran.status, ran.err) == (0, ""), command
        assert ran.out.startswith(said), command
    written = conn.execute("select actor, action, note from audit where action <> 'queue' order by audit_id").fetchall()
    assert written == [
        ("command line", "pause", None),
        ("command line", "resume", "go on"),
        ("command line", "cancel", "wrong file"),
    ]
    assert differences(conn) == []


def test_batch_that_is_not_there_is_status_1(run: Run) -> None:
    for command in ("pause", "resume", "cancel"):
        ran = run(command, "99")
        assert (ran.status, ran.out, ran.err) == (1, "", "receiver: Batch 99 does not exist.\n")
