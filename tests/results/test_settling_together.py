"""Several concurrent workers on the same calls, each with its own connections."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from random import Random

import pytest

from receiver.database.pool import GAVE_WAY, Connection, connect, open_pool
from receiver.intake.journal import Callback
from receiver.intake.packing import unpack
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.recording import record_answer
from receiver.results.decision import Candidate, decide
from receiver.results.reading.call_details import read_call_details
from receiver.results.replay import find_settled, replay
from receiver.results.settler import Settler
from tests.factories import (
    REFUSED,
    UNKNOWN,
    claim_waiting,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle,
)

CALLS = 12


def at_once(*works: Callable[[], None]) -> None:
    """Run each in a thread; raises the first exception of any of them."""
    errors: list[BaseException] = []

    def run(work: Callable[[], None]) -> None:
        try:
            work()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def settle_waiting(url: str, group: int) -> Callable[[], None]:
    """A worker that settles until nothing waits, and repeats what a deadlock rolled back."""

    def work() -> None:
        with closing(connect(url, name="settler")) as conn:
            while True:
                try:
                    claimed = claim_waiting(conn, group)
                    if claimed:
                        settle(conn, claimed)
                    conn.commit()
                except GAVE_WAY:
                    conn.rollback()
                    continue
                waits = conn.execute("select from waiting limit 1").fetchone()
                conn.commit()
                if waits is None:
                    return

    return work


def pile(batch_id: int, seed: int, size: int) -> list[Callback]:
    """Duplicates, conflicts and steps for few calls, in random order."""
    random = Random(seed)
    return [
        make_callback(
            batch_id,
            result_body(
                phone_number(random.randrange(CALLS)),
                random.choice(("completed", "failed", "canceled", "dialing")),
                last_event=random.choice((60, 90, 120)),
                attempts=random.choice((1, 2)),
            ),
        )
        for _ in range(size)
    ]


def winning_bodies(conn: Connection) -> dict[int, bytes]:
    found = conn.execute("select row, packing, body from result join callback using (batch_id, callback_id)")
    return {row: unpack(packing, body) for row, packing, body in found}


def expected_winners(callbacks: list[Callback]) -> dict[int, bytes]:
    """Row to the winning body, decided among all callbacks together."""
    calls: dict[int, list[Candidate]] = {}
    for place, callback in enumerate(callbacks):
        details = read_call_details(callback.body, callback.content_type)
        row = int(details.phone_number) - phone_number(0) + 1
        calls.setdefault(row, []).append(Candidate(place, callback.received_at, False, details))
    return {row: callbacks[decide(candidates).winner.callback_id].body for row, candidates in calls.items()}


def test_concurrent_workers_decide_the_same_as_one_worker(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(CALLS)])
    callbacks = pile(batch_id, seed=1, size=600)
    journal(conn, *callbacks)
    at_once(*(settle_waiting(database_url, group) for group in (7, 13, 29, 50)))
    assert differences(conn) == []
    callback_counts = read_batch(conn, batch_id).callbacks
    assert (callback_counts["received"], callback_counts["applied"]) == (600, CALLS)
    assert winning_bodies(conn) == expected_winners(callbacks)


def test_concurrent_workers_and_replays_keep_every_count(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(CALLS)])
    callbacks = pile(batch_id, seed=2, size=300)
    journal(conn, *callbacks)

    def replay_all() -> None:
        pool = open_pool(database_url, max_size=2, name="settler")
        try:
            settler = Settler(pool)
            with closing(connect(database_url, name="replay")) as mine:
                for _ in range(5):
                    settler.settle_group()
                    replay(mine, find_settled(mine))
                    mine.commit()
        finally:
            pool.close()

    def settle_shared() -> None:
        with closing(connect(database_url, name="settler")) as mine:
            for _ in range(60):
                claimed = claim_waiting(mine, 10)
                settle(mine, claimed)
                mine.commit()

    at_once(replay_all, settle_shared)
    settle_waiting(database_url, 500)()
    assert differences(conn) == []
    assert winning_bodies(conn) == expected_winners(callbacks)


def test_refused_and_unknown_submissions_among_results_keep_every_count(conn: Connection, database_url: str) -> None:
    numbers = [phone_number(index) for index in range(60)]
    batch_id = make_batch(conn, numbers, submission_rows=10, send=False)
    worker_id = register_worker(conn, "test", 1)
    outgoing = [claim_submission(conn, worker_id) for _ in range(6)]
    journal(
        conn,
        *(
            make_callback(batch_id, result_body(number), submission_no=place // 10 + 1)
            for place, number in enumerate(numbers)
            if place % 3 < 2
        ),
    )

    def answer() -> None:
        with closing(connect(database_url, name="sender")) as mine:
            for place, sent in enumerate(outgoing):
                assert sent is not None
                while True:
                    try:
                        record_answer(mine, sent, (REFUSED, UNKNOWN)[place % 2])
                        mine.commit()
                        break
                    except GAVE_WAY:
                        mine.rollback()

    at_once(answer, *(settle_waiting(database_url, group) for group in (3, 5)))
    assert differences(conn) == []
    counts = read_batch(conn, batch_id).counts
    (left,) = conn.execute(
        "select count(*) filter (where s.state = 'refused') from outstanding join call using (batch_id, row)"
        " join submission s using (batch_id, submission_no)"
    ).fetchall()
    assert counts["final"] == 40
    assert left == (counts["refused"],)


def test_settler_waits_for_another_ones_call_and_then_sees_its_result(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn)
    journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    with closing(connect(database_url, name="first")) as first:
        settle(first, claim_waiting(first, 1))
        second = threading.Thread(target=settle_waiting(database_url, 1))
        second.start()
        # Until the first one commits, its entry counts as waiting, so the second still works.
        first.commit()
        second.join(60)
    callback_counts = read_batch(conn, batch_id).callbacks
    assert (callback_counts["applied"], callback_counts["duplicate"]) == (1, 1)
    assert differences(conn) == []


@pytest.mark.long
def test_twelve_thousand_callbacks_are_settled_within_seconds(conn: Connection, database_url: str) -> None:
    numbers = [phone_number(index) for index in range(12_000)]
    batch_id = make_batch(conn, numbers, submission_rows=12_000)
    for first in range(0, len(numbers), 1_000):
        journal(conn, *(make_callback(batch_id, result_body(number)) for number in numbers[first : first + 1_000]))
    pool = open_pool(database_url, max_size=2, name="settler")
    try:
        settler, began = Settler(pool), time.monotonic()
        while settler.settle_group():
            pass
        seconds = time.monotonic() - began
    finally:
        pool.close()
    print(f"{len(numbers) / seconds:.0f} callbacks settled a second")
    assert read_batch(conn, batch_id).counts["completed"] == 12_000
    assert len(numbers) / seconds > 100, "a busy machine settles this many per second; an idle one thousands"
