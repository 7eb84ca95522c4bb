"""Large or hostile content: lists show a part of it, and pages end early."""

import json
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from time import perf_counter

import pytest
import requests
from flask.testing import FlaskClient

from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.web import cursors
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.queueing.queueing import csv_of, queue
from tests.waiting import PATIENCE_SECONDS
from tests.web.asking import results_path
from tests.web.gunicorn import gunicorn_process

NOON = 1_772_366_400
CALLBACK_SECONDS, PAGE_SECONDS = 0.2, 10.0
"""Maximum time for a callback, and for a page of another key, while hostile callbacks are read."""

CALLBACKS = 20
"""Callbacks in one attempt. The median counts: a slow service is slow in each attempt, a busy machine is not."""

TRIES = 5

EVENTS = [{"event": f"step {index}", "timestamp": NOON + index} for index in range(1000)]


def all_rows(client: FlaskClient, path: str) -> Iterator[list[int]]:
    """The rows of each page. Also records the length of its answer."""
    cursor = ""
    while True:
        answer = client.get(f"{path}&cursor={cursor}" if cursor else path)
        assert answer.status_code == 200, answer.text
        assert len(answer.data) <= cursors.ANSWER_BYTES + 200
        yield [call["row"] for call in answer.get_json()["calls"]]
        cursor = answer.get_json()["next_cursor"]
        if cursor is None:
            return


def test_lists_and_files_have_the_first_50_events_and_a_single_call_all(reader: FlaskClient, conn: Connection) -> None:
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)])
    deliver(
        conn,
        batch_id,
        result_body(phone_number(0), events=EVENTS[:50]),
        result_body(phone_number(1), events=EVENTS),
    )
    path = f"/api/v1/batches/{batch_id}/calls"
    lists = [
        reader.get(path).get_json()["calls"],
        [json.loads(line) for line in reader.get(f"{path}.ndjson").text.splitlines()],
        [reader.get(f"/api/v1/calls?phone_number={phone_number(index)}").get_json()["calls"][0] for index in (0, 1)],
    ]
    for few, many in lists:
        assert (len(few["events"]), few["events_total"]) == (50, 50)
        assert (len(many["events"]), many["events_total"]) == (50, 1000)
        assert [event["event"] for event in many["events"]] == [f"step {index}" for index in range(50)]
    one = reader.get(f"{path}/2").get_json()
    assert (len(one["events"]), one["events_total"]) == (1000, 1000)
    assert one["events"][-1] == {"event": "step 999", "at": "2026-03-01T12:16:39Z"}
    # Events beyond the fiftieth still count for all other fields.
    assert [call["ended_at"] for call in lists[0]] == [call["ended_at"] for call in (lists[0][0], one)]


def test_page_of_long_rows_ends_at_four_megabytes(reader: FlaskClient, conn: Connection) -> None:
    long = "x" * 100_000
    batch_id = queue(conn, csv_of((str(phone_number(index)), long) for index in range(90)))
    pages = list(all_rows(reader, f"/api/v1/batches/{batch_id}/calls?limit=1000"))
    assert [row for page in pages for row in page] == list(range(1, 91))
    assert all(len(page) * len(long) > cursors.ANSWER_BYTES * 0.9 for page in pages[:-1]), pages


def test_row_that_is_longer_than_a_page_is_a_page(
    reader: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "ANSWER_BYTES", 1000)
    batch_id = queue(conn, csv_of((str(phone_number(index)), "x" * 2000) for index in range(3)))
    for path, items in ((f"/api/v1/batches/{batch_id}/calls?limit=9", "calls"), ("/api/v1/batches?limit=9", "batches")):
        answer = reader.get(path).get_json()
        assert len(answer[items]) == 1
        assert (answer["next_cursor"] is None) == (items == "batches")
    assert list(all_rows_of_any_length(reader, f"/api/v1/batches/{batch_id}/calls?limit=9")) == [1, 2, 3]


def all_rows_of_any_length(client: FlaskClient, path: str) -> Iterator[int]:
    cursor: str | None = ""
    while cursor is not None:
        page = client.get(f"{path}&cursor={cursor}" if cursor else path).get_json()
        yield from (call["row"] for call in page["calls"])
        cursor = page["next_cursor"]


