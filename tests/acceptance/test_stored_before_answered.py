"""The order of system calls: what an answer of 2xx promises is on disk before the answer is sent.

A killed process proves nothing about this, because the kernel keeps what was written but not synced.
"""

from __future__ import annotations

import json
import secrets
import string
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.database.api_keys import create_key
from receiver.database.migrations import migrate
from receiver.database.pool import connect
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import list_processes
from tests.acceptance.system_calls import Call, Trace, traced
from tests.factories import deliver as settle_results
from tests.factories import make_batch, phone_number, result_body
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import EACH, Answered, Sender, gunicorn_process

pytestmark = pytest.mark.long

SYNCS = ("fsync", "fdatasync")
WRITES = ("write", "pwrite64", "pwritev", "writev")
SENDS = ("sendto", "sendmsg", "write", "writev")
REALLY_SYNCED = {"fsync": "on"}


@dataclass
class Traced:
    port: int
    key: str
    trace: Trace

    def ask(self, method: str, path: str, content_type: str, body: bytes) -> Answered:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\nContent-Length: {len(body)}\r\n"
            f"Authorization: Bearer {self.key}\r\nPrefer: wait=0\r\nConnection: close\r\n\r\n"
        )
        sender = Sender(self.port)
        try:
            return sender.send(head.encode(), body).answer()
        finally:
            sender.close()

    def check_synced_before_answered(self, mark: str, file: str) -> Call:
        """That the bytes with this mark were written to such a file, which was then synced before the next answer began
        to be sent. Returns the write.

        The mark must have been sent twice in a row: Postgres puts a header between two pages of its log, and that may
        divide one of them.
        """
        # strace writes a line when the call has ended, which the client may see first.
        eventually(lambda: bool(self._answers_after(mark, file)), otherwise=lambda: self._seen_of(mark, file))
        (written, answer), calls = self._answers_after(mark, file)[0], self.trace.calls()
        synced = [
            each for each in calls if each.name in SYNCS and each.path == written.path and each.began > written.ended
        ]
        assert synced and synced[0].ended < answer.began, (written, synced[:1], answer)
        return written

    def _seen_of(self, mark: str, file: str) -> str:
        """For the message of a failed test."""
        calls = self.trace.calls()
        writes = [f"{each.name} {each.path} at {each.began}" for each in calls if mark in each.arguments]
        answers = [each.began for each in calls if "HTTP/1.1" in each.arguments and each.name in SENDS]
        return f"{mark} in {file}, then an answer; of {len(calls)} calls, these have it: {writes}; answers at {answers}"

    def _answers_after(self, mark: str, file: str) -> list[tuple[Call, Call]]:
        """The first write of the mark, and each answer that began to be sent after it began."""
        written = [each for each in self.trace.find(mark, WRITES) if file in each.path][:1]
        return [
            (first, each)
            for first in written
            for each in self.trace.find("HTTP/1.1 2", SENDS)
            if _is_socket(each.path) and each.began > first.began
        ]


def new_mark() -> str:
    """Without digits: a long run of them is taken for a phone number, and is masked in notes."""
    return "".join(secrets.choice(string.ascii_lowercase) for _ in range(16))


def _is_socket(path: str) -> bool:
    return path.startswith(("TCP:", "socket:", "TCPv6:"))


@contextmanager
def service(folder: Path, entry_point: str = "whole service") -> Iterator[tuple[Postgres, Traced, int]]:
    """A traced Postgres that syncs, a traced web process, and a batch that was released and has a failed call."""
    with Postgres(folder, REALLY_SYNCED) as postgres:
        migrate(postgres.url)
        with connect(postgres.url, name="test") as conn:
            key = create_key(conn, "test", "admin")
            batch_id = make_batch(conn, [phone_number(index) for index in range(2)])
            settle_results(conn, batch_id, result_body(phone_number(0), "failed"))
            make_batch(conn, [phone_number(3)], send=False)
            conn.commit()
        data = folder / "data"
        data.mkdir()
        with gunicorn_process(data, postgres.url, entry_point=entry_point) as (parent, port):

            def list_pids() -> list[int]:
                web = [process.pid for process in list_processes() if process.parent == parent.pid]
                return [*web, *(process.pid for process in postgres.processes())]

            with traced(folder, list_pids) as trace:
                yield postgres, Traced(port, key, trace), batch_id


