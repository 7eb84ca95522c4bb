"""docs/warehouse.md: its programs follow the feed into DuckDB and Postgres, and its commands copy the tables."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import psycopg
import pytest

from receiver.database.api_keys import create_key
from receiver.database.migrations import migrate
from receiver.database.pool import Connection, connect
from tests.acceptance.postgres import Postgres
from tests.documents.blocks import blocks_of
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.feeding import change, give_all
from tests.waiting import eventually
from tests.web.gunicorn import gunicorn

pytestmark = pytest.mark.long

INTO_DUCKDB, INTO_POSTGRES = (block.source for block in blocks_of("docs/warehouse.md") if block.language == "python")
PUBLISH, COPY, QUERY = (block.source for block in blocks_of("docs/warehouse.md") if block.language == "sql")


@pytest.fixture
def environment(database_url: str, tmp_path: Path, conn: Connection) -> Iterator[dict[str, str]]:
    """Of a program that reads the service."""
    key = create_key(conn, "warehouse", "read")
    conn.commit()
    with gunicorn(tmp_path, database_url, "whole service") as port:
        yield {"PATH": os.environ["PATH"], "RECEIVER": f"http://127.0.0.1:{port}", "KEY": key}


def settle(conn: Connection, batch_id: int, rows: range, status: str = "completed") -> None:
    deliver(conn, batch_id, *(result_body(phone_number(row), status) for row in rows))
    give_all(conn)


@pytest.mark.parametrize("source", [INTO_DUCKDB, INTO_POSTGRES])
def test_program_has_twenty_lines(source: str) -> None:
    assert len([line for line in source.splitlines() if line]) <= 20


def test_program_follows_the_feed_into_duckdb(environment: dict[str, str], conn: Connection, tmp_path: Path) -> None:
    def run() -> list[tuple[int, int, str]]:
        subprocess.run([sys.executable, "-c", INTO_DUCKDB], env=environment, cwd=tmp_path, check=True, timeout=300)
        with duckdb.connect(str(tmp_path / "warehouse.duckdb")) as db:
            return db.execute("select batch_id, row, call->>'outcome' from result order by 1, 2").fetchall()

    assert run() == []
    batch_id = make_batch(conn, [phone_number(row) for row in range(1, 2501)])
    settle(conn, batch_id, range(1, 2001))
    change(conn, *((batch_id, row) for row in range(1500, 1600)))  # they appear again
    conn.commit()
    give_all(conn)
    expected = [(batch_id, row, "completed") for row in range(1, 2001)]
    assert run() == run() == expected
    settle(conn, batch_id, range(2001, 2501), "failed")
    assert run() == expected + [(batch_id, row, "failed") for row in range(2001, 2501)]


def test_program_follows_the_feed_into_postgres(
    environment: dict[str, str], conn: Connection, empty_database_url: str
) -> None:
    batch_id = make_batch(conn, [phone_number(row) for row in range(1, 21)])
    program = [sys.executable, "-c", INTO_POSTGRES]

    def outcomes() -> list[tuple[str, int]]:
        try:
            with psycopg.connect(empty_database_url) as db:
                found = db.execute("select call->>'outcome', count(*)::integer from result group by 1 order by 1")
                return [(str(outcome), int(count)) for outcome, count in found]
        except psycopg.errors.UndefinedTable:
            return []

    for rows, status, expected in (
        (range(1, 11), "completed", [("completed", 10)]),
        (range(11, 21), "failed", [("completed", 10), ("failed", 10)]),
    ):
        process = subprocess.Popen(program, env={**environment, "WAREHOUSE": empty_database_url})
        try:
            settle(conn, batch_id, rows, status)
            eventually(lambda expected=expected: outcomes() == expected)  # type: ignore[misc]
        finally:
            process.send_signal(signal.SIGKILL)
            process.wait(60)


def test_publication_copies_the_tables_and_keeps_them_current(server_dir: Path) -> None:
    folders = [server_dir / name for name in ("source", "copy")]
    for folder in folders:
        folder.mkdir(mode=0o711)
    with Postgres(folders[0], {"wal_level": "logical"}) as source, Postgres(folders[1]) as copy:
        migrate(source.url)
        with closing(connect(source.url, name="test")) as conn:
            batch_id = make_batch(conn, [phone_number(row) for row in range(1, 5)])
            deliver(conn, batch_id, result_body(phone_number(1)))
            source.execute(*PUBLISH.split(";")[:-1])
            address = source.url.replace("receiver@", "warehouse@")
            copy.execute(*COPY.replace("postgresql://warehouse@database.internal/receiver", address).split(";")[:-1])

            def copied() -> list[tuple[object, ...]]:
                return [row[:4] for row in copy.execute(QUERY)]

            eventually(lambda: copy.execute("select distinct srsubstate::text from pg_subscription_rel") == [("r",)])
            assert copied() == [(batch_id, 1, f"+{phone_number(1)}", "completed")]
            deliver(conn, batch_id, result_body(phone_number(2), "failed"))
            eventually(lambda: [row[3] for row in copied()] == ["completed", "failed"])
            conn.execute("alter table result add column of_a_later_release text")
            conn.execute("delete from result where row = 1")
            conn.execute("update call set phone_number = -2 where row = 2")
            conn.commit()
            eventually(lambda: [row[1:] for row in copied()] == [(2, None, "failed")])
        copy.execute("drop subscription receiver")
