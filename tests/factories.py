"""Short functions that make batches and callbacks and settle them, with the code of the service itself."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import count
from typing import Any
from uuid import uuid4

from receiver.changes.events import Events
from receiver.database.locks import share_results
from receiver.database.pool import Connection
from receiver.intake.journal import Callback, Group, write_group
from receiver.model import CALLBACK_STATES, OUTCOMES, SubmissionKey
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.results.bodies import read_bodies
from receiver.results.overdue import mark_overdue
from receiver.results.retention import purge
from receiver.results.settlement import settle_read
from receiver.results.stored import Stored, get_stored, lock_waiting, remove_waiting
from receiver.summary.batches import Batch, get_batch
from receiver.summary.verify import verify

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
"""The time at which a test's first callback is received."""

ACCEPTED = Answer("accepted", provider_status=200)
REFUSED = Answer("refused", provider_status=400, error="data improperly formatted or invalid")
UNKNOWN = Answer("unknown", error="No answer came.")

_received = count()


def phone_number(index: int) -> int:
    """The valid phone number with this index."""
    return 16175550000 + index


def make_batch(
    conn: Connection,
    numbers: Iterable[object] = (phone_number(0),),
    *,
    submission_rows: int = 10_000,
    send: bool = True,
    past_due: bool = False,
    simulated: bool | None = False,
    **parameters: Any,
) -> int:
    """Make a batch of these numbers, with rows from 1. Unless `send` is False, the provider has accepted it."""
    csv = "".join(f"{line}\n" for line in ("destination,name", *(f"{number},Ana" for number in numbers)))
    given = {"application_id": 7, "deployment_id": 3, "on_duplicate": "keep", **parameters}
    limits = Limits(submission_rows, 3600, simulated)
    batch_id = accept(conn, BytesIO(csv.encode()), BatchParameters(**given), limits).batch_id
    conn.commit()
    if send:
        answer_submissions(conn, simulated=bool(simulated))
    if past_due:
        make_overdue(conn, batch_id)
    return batch_id


def make_overdue(conn: Connection, *batch_ids: int) -> None:
    """Let the time of these batches, or of all, be over, and count their calls without a result as overdue."""
    conn.execute(
        "update batch set due_at = now() - interval '1 second' where batch_id = any(%s) or %s",
        (list(batch_ids), not batch_ids),
    )
    conn.execute(
        "update submission set due_at = now() - interval '1 second' where batch_id = any(%s) or %s",
        (list(batch_ids), not batch_ids),
    )
    mark_overdue(conn)
    conn.commit()


def answer_submissions(
    conn: Connection, answer: Callable[[Outgoing], Answer] = lambda _: ACCEPTED, *, simulated: bool = False
) -> list[Outgoing]:
    """Claim every submission that is due, and record this answer of the provider.

    A refusal pauses the rest of its batch; it is resumed at once.
    """
    worker_id = register_worker(conn, "test", 1)
    sent = []
    while (outgoing := claim_submission(conn, worker_id, simulated=simulated)) is not None:
        conn.commit()
        record_answer(conn, outgoing, answer(outgoing))
        conn.execute("update batch set paused_at = null where paused_at is not null")
        conn.commit()
        sent.append(outgoing)
    conn.commit()
    return sent


def result_body(number: int | str, status: str = "completed", *, last_event: int = 60, **fields: Any) -> bytes:
    """A body as the provider posts it; `last_event`: when the call ended, in seconds after NOON."""
    return json.dumps(call_fields(number, status, last_event=last_event, **fields)).encode()


def call_fields(number: int | str, status: str = "completed", *, last_event: int = 60, **fields: Any) -> dict[str, Any]:
    began = int(NOON.timestamp())
    events = [("queued", began), ("dialing", began + 5), ("disconnected", began + last_event)]
    return {
        "phone_number": f"'{number}'",
        "status": status,
        "attempts": "1",
        "max_attempts": "3",
        **({"duration": 30} if status == "completed" else {}),
        "events": [{"event": event, "timestamp": at} for event, at in events],
        **fields,
    }


def make_callback(
    batch_id: int,
    body: bytes = b"{}",
    *,
    submission_no: int = 1,
    received_at: datetime | None = None,
    content_type: str = "application/json",
) -> Callback:
    """Make a callback. Without `received_at`, it was received one second after the previous one."""
    received_at = received_at or NOON + timedelta(seconds=next(_received))
    return Callback(SubmissionKey(batch_id, submission_no), received_at, content_type, "", body)


def journal(conn: Connection, *callbacks: Callback) -> list[int]:
    """Write callbacks to the journal as one group, and commit. Returns their ids in the same order."""
    conn.commit()
    newest = highest_id(conn)
    write_group(conn, Group(uuid4(), 1, callbacks))
    ids = conn.execute("select callback_id from callback where callback_id > %s order by 1", (newest,)).fetchall()
    conn.commit()
    return [callback_id for (callback_id,) in ids]


