"""A worker in a thread of the test's process, and a simulator for it."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from receiver.config import Config
from receiver.database.pool import Connection, connect
from receiver.intake.token import ResultTokens
from receiver.model import SubmissionKey
from receiver.release.presence import WORKER_LOCK
from receiver.release.provider import Provider
from receiver.simulator.faults import Rates
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.worker import Worker
from tests.queueing.queueing import batch_state
from tests.simulator.receiving import ask
from tests.waiting import eventually

ROOT = Path(__file__).parents[1]
SECRET = "a secret that is long enough"
LOGIN = "simulator"


@contextlib.contextmanager
def running_worker(
    database_url: str, provider_url: str, read_timeout: float = 60, grace_seconds: float = 2
) -> Iterator[Worker]:
    """Run a worker in a thread of this process. It holds its lock when the block begins, and is stopped at its end."""
    config = Config(data_dir=ROOT, public_url="https://calls.example.com", port=8000, secret_keys=(SECRET,))
    worker = Worker(config, database_url, Provider(provider_url, LOGIN, LOGIN, read_timeout=read_timeout))
    thread = threading.Thread(target=worker.run, args=(grace_seconds,))
    with contextlib.closing(connect(database_url, name="test", autocommit=True)) as observer:
        before = set(lock_holders(observer))
        thread.start()
        # A count would be wrong: the lock of a killed worker may be released at the same time.
        eventually(lambda: not before.issuperset(lock_holders(observer)))
    try:
        yield worker
    finally:
        worker.stop()
        thread.join(60)
        assert not thread.is_alive()


def lock_holders(conn: Connection) -> list[int]:
    """The ids of the server processes that hold a worker's lock in this database."""
    rows = conn.execute(
        "select pid from pg_locks where locktype = 'advisory' and classid = %s and granted"
        " and database = (select oid from pg_database where datname = current_database())",
        (WORKER_LOCK,),
    ).fetchall()
    conn.commit()
    return [pid for (pid,) in rows]


@contextlib.contextmanager
def running_simulator(**rates: float) -> Iterator[Simulator]:
    # Nothing listens at the result_url, so the simulator sends no GET and drops its callbacks. Tests write their own.
    with Simulator(Settings(check=False, rates=Rates(drop=1, **rates), user=LOGIN, key=LOGIN)) as simulator:
        yield simulator


def await_state(conn: Connection, batch_id: int, state: str) -> None:
    """Wait until the batch is in this state."""
    eventually(lambda: batch_state(conn, batch_id) == state, otherwise=lambda: batch_state(conn, batch_id))


def times_queued(simulator: Simulator) -> list[int]:
    """How often the provider received each submission."""
    requests = ask(f"{simulator.url}/simulator/ledger").content["requests"]
    return [each["times_queued"] for each in requests]


def token(batch_id: int, submission_no: int = 1) -> bytes:
    return ResultTokens([SECRET]).sign(SubmissionKey(batch_id, submission_no)).encode()
