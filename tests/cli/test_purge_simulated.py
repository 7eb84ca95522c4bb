"""`purge --simulated`, as typed by a person."""

from __future__ import annotations

import os
from contextlib import closing
from pathlib import Path

from receiver.database.pool import Connection
from receiver.simulator.bodies import Parameters
from receiver.simulator.settings import STATE_FILE
from receiver.simulator.store import Store
from receiver.simulator.submission import Request
from tests.cli.conftest import Run
from tests.factories import deliver, make_batch, phone_number, read_batch, result_body

NUMBERS = [phone_number(index) for index in range(3)]


def test_purge_of_simulated_batches_keeps_real_ones(run: Run, conn: Connection) -> None:
    real = make_batch(conn, NUMBERS)
    simulated = make_batch(conn, NUMBERS, simulated=True)
    deliver(conn, simulated, result_body(NUMBERS[0]))
    ran = run("purge", "--simulated", "--dry-run")
    assert (ran.status, ran.out) == (0, "Would purge 1 simulated batches, with 3 calls and 1 callbacks.\n")
    assert read_batch(conn, simulated).simulated
    conn.commit()
    ran = run("purge", "--simulated")
    assert ran.status == 0
    assert ran.out.startswith("Purged 1 simulated batches, with 3 calls and 1 callbacks: ")
    assert conn.execute("select batch_id from batch").fetchall() == [(real,)]
    conn.commit()
    assert run("purge", "--simulated", "--older-than", "1").status == 2


def test_purge_of_simulated_batches_also_ends_their_calls_in_the_simulator(run: Run, conn: Connection) -> None:
    state = Path(os.environ["DATA_DIR"]) / STATE_FILE
    state.parent.mkdir(exist_ok=True)
    with closing(Store(state)) as store:
        store.accept(Request("bulk_queue", 7, 3, Parameters(), 0, 0.0, [str(NUMBERS[0])]))
    assert run("purge", "--simulated", "--dry-run").status == 0
    with closing(Store(state)) as store:
        assert len(store.submissions()) == 1
    assert run("purge", "--simulated").status == 0
    with closing(Store(state)) as store:
        assert store.submissions() == []
