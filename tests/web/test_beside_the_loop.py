"""Flask beside the event loop: slow and waiting clients hold no thread, and a long body needs a key."""

from __future__ import annotations

import asyncio
import json
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import pytest
import requests

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.server.in_progress import MOST_IN_PROGRESS
from receiver.web.app import UPLOAD_BYTES
from receiver.web.threads import MEMORY_BYTES, PIECE_BYTES, Threads
from tests.factories import make_batch, phone_number
from tests.waiting import eventually
from tests.web.gunicorn import Sender, gunicorn_process
from tests.web.test_long_answers import peak_megabytes
from tests.web.test_slow_connections import many_files

EACH = 200
"""Slow uploads, slow downloads and requests that wait for the provider, at once."""

ROWS = 30_000
"""Rows of the downloaded batch: more than fits into the buffers of a connection."""

ANSWER_SECONDS = 1.0

UPLOAD_MEGABYTES = 64
"""How much more memory a process may need for an upload of any length."""

TRIES = 5
"""Attempts, because the machine may be busy."""


@pytest.fixture
def port(session_folder: Path, database_url: str) -> Iterator[int]:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point="whole service", RATE_LIMIT="0") as (_, port):
        yield port


def keys(conn: Connection, number: int) -> list[str]:
    """Enough keys for these requests, because each key has a limit of requests in progress."""
    made = [create_key(conn, f"key {index}", "queue") for index in range(-(-number // MOST_IN_PROGRESS))]
    conn.commit()
    return [key for key in made for _ in range(MOST_IN_PROGRESS)][:number]


def multipart(csv: bytes) -> tuple[bytes, bytes]:
    """The head lines and the body of a request that queues a CSV."""
    parts = {"application_id": b"7", "deployment_id": b"3", 'csv"; filename="a.csv': csv}
    body = b"".join(
        f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n'.encode() + content + b"\r\n"
        for name, content in parts.items()
    )
    body += b"--B--\r\n"
    return f"Content-Type: multipart/form-data; boundary=B\r\nContent-Length: {len(body)}\r\n".encode(), body


@pytest.mark.long
def test_slow_and_waiting_clients_do_not_delay_others(port: int, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(ROWS)], send=False)
    (reader,) = keys(conn, 1)
    conn.execute("update api_key set name = 'reader'")
    held = keys(conn, 2 * EACH)
    with many_files(), ExitStack() as stack:

        def connect(head: str, key: str, *more: bytes) -> Sender:
            sender = Sender(port)
            stack.callback(sender.close)
            return sender.send(f"{head}\r\nHost: x\r\nAuthorization: Bearer {key}\r\n".encode(), *more)

        for index in range(EACH):
            lines, body = multipart(b"destination\n6175551234\n")
            connect("POST /api/v1/batches HTTP/1.1", held[0], lines, b"\r\n", body[:-20])  # the end is never sent
            connect(f"GET /api/v1/batches/{batch_id}/calls.csv HTTP/1.1", held[index], b"\r\n")  # never read
            lines, body = multipart(f"destination\n{phone_number(index)}\n".encode())
            connect("POST /api/v1/batches HTTP/1.1", held[EACH + index], lines, b"Prefer: wait=60\r\n\r\n", body)
        eventually(lambda: conn.execute("select count(*) from batch").fetchone() == (1 + EACH,))
        durations = []
        for _ in range(TRIES):
            began = time.monotonic()
            answer = requests.get(
                f"http://127.0.0.1:{port}/api/v1/batches", headers={"Authorization": f"Bearer {reader}"}, timeout=60
            )
            durations.append(time.monotonic() - began)
            assert answer.status_code == 200 and len(answer.json()["batches"]) == 100
            if durations[-1] < ANSWER_SECONDS:
                break
        assert min(durations) < ANSWER_SECONDS, durations


def test_request_that_waits_is_answered_when_the_provider_has_answered(port: int, conn: Connection) -> None:
    (key,) = keys(conn, 1)
    answers: list[requests.Response] = []

    def queue() -> None:
        answers.append(
            requests.post(
                f"http://127.0.0.1:{port}/api/v1/batches",
                files={"csv": ("a.csv", "destination\n6175551234\n")},
                data={"application_id": 7, "deployment_id": 3},
                headers={"Authorization": f"Bearer {key}", "Prefer": "wait=60"},
                timeout=120,
            )
        )

    thread = threading.Thread(target=queue)
    thread.start()
    eventually(lambda: conn.execute("select count(*) from batch").fetchone() == (1,))
    assert not answers
    conn.execute("update submission set state = 'accepted', calls_queued = 1")
    conn.execute("update batch set state = 'queued', queued_at = now()")
    conn.commit()
    thread.join()
    (answer,) = answers
    assert (answer.status_code, answer.json()["state"]) == (201, "queued")
    assert answer.headers["Location"] == f"/api/v1/batches/{answer.json()['id']}"


def test_cancellation_of_a_deployment_waits_for_the_providers_answer(port: int, conn: Connection) -> None:
    make_batch(conn, [phone_number(0)])
    key = create_key(conn, "admin", "admin")
    conn.commit()
    answers: list[requests.Response] = []
    url, headers = f"http://127.0.0.1:{port}/api/v1/deployments/7/3/cancel", {"Authorization": f"Bearer {key}"}
    thread = threading.Thread(
        target=lambda: answers.append(requests.post(url, json={"note": "stop"}, headers=headers, timeout=120))
    )
    thread.start()
    eventually(lambda: conn.execute("select count(*) from deployment_cancel").fetchone() == (1,))
    assert not answers
    conn.execute("update deployment_cancel set state = 'accepted', provider_status = 202")
    conn.commit()
    thread.join()
    (answer,) = answers
    assert (answer.status_code, answer.json()["provider_state"]) == (200, "accepted")
    assert answer.json()["calls_pending"] == 1


def test_request_that_waits_is_answered_when_the_process_stops(
    session_folder: Path, database_url: str, conn: Connection
) -> None:
    """Stopping disconnects no client, and logs no traceback (`gunicorn_process` checks the log)."""
    (key,) = keys(conn, 1)
    lines, body = multipart(b"destination\n6175551234\n")
    head = f"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\nPrefer: wait=60\r\n"
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with gunicorn_process(folder, database_url, entry_point="whole service") as (process, port):
        sender, uploader = Sender(port), Sender(port)
        sender.send(head.encode(), lines, b"\r\n", body)
        uploader.send(head.encode(), lines, b"\r\n", body[:-20])  # the end is never sent
        eventually(lambda: conn.execute("select count(*) from batch").fetchone() == (1,))
        process.terminate()
        answer = sender.answer()
        uploader.close()
        sender.close()
    assert (answer.status, json.loads(answer.body)["state"]) == (202, "queueing")


@pytest.mark.parametrize("chunked", [False, True])
def test_long_body_is_accepted_only_with_a_key(port: int, conn: Connection, chunked: bool) -> None:
    """A client without a key cannot fill the disk: it is answered before its body is read."""
    (key,) = keys(conn, 1)
    csv = b"destination,note\n" + b"\n".join(b"%d,%s" % (phone_number(row), b"x" * 900) for row in range(2_000)) + b"\n"
    assert len(csv) > MEMORY_BYTES
    lines, body = multipart(csv)
    if chunked:
        lines = lines.partition(b"Content-Length")[0] + b"Transfer-Encoding: chunked\r\n"
    for bearer, status in ((key, 202), ("rr_unknown", 401)):
        sender = Sender(port)
        head = f"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nPrefer: wait=0\r\n"
        sender.send(head.encode(), lines, b"\r\n")
        try:
            if chunked:
                for start in range(0, len(body), 65536):
                    block = body[start : start + 65536]
                    sender.send(b"%x\r\n" % len(block), block, b"\r\n")
                sender.send(b"0\r\n\r\n")
            elif status == 202:
                sender.send(body)
        except OSError:
            assert status == 401  # answered and disconnected while it was still sending
        answer = sender.answer()
        sender.close()
        assert answer.status == status, answer
        if status == 202:
            assert json.loads(answer.body)["counts"]["rows"] == 2_000


def test_expect_100_continue_is_answered_only_with_a_key(port: int, conn: Connection) -> None:
    (key,) = keys(conn, 1)
    lines, body = multipart(b"destination,note\n6175551234," + b"x" * 100_000)
    for bearer, status in ((key, 202), ("rr_unknown", 401)):
        with closing(Sender(port)) as sender:
            head = f"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {bearer}\r\nPrefer: wait=0\r\n"
            sender.send(head.encode(), lines, b"Expect: 100-continue\r\n\r\n")
            if status == 202:
                assert sender.answer().status == 100
                sender.send(body)
            assert sender.answer().status == status


@pytest.mark.long
@pytest.mark.parametrize("chunked", [False, True])
def test_upload_of_one_gibibyte_needs_no_more_memory(
    session_folder: Path, conn: Connection, database_url: str, chunked: bool
) -> None:
    (key,) = keys(conn, 1)
    lines, body = multipart(b"no column that is called so\n")
    begin, end = body.removesuffix(b"\r\n--B--\r\n"), b"\r\n--B--\r\n"
    block = (b"x" * 1023 + b"\n") * 64
    blocks = (UPLOAD_BYTES - len(begin) - len(end)) // len(block)
    length = len(begin) + blocks * len(block) + len(end)
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    with (
        gunicorn_process(folder, database_url, entry_point="whole service") as (parent, port),
        closing(Sender(port)) as sender,
    ):
        before = peak_megabytes(parent.pid)
        kind = b"Transfer-Encoding: chunked" if chunked else b"Content-Length: %d" % length
        head = b"POST /api/v1/batches HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n" % key.encode()
        sender.send(head, lines.partition(b"Content-Length")[0], kind, b"\r\n\r\n")

        def send(part: bytes) -> None:
            sender.send(b"%x\r\n" % len(part), part, b"\r\n") if chunked else sender.send(part)

        send(begin)
        for _ in range(blocks):
            send(block)
        send(end)
        if chunked:
            sender.send(b"0\r\n\r\n")
        answer = sender.answer()
        after = peak_megabytes(parent.pid)
    assert answer.status == 422 and json.loads(answer.body)["code"] == "invalid_csv", answer
    assert after - before < UPLOAD_MEGABYTES, (before, after)


def test_download_ends_when_its_client_disconnects(port: int, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(ROWS)], send=False)
    (key,) = keys(conn, 1)
    senders = [Sender(port) for _ in range(MOST_IN_PROGRESS)]
    head = f"GET /api/v1/batches/{batch_id}/calls.ndjson HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n\r\n"
    for sender in senders:
        assert sender.send(head.encode()).answer(to_head=True).status == 200
    url, headers = f"http://127.0.0.1:{port}/api/v1/batches", {"Authorization": f"Bearer {key}"}
    for sender in senders:
        sender.close()
    # Requests in progress count for the key. If they had not ended, this one would be refused.
    eventually(lambda: requests.get(url, headers=headers, timeout=60).status_code == 200)


def test_canceled_answer_is_closed_after_its_last_step_has_ended() -> None:
    """A process that stops cancels slow downloads while their threads read the next piece."""
    done: list[str] = []
    is_reading, may_go_on = threading.Event(), threading.Event()

    class Pieces:
        pieces = iter([b"." * PIECE_BYTES, b"."])

        def __iter__(self) -> Iterator[bytes]:
            yield next(self.pieces)
            is_reading.set()
            assert may_go_on.wait(60)
            done.append("read")
            yield next(self.pieces)

        def close(self) -> None:
            done.append("closed")

    def app(_: Any, start_response: Any) -> Pieces:
        start_response("200 OK", [])
        return Pieces()

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async def send(_: dict[str, Any]) -> None:
        pass

    async def cancel_a_download() -> None:
        scope = {
            "method": "GET",
            "path": "/",
            "raw_path": b"/",
            "query_string": b"",
            "headers": [],
            "scheme": "http",
            "http_version": "1.1",
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
            "type": "http",
        }
        threads = Threads(app, threads=2, longest_body=0, may_upload=lambda _: False)
        answering = asyncio.create_task(threads(scope, receive, send))
        while not is_reading.is_set():
            await asyncio.sleep(0.01)
        answering.cancel()
        asyncio.get_running_loop().call_later(0.1, may_go_on.set)
        with pytest.raises(asyncio.CancelledError):
            await answering
        threads.close()

    asyncio.run(cancel_a_download())
    assert done == ["read", "closed"]
