"""All writers work concurrently on few calls, in many orders. `verify` finds errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from random import Random
from uuid import uuid4

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import GAVE_WAY, Connection, connect
from receiver.errors import ReceiverError
from receiver.intake.journal import Group, write_group
from receiver.release.answer import Answer
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.release.resolution import resolve_submission
from receiver.release.sender import accept_proven_lately
from receiver.results import retention
from receiver.results.erasure import erase
from receiver.results.replay import find_settled, replay
from receiver.results.retention import purge
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    claim_waiting,
    differences,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle,
    settle_all,
)

pytestmark = pytest.mark.long

STORM_SECONDS = 8.0
NOT_SENT = Answer("not_sent", error="x")

Work = Callable[[Connection, Random], float | None]
"""Does one piece of work, which the caller commits; returns a pause in seconds, if any."""


def storm(database_url: str, writers: Sequence[Work]) -> None:
    """Let these writers work concurrently, each in a loop."""
    over = threading.Event()
    failed: list[str] = []

    def work_on(number: int, work: Work) -> None:
        random = Random(number)
        with closing(connect(database_url, name="storm")) as conn:
            while not over.is_set():
                pause = None
                try:
                    pause = work(conn, random)
                    conn.commit()
                except (*GAVE_WAY, ReceiverError):
                    conn.rollback()
                except Exception as error:
                    failed.append(f"{work.__name__}: {error!r}")
                    conn.rollback()
                over.wait(pause or 0)

    threads = [threading.Thread(target=work_on, args=each) for each in enumerate(writers)]
    for thread in threads:
        thread.start()
    time.sleep(STORM_SECONDS)
    over.set()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert failed == []


def settling(conn: Connection, _: Random) -> None:
    if claimed := claim_waiting(conn, 20):
        settle(conn, claimed)


def replaying(conn: Connection, _: Random) -> float:
    replay(conn, find_settled(conn))
    return 0.02


def posting_to(batches: Sequence[int], calls: int) -> Work:
    """Results, steps and conflicts for calls of these batches, two calls to a submission."""

    def posting(conn: Connection, random: Random) -> float:
        place = random.randrange(calls)
        status = random.choice(("completed", "failed", "dialing", "canceled"))
        body = result_body(phone_number(place), status, last_event=random.randrange(60, 63))
        callback = make_callback(
            random.choice(batches), body, submission_no=place // 2 + 1, received_at=datetime.now(UTC)
        )
        write_group(conn, Group(uuid4(), 1, (callback,)))
        return 0.002

    return posting


def test_settling_sending_resolving_and_replaying_at_once(conn: Connection, database_url: str) -> None:
    batches = [
        make_batch(conn, [phone_number(index) for index in range(6)], submission_rows=2, send=False) for _ in range(4)
    ]

    def sending(mine: Connection, random: Random) -> float:
        worker_id = register_worker(mine, "test", 1)
        mine.commit()
        outgoing = claim_submission(mine, worker_id)
        mine.commit()
        if outgoing is not None:
            record_answer(mine, outgoing, random.choice((ACCEPTED, REFUSED, UNKNOWN, NOT_SENT)))
        return 0.01

    def proving(mine: Connection, _: Random) -> float:
        accept_proven_lately(mine)
        return 0.02

    def resolving(mine: Connection, random: Random) -> None:
        batch_id, queued = random.choice(batches), random.random() < 0.5
        resolve_submission(mine, batch_id, random.randrange(1, 4), queued=queued, note="seen", by="test")

    posting = posting_to(batches, calls=6)
    storm(database_url, [settling, settling, posting, posting, replaying, sending, proving, resolving])
    settle_all(conn)
    assert differences(conn) == []


def test_settling_purging_erasing_and_replaying_at_once(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "PURGE_ROWS", 3)
    numbers = [phone_number(index) for index in range(8)]
    batches: list[int] = []

    def making(mine: Connection, _: Random) -> float:
        # The latest six, some of which are purged already or meanwhile.
        batches[:] = [*batches[-5:], make_batch(mine, numbers, submission_rows=2, past_due=True)]
        return 0.3

    def purging(mine: Connection, _: Random) -> float:
        for _removed in purge(mine, timedelta(seconds=2), by=SYSTEM):
            mine.commit()
        return 0.05

    def erasing(mine: Connection, random: Random) -> float:
        for _erased in erase(mine, random.choice(numbers), by=SYSTEM):
            mine.commit()
        return 0.2

    making(conn, Random(0))
    posting = posting_to(batches, calls=8)
    storm(database_url, [settling, settling, posting, posting, replaying, making, purging, purging, erasing])
    settle_all(conn)
    assert differences(conn) == []
    for table in ("call", "result", "outstanding"):
        (left,) = conn.execute(
            f"select count(*) from {table} t where not exists (select from batch b where b.batch_id = t.batch_id)"  # noqa: S608 a name of ours
            " and not exists (select from purge p where p.batch_id = t.batch_id)"
        ).fetchall()
        assert left == (0,), table
