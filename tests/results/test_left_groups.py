"""A body that kills the process that reads it is found by halving its group, and does not block others."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from uuid import uuid4

import pytest

from receiver.database.pool import Connection, Pool, open_pool
from receiver.results import groups
from receiver.results.groups import mark_group
from receiver.results.settler import Settler
from receiver.results.stored import lock_waiting
from tests.acceptance.service import ROOT
from tests.factories import (
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle_all,
    states,
)
from tests.waiting import eventually

APPLIED = ("applied", None)
SET_ASIDE = ("unreadable", "settling_failed")
WAITING = ("waiting", None)
CALLBACKS = 12

# Settles until nothing waits. It dies when a body says so.
MORTAL = """
import os, signal, sys
from datetime import timedelta
from receiver.database.pool import connection, open_pool
from receiver.results import bodies, groups
from receiver.results.settler import Settler

read = bodies.read_call_details

def read_and_die(body, *rest):
    if b"poison" in body:
        os.kill(os.getpid(), signal.SIGKILL)
    return read(body, *rest)

bodies.read_call_details = read_and_die
groups.LEFT_AFTER = timedelta(seconds=0.2)
pool = open_pool(sys.argv[1], max_size=2, name="mortal")
settler = Settler(pool)
while True:
    settler.settle_group()
    with connection(pool) as conn:
        if conn.execute("select from waiting limit 1").fetchone() is None:
            os._exit(0)
"""


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    pool = open_pool(database_url, max_size=2, name="settler")
    yield pool
    pool.close()


def await_end_of(conn: Connection, name: str) -> None:
    """Wait until the server has released the locks of a killed process."""

    def gone() -> bool:
        conn.execute("select pg_stat_clear_snapshot()")
        found = conn.execute(
            "select from pg_stat_activity where application_name = %s and datname = current_database()", (name,)
        ).fetchone()
        conn.commit()
        return found is None

    eventually(gone)


def test_callback_that_kills_its_settler_is_found_by_halving_and_marked(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn, [phone_number(index) for index in range(CALLBACKS)])
    bodies = [result_body(phone_number(index), "poison" if index == 7 else "failed") for index in range(CALLBACKS)]
    ids = journal(conn, *(make_callback(batch_id, body) for body in bodies))
    killed = 0
    while (ended := subprocess.run([sys.executable, "-c", MORTAL, database_url], cwd=ROOT, timeout=120)).returncode:
        assert ended.returncode == -9
        killed += 1
        assert killed <= 8, "groups of 12, 6, 3, 1 or 2, and 1 callbacks, the last one twice"
        await_end_of(conn, "mortal")
    assert killed >= 5
    assert states(conn, ids) == [SET_ASIDE if index == 7 else APPLIED for index in range(CALLBACKS)]
    assert differences(conn) == []
    assert conn.execute("select from settling where tries = 0 or cardinality(callback_ids) = 1").fetchall() == []
    counts = read_batch(conn, batch_id).counts
    assert (counts["final"], counts["pending"]) == (CALLBACKS - 1, 1)


def test_callback_that_is_read_for_ever_ends_its_settler_and_is_marked(conn: Connection, database_url: str) -> None:
    batch_id = make_batch(conn)
    (only,) = journal(conn, make_callback(batch_id, result_body(phone_number(0), "poison")))
    program = MORTAL.replace("os.kill(os.getpid(), signal.SIGKILL)", "while True: pass")
    program = program.replace("settler = Settler", "settler_module.READING_SECONDS = 0.5\nsettler = Settler")
    program = program.replace(
        "import Settler", "import Settler\nfrom receiver.results import settler as settler_module"
    )
    for status in (1, 1, 0):
        ended = subprocess.run(
            [sys.executable, "-c", program, database_url], cwd=ROOT, timeout=120, capture_output=True, text=True
        )
        assert ended.returncode == status, ended.stderr
        assert ("read_and_die" in ended.stderr) == (status == 1), "where it was stuck"
        await_end_of(conn, "mortal")
    assert states(conn, [only]) == [SET_ASIDE]
    assert differences(conn) == []


def test_other_callbacks_are_settled_before_a_group_that_was_left(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn)
    left = journal(conn, *(make_callback(batch_id, result_body(phone_number(0))) for _ in range(4)))
    mark_group(conn, uuid4(), left)
    conn.commit()
    other = make_batch(conn)
    later = journal(conn, make_callback(other, result_body(phone_number(0))))
    settler = Settler(pool)
    assert settler.settle_group() == 1, "the group may belong to another settler, which has just begun it"
    assert states(conn, left + later) == [WAITING] * 4 + [APPLIED]


def test_group_that_was_left_is_halved_and_each_half_settled(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LEFT_AFTER", timedelta())
    batch_id = make_batch(conn)
    ids = journal(conn, *(make_callback(batch_id, result_body(phone_number(0))) for _ in range(4)))
    mark_group(conn, uuid4(), ids)
    conn.commit()
    settler = Settler(pool)
    assert [settler.settle_group() for _ in range(4)] == [0, 2, 2, 0]
    assert states(conn, ids) == [APPLIED, *[("duplicate", "same_result")] * 3]
    assert conn.execute("select from settling where cardinality(callback_ids) > 2").fetchall() == []
    assert differences(conn) == []


def test_group_of_another_living_settler_is_not_settled(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(groups, "LEFT_AFTER", timedelta())
    batch_id = make_batch(conn)
    (only,) = journal(conn, make_callback(batch_id, result_body(phone_number(0))))
    mark_group(conn, uuid4(), [only], tries=9)
    conn.commit()
    assert len(lock_waiting(conn, 10)) == 1
    assert Settler(pool).settle_group() == 0
    assert states(conn, [only]) == [WAITING]
    settle_all(conn)
    assert states(conn, [only]) == [APPLIED]
    assert Settler(pool).settle_group() == 0, "the group is already settled"
    assert conn.execute("select from settling").fetchall() == []
