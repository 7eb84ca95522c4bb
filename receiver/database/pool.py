"""Connections that notice when Postgres is gone, and say so with one error.

Made for threads and for gevent alike: psycopg waits through the standard library's `select` where
gevent has patched it, provided that happened before psycopg was imported.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from receiver.errors import ReceiverError

Connection = psycopg.Connection[TupleRow]
Pool = ConnectionPool[Connection]

WAIT_SECONDS = 2.0
"""Longest wait for a connection from the pool: a callback's sender waits behind it, then the spool."""

_NETWORK = {
    "connect_timeout": "3",
    # A server that vanished without a word: unacknowledged bytes are given up after 5 s, a connection
    # that only waits is probed after 10 s and given up after 3 probes more. Unix sockets ignore these.
    "tcp_user_timeout": "5000",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}
"""libpq's parameters (manual: 32.1.2); what DATABASE_URL says itself comes first."""


GAVE_WAY = (
    # Each of class 40 by itself: psycopg derives none of them from another.
    psycopg.errors.TransactionRollback,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
)
"""The transaction was rolled back for another one's sake: nothing was written, do it again."""


class DatabaseUnavailable(ReceiverError):
    """Postgres could not be reached, had no connection to give, or broke off.

    Where it broke off during a commit, the commit may have been made: do again only what may be done twice.
    """

    code = "database_unavailable"


def full_conninfo(conninfo: str, *, name: str) -> str:
    """`conninfo` (a `postgres://` or `postgresql://` URL, or key=value pairs) with our time-outs and `name`.

    Raises ReceiverError with code `database_url` where it is neither; its text may hold a password and
    is not repeated.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise ReceiverError(
            "DATABASE_URL is neither a postgresql:// URL nor a list of key=value pairs. "
            "A password's special characters must be percent-encoded in a URL.",
            code="database_url",
        ) from None
    return make_conninfo("", **{**_NETWORK, "application_name": name, **given})


def connect(conninfo: str, *, name: str, autocommit: bool = False) -> Connection:
    """One connection outside any pool, for a command or a migration. Raises DatabaseUnavailable."""
    with _named():
        conn = psycopg.connect(full_conninfo(conninfo, name=name), autocommit=autocommit)
        try:
            _configure(conn, None)
        except BaseException:
            conn.close()
            raise
        return conn


def open_pool(conninfo: str, *, max_size: int, name: str, statement_timeout_seconds: float | None = None) -> Pool:
    """A pool of up to `max_size` connections, opened without waiting: Postgres may be away for now.

    Each connection: time zone UTC, autocommit off, application_name `name`, and statements ended by the
    server after `statement_timeout_seconds`. Open it in the process that uses it, after any fork.
    """

    def check(conn: Connection) -> None:
        try:
            ConnectionPool.check_connection(conn)
        except psycopg.Error:
            # One dead connection usually means a restarted server, so all are dead. Found one by one,
            # with the pool's growing pauses in between, they would outlast WAIT_SECONDS.
            pool.drain()
            raise

    pool: Pool = ConnectionPool(
        full_conninfo(conninfo, name=name),
        min_size=1,
        max_size=max_size,
        open=False,
        name=name,
        timeout=WAIT_SECONDS,
        check=check,
        configure=lambda conn: _configure(conn, statement_timeout_seconds),
        # Give up quickly: the next one who asks then tries at once, where a long series of attempts would
        # pause for a minute or more before it saw that Postgres had returned.
        reconnect_timeout=WAIT_SECONDS,
    )
    pool.open(wait=False)
    return pool


@contextmanager
def connection(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool: committed at the end, rolled back on an error, given back either way.

    Raises DatabaseUnavailable, after WAIT_SECONDS at most, where none can be had, and where Postgres
    breaks off. What the caller can act on passes unchanged: a constraint, a deadlock, a lock not got.
    """
    with _named(), pool.connection() as conn:
        yield conn


def _configure(conn: Connection, statement_timeout_seconds: float | None) -> None:
    """Settings of the session, by statement: poolers such as PgBouncer refuse them as start parameters."""
    milliseconds = None if statement_timeout_seconds is None else str(round(statement_timeout_seconds * 1000))
    conn.execute(
        "select set_config('TimeZone', 'UTC', false),"
        " set_config('statement_timeout', coalesce(%s, current_setting('statement_timeout')), false)",
        [milliseconds],
    )
    conn.commit()


_CALLERS_CONCERN = (
    *GAVE_WAY,
    psycopg.errors.LockNotAvailable,  # the caller asked not to wait
)


@contextmanager
def _named() -> Iterator[None]:
    """Turn what psycopg raises when Postgres is away into DatabaseUnavailable."""
    try:
        yield
    except _CALLERS_CONCERN:
        raise
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
        # The second: connected to what a failover has made a standby, which is no help to a writer.
        reason = str(error).strip() or type(error).__name__
        raise DatabaseUnavailable(
            f"The database cannot be used now: {reason}. Check that Postgres runs and DATABASE_URL is right."
        ) from error