def highest_id(conn: Connection) -> int:
    row = conn.execute("select coalesce(max(callback_id), 0) from callback").fetchone()
    assert row is not None
    return int(row[0])


def deliver(conn: Connection, batch_id: int, *bodies: bytes, submission_no: int = 1) -> list[int]:
    """Write bodies to the journal for a submission, and settle all waiting callbacks. Returns their ids."""
    ids = journal(conn, *(make_callback(batch_id, body, submission_no=submission_no) for body in bodies))
    settle_all(conn)
    return ids


def claim_waiting(conn: Connection, limit: int) -> list[Stored]:
    """Lock up to `limit` waiting callbacks, the oldest first, and remove them from the queue."""
    claimed = lock_waiting(conn, limit)
    share_results(conn, {waiting.batch_id for waiting in claimed})
    remove_waiting(conn, [waiting.callback_id for waiting in claimed])
    return get_stored(conn, [(waiting.batch_id, waiting.callback_id) for waiting in claimed])


def settle(conn: Connection, claimed: Sequence[Stored], suppress_statuses: Collection[str] = ()) -> None:
    """Settle callbacks. The caller commits."""
    events = Events()
    settle_read(conn, read_bodies(claimed), events, suppress_statuses)
    events.write(conn)


def settle_all(conn: Connection, group: int = 500) -> int:
    """Settle all waiting callbacks, `group` in each transaction. Returns how many."""
    settled = 0
    while claimed := claim_waiting(conn, group):
        settle(conn, claimed)
        conn.commit()
        settled += len(claimed)
    conn.commit()
    return settled


def purge_batch(conn: Connection, batch_id: int) -> None:
    """Delete a batch with its rows in all tables."""
    for table in ("call", "outstanding", "skipped", "callback", "waiting", "result", "set_aside", "batch_count"):
        conn.execute(f"delete from {table} where batch_id = %s", (batch_id,))  # noqa: S608 names of ours
    conn.execute("delete from result_count where batch_id = %s", (batch_id,))
    conn.execute("delete from batch where batch_id = %s", (batch_id,))
    conn.commit()


def purge_old(conn: Connection, batch_id: int) -> None:
    """Purge a batch because of its age."""
    conn.execute(
        "update batch set created_at = now() - interval '9 days', due_at = now() - interval '9 days'"
        " where batch_id = %s",
        (batch_id,),
    )
    conn.commit()
    for _ in purge(conn, timedelta(days=8), by="Ana"):
        conn.commit()


def read_batch(conn: Connection, batch_id: int) -> Batch:
    """The batch. Checks its balance, the sum of the outcomes, and the sum of the callbacks' states."""
    batch = get_batch(conn, batch_id)
    conn.commit()
    counts, callbacks = batch.counts, batch.callbacks
    assert counts["rows"] == sum(
        counts[name] for name in ("skipped", "refused", "withdrawn", "pending", "overdue", "final")
    )
    assert counts["final"] == sum(counts[outcome] for outcome in OUTCOMES)
    assert callbacks["received"] == sum(callbacks[state] for state in CALLBACK_STATES)
    return batch


def present(counts: dict[str, int]) -> dict[str, int]:
    """The counts that are not zero."""
    return {name: number for name, number in counts.items() if number}


def states(conn: Connection, ids: Sequence[int]) -> list[tuple[str, str | None]]:
    """(state, reason) of callbacks, in the order of `ids`."""
    found = dict[int, tuple[str, str | None]]()
    for callback_id, state, reason in conn.execute(
        "select c.callback_id, case when w.callback_id is not null then 'waiting' else coalesce(s.state, 'applied')"
        " end, s.reason from callback c left join waiting w using (callback_id)"
        " left join set_aside s on s.callback_id = c.callback_id where c.callback_id = any(%s)",
        (list(ids),),
    ):
        found[callback_id] = state, reason
    conn.commit()
    return [found[callback_id] for callback_id in ids]


def differences(conn: Connection, batch_id: int | None = None) -> list[dict[str, Any]]:
    """The differences that `verify` finds."""
    conn.commit()
    found = [asdict(difference) for difference in verify(conn, batch_id)]
    conn.commit()
    return found


def give_way_once(conn: Connection) -> None:
    """Make the next transaction that inserts a result fail with a deadlock error; later ones succeed."""
    conn.execute("create sequence tried")  # a rollback does not reset it
    conn.execute(
        "create function give_way() returns trigger language plpgsql as $$ begin if nextval('tried') = 1 then"
        " raise exception 'made to give way' using errcode = 'deadlock_detected'; end if; return new; end $$"
    )
    conn.execute("create trigger give_way before insert on result for each row execute function give_way()")
    conn.commit()
