"""The log of the embedded server contains its events, and none of the data."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from receiver.embedded_postgres.server import EmbeddedPostgres
from tests.waiting import eventually

NUMBER, LITERAL = 6175593812, "6175593824"


@pytest.fixture
def server(server_dir: Path) -> Iterator[EmbeddedPostgres]:
    with EmbeddedPostgres(server_dir) as server:
        yield server


def logged(server: EmbeddedPostgres) -> str:
    return "".join(path.read_text() for path in (server.cluster / "log").iterdir())


def test_log_contains_ended_connections_and_killed_processes_but_no_row(server: EmbeddedPostgres) -> None:
    def connect() -> contextlib.closing[psycopg.Connection[tuple[object, ...]]]:
        return contextlib.closing(psycopg.connect(server.conninfo, autocommit=True))

    with connect() as conn:
        conn.execute("create table person (number bigint primary key)")
        conn.execute("insert into person values (%s)", (NUMBER,))
        with pytest.raises(psycopg.errors.UniqueViolation, match=str(NUMBER)):
            conn.execute("insert into person values (%s)", (NUMBER,))
        with pytest.raises(psycopg.errors.InvalidTextRepresentation, match="x6175"):
            conn.execute("select %s::text::bigint", (f"x{NUMBER}",))
        with pytest.raises(psycopg.errors.BadCopyFileFormat):
            with conn.cursor().copy("copy person from stdin") as copy:
                copy.write(f"{NUMBER}\t{NUMBER}\n")
    with connect() as conn, connect() as other:
        # The session is terminated during a statement. By default, Postgres would also log the statement.
        with pytest.raises(psycopg.OperationalError):
            conn.execute(f"select pg_terminate_backend(pg_backend_pid()), pg_sleep(60) /* {LITERAL} */")
        pid = other.info.backend_pid
        other.execute(f"select {LITERAL}")
        os.kill(pid, signal.SIGKILL)
        eventually(lambda: "terminated by signal 9" in logged(server))
        eventually(lambda: logged(server).count("ready to accept connections") == 2)
    log = logged(server)
    assert "terminating connection due to administrator command" in log
    assert not any(number in log for number in (str(NUMBER), LITERAL)), log
