"""Streaming replication of Postgres: a primary with the service's schema, and hot standbys."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import pytest

from receiver.database.migrations import migrate
from receiver.database.pool import open_pool
from receiver.database.replica import Reader, Replica
from tests.acceptance.postgres import Postgres
from tests.waiting import PATIENCE_SECONDS, eventually

LONG = 3600
"""A limit for the lag that even a slow machine does not reach."""


@contextmanager
def migrated_primary(session_folder: Path) -> Iterator[Postgres]:
    folder = Path(mkdtemp(prefix="r", dir=session_folder))
    # Replay cancels a conflicting read at once; the default of max_standby_streaming_delay is 30 s. Autovacuum would
    # cancel reads that must succeed.
    with Postgres(folder, {"max_standby_streaming_delay": "0", "autovacuum": "off"}) as server:
        migrate(server.url)
        yield server


@contextmanager
def standby_of(primary: Postgres, folder: Path) -> Iterator[Postgres]:
    standby = primary.standby(folder, name="replica")
    try:
        yield standby
    finally:
        if standby.processes():
            standby.stop("immediate")


def stop_replay(standby: Postgres) -> None:
    """Simulate a standby that cannot keep up: it receives the log, but does not replay it."""
    standby.execute("select pg_wal_replay_pause()")
    eventually(lambda: standby.execute("select pg_get_wal_replay_pause_state()") == [("paused",)])


def resume_replay(standby: Postgres) -> None:
    standby.execute("select pg_wal_replay_resume()")


def catch_up(primary: Postgres, standby: Postgres) -> None:
    """Return when the standby shows what the primary has now."""
    ((written,),) = primary.execute("select pg_current_wal_lsn()::text")
    shown = f"select pg_last_wal_replay_lsn() >= '{written}'::pg_lsn"
    eventually(lambda: standby.execute(shown) == [(True,)])


def await_fit(replica: Replica) -> None:
    eventually(lambda: isinstance(replica.fitness(), float))


@contextmanager
def patient_replica() -> Iterator[None]:
    """Keep using a working standby although the machine is busy."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("CONNECTION_WAIT_SECONDS", "STATEMENT_SECONDS"):
            patch.setattr(f"receiver.database.replica.{name}", PATIENCE_SECONDS)
        yield


@contextmanager
def readers(primary: Postgres, standby: Postgres) -> Iterator[tuple[Replica, Reader]]:
    """A replica that is ready to be read, and a reader as one answer uses it. Both have long time limits."""
    with patient_replica():
        replica = Replica(standby.url, primary.url, max_lag_seconds=LONG, max_size=2)
        pool = open_pool(primary.url, max_size=1, name="test", wait_seconds=PATIENCE_SECONDS)
        try:
            await_fit(replica)
            yield replica, Reader(pool, replica)
        finally:
            replica.close()
            pool.close()