@pytest.mark.parametrize("entry_point", EACH)
def test_callback_is_on_disk_before_it_is_answered(server_dir: Path, entry_point: str) -> None:
    with service(server_dir, entry_point) as (postgres, web, batch_id):
        for _ in range(3):
            mark = new_mark()
            answer = web.ask("POST", results_path(batch_id), f"text/{mark * 2}", result_body(phone_number(1)))
            assert answer.status == 200
            web.check_synced_before_answered(mark, "/pg_wal/")
        postgres.stop("immediate")
        mark = new_mark()
        answer = web.ask("POST", results_path(batch_id), f"text/{mark * 2}", result_body(phone_number(1)))
        assert answer.status == 200
        written = web.check_synced_before_answered(mark, "/spool.sqlite3")
        check_folder_is_synced(web.trace, written)


def check_folder_is_synced(trace: Trace, written: Call) -> None:
    """That the spool's files, if they were made now, have their names on disk before the first answer."""
    folder = written.path.rpartition("/")[0]
    made = [each for each in trace.calls() if each.name == "openat" and "O_CREAT" in each.arguments]
    made = [each for each in made if each.path.startswith(f"{folder}/spool")]
    synced = [each for each in trace.calls() if each.name in SYNCS and each.path == folder]
    answered = [each for each in trace.find("HTTP/1.1 2", SENDS) if each.began > written.began]
    assert made and synced
    assert max(each.began for each in made) < max(each.began for each in synced if each.ended < answered[0].began)


Request = tuple[str, str, dict[str, object]]

REQUESTS: dict[str, Callable[[int, str], Request]] = {
    "follow-up": lambda id_, mark: ("POST", f"/batches/{id_}/follow-ups", {"name": mark}),
    "change": lambda id_, mark: ("PATCH", f"/batches/{id_}", {"name": mark}),
    "pause": lambda id_, mark: ("POST", f"/batches/{id_ + 1}/pause", {"note": mark}),
    "resume": lambda id_, mark: ("POST", f"/batches/{id_ + 1}/resume", {"note": mark}),
    "cancel": lambda id_, mark: ("POST", f"/batches/{id_ + 1}/cancel", {"note": mark}),
    "suppression": lambda _, mark: ("POST", "/suppressions", {"phone_number": "+16175550199", "note": mark}),
    "endpoint": lambda _, mark: ("POST", "/endpoints", {"url": "https://example.com/", "description": mark}),
    "key": lambda _, mark: ("POST", "/keys", {"name": mark, "scope": "read"}),
}
"""By what they do: from a batch's id and a mark, the request that stores the mark."""


def test_whatever_the_api_changes_is_on_disk_before_it_is_answered(server_dir: Path) -> None:
    with service(server_dir) as (_, web, batch_id):
        mark = new_mark()
        fields = {"application_id": "7", "deployment_id": "3", "name": mark * 2}
        parts = [f'--B\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{text}' for name, text in fields.items()]
        csv = '--B\r\nContent-Disposition: form-data; name="csv"; filename="a.csv"\r\n\r\ndestination\n6175550123\n'
        body = "\r\n".join([*parts, csv, "--B--\r\n"]).encode()
        answer = web.ask("POST", "/api/v1/batches", "multipart/form-data; boundary=B", body)
        assert answer.status == 202, answer.body
        web.check_synced_before_answered(mark, "/pg_wal/")
        for name, request in REQUESTS.items():
            mark = new_mark()
            method, path, members = request(batch_id, mark * 2)
            answer = web.ask(method, f"/api/v1{path}", "application/json", json.dumps(members).encode())
            assert 200 <= answer.status < 300, (name, answer.body)
            web.check_synced_before_answered(mark, "/pg_wal/")
