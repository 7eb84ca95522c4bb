"""Concurrent erasures of two numbers in one row: each removes its number from the result of the other."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from io import BytesIO
from uuid import uuid4

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import Connection, connect
from receiver.intake.journal import Group, write_group
from receiver.queueing.acceptance import IdempotentRequest, Limits, accept
from receiver.queueing.follow_ups import ChosenCalls, FollowUp, follow_up_parameters
from receiver.queueing.parameters import BatchParameters
from receiver.release.answer import Answer
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.sender import csv_blocks
from receiver.results.erasure import Erased, erase
from tests.factories import (
    answer_submissions,
    claim_waiting,
    deliver,
    differences,
    make_batch,
    make_callback,
    phone_number,
    result_body,
    settle,
)
from tests.queueing.queueing import queue
from tests.results.traces import traces_in_tables
from tests.waiting import eventually, waits_for_lock

OTHER, FIRST, SECOND = (phone_number(index) for index in range(3))
BOTH = f"{FIRST} and {SECOND}"


def in_a_line(conn: Connection) -> None:
    queue(conn, f"destination,x,y\n{OTHER},{FIRST},{SECOND}\n".encode())


def in_a_line_that_was_skipped(conn: Connection) -> None:
    queue(conn, f"destination,x,y\n{OTHER},,\n555,{FIRST},{SECOND}\n".encode(), on_invalid="skip")


def as_destination_and_in_its_line(conn: Connection) -> None:
    queue(conn, f"destination,name,mobile\n{FIRST},Zoe,{SECOND}\n{OTHER},Ben,\n".encode())


def in_its_line_and_as_destination(conn: Connection) -> None:
    queue(conn, f"destination,name,mobile\n{SECOND},Zoe,{FIRST}\n{OTHER},Ben,\n".encode())


def as_destinations_of_one_submission(conn: Connection) -> None:
    queue(conn, f"destination,name\n{FIRST},Zoe\n{SECOND},Zoe\n{OTHER},Ben\n".encode())


def in_the_header(conn: Connection) -> None:
    queue(conn, f"destination,{BOTH}\n{OTHER},Ben\n".encode())


def in_a_name(conn: Connection) -> None:
    make_batch(conn, [OTHER], name=BOTH)


def in_an_answer(conn: Connection) -> None:
    make_batch(conn, [OTHER], send=False)
    answer_submissions(conn, lambda _: Answer("accepted", 200, 1, None, BOTH))


def in_a_key(conn: Connection) -> None:
    csv = BytesIO(f"destination\n{OTHER}\n".encode())
    accept(conn, csv, BatchParameters(7, 3), Limits(10_000, 3600), IdempotentRequest(1, BOTH, b"digest"))
    conn.commit()


def in_a_body(conn: Connection) -> None:
    deliver(conn, make_batch(conn, [OTHER]), result_body(OTHER, note=BOTH))


def in_a_body_of_no_call(conn: Connection) -> None:
    deliver(conn, make_batch(conn, [OTHER]), result_body(phone_number(7), note=BOTH))


PLACES = [
    in_a_line,
    in_a_line_that_was_skipped,
    as_destination_and_in_its_line,
    in_its_line_and_as_destination,
    as_destinations_of_one_submission,
    in_the_header,
    in_a_name,
    in_an_answer,
    in_a_key,
    in_a_body,
    in_a_body_of_no_call,
]


@contextmanager
def erasing(conn: Connection, database_url: str, number: int) -> Iterator[None]:
    """Erase the number in another thread. The body begins when the erasure waits for a lock, or has ended; it must
    release that lock. At the end, the erasure has succeeded."""
    finished = threading.Event()

    def erase_number() -> None:
        with closing(connect(database_url, name="erasure")) as own:
            for _ in erase(own, number, by=SYSTEM):
                own.commit()
            own.commit()
        finished.set()

    thread = threading.Thread(target=erase_number)
    thread.start()
    eventually(lambda: finished.is_set() or waits_for_lock(conn, "erasure"))
    conn.rollback()
    try:
        yield
    finally:
        thread.join()
    assert finished.is_set()


@pytest.mark.parametrize("fill", PLACES, ids=lambda fill: fill.__name__)
def test_no_erasure_restores_what_another_erased(
    conn: Connection, database_url: str, fill: Callable[[Connection], None]
) -> None:
    fill(conn)
    with closing(connect(database_url, name="first erasure")) as own:
        pieces = erase(own, FIRST, by=SYSTEM)
        assert next(piece for piece in pieces if piece != Erased()) != Erased()
        # The first change is not committed. The second erasure has found the row and waits for it.
        with erasing(conn, database_url, SECOND):
            own.commit()
            for _ in pieces:
                own.commit()
            own.commit()
    assert traces_in_tables(conn, str(FIRST), str(SECOND), "Zoe") == []
    assert differences(conn) == []
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    if outgoing is not None:
        assert len(b"".join(csv_blocks(conn, outgoing))) == outgoing.csv_bytes
        conn.commit()


def test_callback_that_is_being_settled_when_an_erasure_begins_is_erased(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn, [OTHER, FIRST])
    with closing(connect(database_url, name="settler")) as settler:
        callbacks = (make_callback(batch_id, result_body(FIRST)), make_callback(batch_id, result_body(FIRST, "failed")))
        write_group(settler, Group(uuid4(), 1, callbacks))
        settle(settler, claim_waiting(settler, 500))
        with erasing(conn, database_url, FIRST):
            settler.commit()
    assert traces_in_tables(conn, str(FIRST)) == []
    assert differences(conn) == []


def test_name_that_a_follow_up_has_read_when_an_erasure_begins_is_erased(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if the follow-up has to try again, because another one chose some of its calls."""
    batch_id = make_batch(conn, [OTHER, SECOND], name=f"for {FIRST}")
    deliver(conn, batch_id, result_body(OTHER, "failed"), result_body(SECOND, "rejected"))
    limits = Limits(10_000, 3600)
    link, tries = ChosenCalls.link, []
    erased = threading.Event()

    def erase_number() -> None:
        with closing(connect(database_url, name="erasure")) as own:
            for _ in erase(own, FIRST, by=SYSTEM):
                own.commit()
            own.commit()
        erased.set()

    def erased_or_waiting() -> bool:
        conn.rollback()
        return erased.is_set() or waits_for_lock(conn, "erasure")

    def link_late(chosen: ChosenCalls, next_batch_id: int) -> bool:
        tries.append(next_batch_id)
        if len(tries) == 2:
            eventually(erased_or_waiting)
        return link(chosen, next_batch_id)

    with closing(connect(database_url, name="faster")) as faster, closing(connect(database_url, name="slower")) as own:
        parameters = [follow_up_parameters(each, batch_id, {}) for each in (faster, own)]
        erasing = threading.Thread(target=erase_number)
        erasing.start()
        eventually(erased_or_waiting)
        accept(faster, FollowUp(batch_id, ["failed"]), parameters[0], limits)
        monkeypatch.setattr(ChosenCalls, "link", link_late)
        following = threading.Thread(target=accept, args=(own, FollowUp(batch_id), parameters[1], limits))
        following.start()
        eventually(lambda: waits_for_lock(conn, "slower"))
        faster.commit()
        following.join()
        own.commit()
    erasing.join()
    assert len(tries) == 2
    assert erased.is_set()
    assert traces_in_tables(conn, str(FIRST)) == []


def test_what_is_recorded_while_an_erasure_searches_is_not_overwritten(conn: Connection, database_url: str) -> None:
    """An answer that comes between the search and the change is kept, without the number."""
    batch_id = make_batch(conn, [OTHER], send=False)
    worker_id = register_worker(conn, "test", 1)
    outgoing = claim_submission(conn, worker_id)
    conn.execute("update submission set state = 'unknown', error = %s", (f"old words about {FIRST}",))
    conn.commit()
    assert outgoing is not None
    with closing(connect(database_url, name="erasure")) as own:
        conn.execute("select from batch where batch_id = %s for update", (batch_id,))
        erased = Erased()

        def run() -> None:
            nonlocal erased
            for piece in erase(own, FIRST, by=SYSTEM):
                own.commit()
                erased += piece
            own.commit()

        thread = threading.Thread(target=run)
        thread.start()
        eventually(lambda: waits_for_lock(conn, "erasure"))
        conn.execute("update submission set answer = %s, error = %s", (f"new words about {FIRST}", "new"))
        conn.commit()
        thread.join()
    assert erased.texts == 1
    assert conn.execute("select error, answer from submission").fetchall() == [("new", "new words about erased")]