def test_long_column_names_count_for_each_row(reader: FlaskClient, conn: Connection) -> None:
    name = "n" * 60_000
    batch_id = queue(conn, csv_of(((str(phone_number(index)), "Ana") for index in range(100)), [name]))
    pages = list(all_rows(reader, f"/api/v1/batches/{batch_id}/calls?limit=1000"))
    assert [row for page in pages for row in page] == list(range(1, 101))
    assert len(pages) == 2


def test_page_ends_early_if_its_callbacks_take_long_to_read(
    reader: FlaskClient, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "ANSWER_SECONDS", 1e-6)
    numbers = [phone_number(index) for index in range(3)]
    batch_id = make_batch(conn, numbers)
    deliver(conn, batch_id, *(result_body(number, events=EVENTS) for number in numbers))
    assert list(all_rows(reader, f"/api/v1/batches/{batch_id}/calls?limit=1000")) == [[1], [2], [3]]


@pytest.mark.long
def test_reading_hostile_callbacks_needs_little_memory_and_does_not_delay_others(
    tmp_path: Path, conn: Connection, database_url: str
) -> None:
    """8 readers concurrently request pages of 1,000 from 300 callbacks with 1,000 events each.

    Meanwhile normal callbacks arrive, and another client reads a page.
    """
    numbers = [phone_number(index) for index in range(300)]
    batch_id = make_batch(conn, numbers)
    deliver(conn, batch_id, *(result_body(number, events=EVENTS) for number in numbers))
    key = create_key(conn, "a reader", "read")
    other_key = create_key(conn, "another one", "read")
    conn.commit()
    with gunicorn_process(tmp_path, database_url, entry_point="whole service", RATE_LIMIT="0") as (parent, port):
        base = f"http://127.0.0.1:{port}/api/v1"

        def ask(path: str, key: str) -> tuple[float, requests.Response]:
            began = perf_counter()
            answer = requests.get(
                f"{base}{path}", headers={"Authorization": f"Bearer {key}"}, timeout=10 * PATIENCE_SECONDS
            )
            assert answer.status_code == 200, answer.text
            return perf_counter() - began, answer

        sender, result_url = requests.Session(), f"http://127.0.0.1:{port}{results_path(batch_id)}"
        genuine = result_body(numbers[0])

        def post_callback() -> float:
            began = perf_counter()
            answer = sender.post(result_url, genuine, timeout=10 * PATIENCE_SECONDS)
            assert answer.status_code == 200, answer.text
            return perf_counter() - began

        ask("/batches", other_key)
        post_callback()
        before = peak_megabytes(parent.pid)
        read: list[list[int]] = []
        lengths: list[int] = []
        measured = threading.Event()

        def read_all() -> None:
            while True:
                rows: list[int] = []
                cursor: str | None = ""
                while cursor is not None:
                    path = f"/batches/{batch_id}/calls?limit=1000&cursor={cursor}".removesuffix("&cursor=")
                    _, answer = ask(path, key)
                    lengths.append(len(answer.content))
                    rows += [call["row"] for call in answer.json()["calls"]]
                    cursor = answer.json()["next_cursor"]
                read.append(rows)
                if measured.is_set():
                    return

        readers = [threading.Thread(target=read_all) for _ in range(8)]
        for reader in readers:
            reader.start()
        callbacks, pages = [], []
        try:
            for _ in range(TRIES):
                callbacks.append(median(post_callback() for _ in range(CALLBACKS)))
                pages.append(ask("/batches?limit=1", other_key)[0])
        finally:
            measured.set()
            for reader in readers:
                reader.join()
        after = peak_megabytes(parent.pid)
    print(f"peak {before:.0f} MB, then {after:.0f} MB; callbacks {callbacks} s, pages {pages} s")
    assert len(read) >= 8 and all(rows == list(range(1, 301)) for rows in read)
    assert max(lengths) <= cursors.ANSWER_BYTES + 200
    assert after - before < 120
    assert min(callbacks) < CALLBACK_SECONDS, callbacks
    assert min(pages) < PAGE_SECONDS, pages


def peak_megabytes(parent: int) -> float:
    """The peak memory of gunicorn's only web process since its start."""
    (child,) = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    status = Path(f"/proc/{child}/status").read_text()
    found = re.search(r"VmHWM:\s+(\d+) kB", status)
    assert found and int(child) != os.getpid()
    return int(found[1]) / 1024
