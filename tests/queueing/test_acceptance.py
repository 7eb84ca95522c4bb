"""The same request may come again, later or at the same moment, and is one batch."""

from __future__ import annotations

import contextlib
import io
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from receiver.database.pool import Connection, connect
from receiver.errors import InvalidInput
from receiver.queueing.acceptance import Accepted, IdempotencyKeyReused, IdempotentRequest, accept, request_digest
from receiver.queueing.parameters import BatchParameters
from tests.queueing.queueing import LIMITS, contacts_csv
from tests.waiting import eventually

CSV = contacts_csv(5)
FORM = {"application_id": "7", "deployment_id": "3"}
PARAMETERS = BatchParameters(7, 3)


def request(content: bytes = CSV, form: dict[str, str] = FORM, *, key_id: int = 1, key: str = "k") -> IdempotentRequest:
    return IdempotentRequest(key_id, key, request_digest(io.BytesIO(content), form))


def accept_once(conn: Connection, repeatable: IdempotentRequest | None, content: bytes = CSV) -> Accepted:
    accepted = accept(conn, io.BytesIO(content), PARAMETERS, LIMITS, repeatable)
    conn.commit()
    return accepted


def count_batches(conn: Connection) -> int:
    row = conn.execute("select count(*) from batch").fetchone()
    conn.rollback()
    assert row is not None
    return int(row[0])


def test_same_key_and_content_answer_with_the_same_batch(conn: Connection) -> None:
    first, again = accept_once(conn, request()), accept_once(conn, request())
    assert not first.replayed
    assert again == Accepted(first.batch_id, replayed=True)
    assert count_batches(conn) == 1


def test_same_content_without_a_key_or_with_another_is_another_batch(conn: Connection) -> None:
    requests = (request(), request(key="l"), request(key_id=2), None, None)
    assert len({accept_once(conn, each).batch_id for each in requests}) == len(requests)


@pytest.mark.parametrize("other", [request(contacts_csv(6)), request(form={**FORM, "name": "other"})])
def test_same_key_with_other_content_is_refused(conn: Connection, other: IdempotentRequest) -> None:
    accept_once(conn, request())
    with pytest.raises(IdempotencyKeyReused):
        accept_once(conn, other)
    conn.rollback()
    assert count_batches(conn) == 1


def test_refused_request_leaves_its_key_free(conn: Connection) -> None:
    wrong = b"destination\r\nnobody\r\n"
    with pytest.raises(InvalidInput):
        accept_once(conn, request(wrong), wrong)
    conn.rollback()
    assert not accept_once(conn, request()).replayed


def test_digest_depends_on_every_byte_and_field_but_not_on_their_order() -> None:
    assert request().digest == request(form=dict(reversed(FORM.items()))).digest
    others = [
        request(CSV + b"\n"),
        request(form={**FORM, "name": ""}),
        request(form={"application_id": "73", "deployment_id": ""}),
        request(form={"application_id": "7", "deployment_i": "d3"}),
        request(CSV + b"x", form={}),
    ]
    assert len({request().digest, *(each.digest for each in others)}) == 1 + len(others)


def test_digest_reads_the_file_from_its_beginning() -> None:
    stream = io.BytesIO(CSV)
    stream.read()
    assert request_digest(stream, FORM) == request().digest


def at_once(database_url: str, contents: list[bytes]) -> list[Accepted | Exception]:
    """Accept each content under the same key, all at the same moment, each on a connection of its own."""
    together = threading.Barrier(len(contents))

    def one(content: bytes) -> Accepted | Exception:
        with contextlib.closing(connect(database_url, name="test")) as conn:
            together.wait(60)
            try:
                return accept_once(conn, request(content), content)
            except IdempotencyKeyReused as error:
                return error

    with ThreadPoolExecutor(len(contents)) as threads:
        return list(threads.map(one, contents))


def test_same_request_several_times_at_one_moment_is_one_batch(database_url: str, conn: Connection) -> None:
    content = contacts_csv(500)
    accepted = at_once(database_url, [content] * 6)
    assert all(isinstance(each, Accepted) for each in accepted), accepted
    assert len({each.batch_id for each in accepted if isinstance(each, Accepted)}) == 1
    assert sorted(each.replayed for each in accepted if isinstance(each, Accepted)) == [False] + [True] * 5
    assert count_batches(conn) == 1


def test_two_contents_under_one_key_at_one_moment_are_one_batch_and_one_refusal(
    database_url: str, conn: Connection
) -> None:
    results = at_once(database_url, [contacts_csv(500), contacts_csv(501)])
    assert sorted(type(each).__name__ for each in results) == ["Accepted", "IdempotencyKeyReused"]
    assert count_batches(conn) == 1


def test_request_whose_twin_was_rolled_back_is_accepted(database_url: str, conn: Connection) -> None:
    accept(conn, io.BytesIO(CSV), PARAMETERS, LIMITS, request())
    with ThreadPoolExecutor(1) as thread, contextlib.closing(connect(database_url, name="twin")) as twin:
        waiting = thread.submit(accept_once, twin, request())
        wait_for_lock(database_url, twin)
        conn.rollback()
        assert not waiting.result(60).replayed
    assert count_batches(conn) == 1


def wait_for_lock(database_url: str, conn: Connection) -> None:
    """Return when `conn`, which another thread uses, waits for a lock of another transaction."""
    pid = conn.info.backend_pid
    with contextlib.closing(connect(database_url, name="watch", autocommit=True)) as watch:
        eventually(lambda: watch.execute("select pg_blocking_pids(%s)", [pid]).fetchone() != ([],))
