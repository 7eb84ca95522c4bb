"""The callback endpoint in gunicorn: bodies in chunks, in pieces, incomplete, slow, and too long."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.intake.packing import unpack
from tests.conftest import fresh_database
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import ENTRY_POINTS, Answered, Sender, gunicorn

BATCH = iter(range(1, 1000))
Connect = Callable[[], Sender]


@pytest.fixture(scope="module")
def url(server_url: str, template: str) -> Iterator[str]:
    with fresh_database(server_url, template) as url:
        yield url


@pytest.fixture(scope="module", params=ENTRY_POINTS)
def port(url: str, session_folder: Path, request: pytest.FixtureRequest) -> Iterator[int]:
    with gunicorn(Path(tempfile.mkdtemp(dir=session_folder)), url, request.param) as port:
        yield port


@pytest.fixture
def sender(port: int) -> Iterator[Connect]:
    with ExitStack() as stack:

        def open_one() -> Sender:
            sender = Sender(port)
            stack.callback(sender.close)
            return sender

        yield open_one


@pytest.fixture
def batch_id() -> int:
    """A batch of this test only."""
    return next(BATCH)


def head(batch_id: int, *headers: str, method: str = "POST") -> bytes:
    lines = (f"{method} {results_path(batch_id)} HTTP/1.1", "Host: x", *headers, "", "")
    return "\r\n".join(lines).encode()


def chunk(content: bytes) -> bytes:
    return f"{len(content):x}\r\n".encode() + content + b"\r\n"


def stored(url: str, batch_id: int) -> list[bytes]:
    """The stored bodies, after those of the spool have reached the database."""
    with connect(url, name="test") as conn:
        rows = conn.execute("select packing, body from callback where batch_id = %s order by callback_id", (batch_id,))
        return [unpack(*row) for row in rows]


def status_and_body(answer: Answered) -> tuple[int, bytes]:
    return answer.status, answer.body


STORED = (200, b'{"status": "stored"}')
INCOMPLETE = (400, b'{"status": "incomplete"}')


def test_chunked_body_is_stored_completely(sender: Connect, url: str, batch_id: int) -> None:
    one = sender().send(head(batch_id, "Transfer-Encoding: chunked"), chunk(b"first "), chunk(b"second"), chunk(b""))
    assert status_and_body(one.answer()) == STORED
    eventually(lambda: stored(url, batch_id) == [b"first second"])


def test_chunked_body_of_64_kib_is_stored_and_one_byte_more_is_413(sender: Connect, url: str, batch_id: int) -> None:
    exact = [chunk(b"x" * 16384)] * 4
    one = sender().send(head(batch_id, "Transfer-Encoding: chunked"), *exact, chunk(b""))
    assert status_and_body(one.answer()) == STORED
    other = sender().send(head(batch_id, "Transfer-Encoding: chunked"), *exact, chunk(b"x"), chunk(b""))
    assert other.answer().status == 413
    eventually(lambda: [len(body) for body in stored(url, batch_id)] == [65536])


def test_endless_body_is_413_without_being_read_completely(sender: Connect, batch_id: int) -> None:
    one = sender().send(head(batch_id, "Transfer-Encoding: chunked"), *[chunk(b"x" * 16384)] * 5)
    assert one.answer().status == 413
    announced = sender().send(head(batch_id, "Content-Length: 99999999999"))
    assert announced.answer().status == 413


def test_empty_chunked_body_is_not_stored(sender: Connect, url: str, batch_id: int) -> None:
    one = sender().send(head(batch_id, "Transfer-Encoding: chunked"), chunk(b""))
    assert status_and_body(one.answer()) == (200, b'{"status": "ok"}')
    assert status_and_body(sender().send(head(batch_id)).answer()) == (200, b'{"status": "ok"}')
    assert stored(url, batch_id) == []


def test_cut_off_bodies_are_refused_and_not_stored(sender: Connect, url: str, batch_id: int) -> None:
    chunked = head(batch_id, "Transfer-Encoding: chunked")
    for sent in (
        head(batch_id, "Content-Length: 10") + b"123456789",
        chunked + chunk(b"whole") + b"5\r\n12",
        chunked + chunk(b"whole"),
        chunked + chunk(b"whole") + b"5\r\n12345",
        chunked + chunk(b"whole") + b"0\r\n",
        chunked,
        chunked + chunk(b"whole") + b"xyz\r\n",
        chunked + b"5\r\n1234567\r\n0\r\n\r\n",
    ):
        assert status_and_body(sender().send(sent).finish_sending().answer()) == INCOMPLETE, sent
    assert stored(url, batch_id) == []


def test_slow_sender_is_awaited_without_delaying_others(sender: Connect, url: str, batch_id: int) -> None:
    slow = [sender().send(head(batch_id, "Content-Length: 5"), b"sl") for _ in range(20)]
    slow.append(sender().send(head(batch_id)[:40]))
    for _ in range(5):
        quick = sender().send(head(batch_id, "Content-Length: 5"), b"quick")
        assert status_and_body(quick.answer()) == STORED
    for one in slow[:20]:
        assert status_and_body(one.send(b"owl").answer()) == STORED
    eventually(lambda: sorted(stored(url, batch_id)) == [b"quick"] * 5 + [b"slowl"] * 20)


def test_connection_is_kept_for_the_next_callback(sender: Connect, url: str, batch_id: int) -> None:
    one = sender()
    for body in (b"1", b"2", b"3"):
        assert status_and_body(one.send(head(batch_id, "Content-Length: 1"), body).answer()) == STORED
    assert one.send(head(batch_id, method="HEAD")).answer(to_head=True).status == 200
    # An unread body must not be parsed as the next request.
    assert one.send(head(batch_id, "Content-Length: 3", method="GET"), b"GET").answer().status == 200
    assert one.send(head(batch_id, "Content-Length: 3", method="PUT"), b"PUT").answer().status == 405
    assert status_and_body(one.send(head(batch_id, "Content-Length: 1"), b"4").answer()) == STORED
    eventually(lambda: stored(url, batch_id) == [b"1", b"2", b"3", b"4"])


def test_expect_100_continue_is_answered(sender: Connect, url: str, batch_id: int) -> None:
    one = sender().send(head(batch_id, "Content-Length: 4", "Expect: 100-continue"))
    assert one.answer().status == 100
    assert status_and_body(one.send(b"body").answer()) == STORED
    eventually(lambda: stored(url, batch_id) == [b"body"])


def test_trailing_slash_is_not_redirected(sender: Connect, batch_id: int) -> None:
    request = head(batch_id, "Content-Length: 4").replace(b" HTTP/1.1", b"/ HTTP/1.1", 1)
    assert status_and_body(sender().send(request, b"body").answer()) == STORED
