"""Connections that notice when Postgres is gone, and say so with one error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import TypeVar, cast

import psycopg
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from receiver.config import is_this_machine
from receiver.errors import ReceiverError

Connection = psycopg.Connection[TupleRow]
Pool = ConnectionPool[Connection]

WAIT_SECONDS = 2.0
"""Longest wait for a connection from the pool: a callback's sender waits behind it, then the spool."""

CHECK_SECONDS = 1.0
"""How long a server may take to say that it is still there, before a connection to it is handed out."""

PROVEN_SECONDS = 0.05
"""A connection over which the server answered so lately is handed out unasked: a request, which takes two, asks less.
Whoever gets one whose server has gone since is in the place of those who waited for an answer at that moment."""

STATEMENT_SECONDS = 60.0
"""How long the answer to one statement is waited for: longer than any of those of a request or of the worker takes."""

CONNECT_SECONDS = 3
"""How long a server may take to let us in, and then to take the settings of the session."""

_NETWORK = {
    "connect_timeout": str(CONNECT_SECONDS),
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


def full_conninfo(conninfo: str, *, name: str, variable: str = "DATABASE_URL") -> str:
    """`conninfo` (a `postgres://` or `postgresql://` URL, or key=value pairs) with our time-outs and `name`.

    Raises ReceiverError with code `database_url` where it is neither, which names the `variable` that it came from;
    its text may hold a password and is not repeated.
    """
    try:
        given = conninfo_to_dict(conninfo)
    except psycopg.ProgrammingError:
        raise ReceiverError(
            f"{variable} is neither a postgresql:// URL nor a list of key=value pairs. "
            "A password's special characters must be percent-encoded in a URL.",
            code="database_url",
        ) from None
    return make_conninfo("", **{**_NETWORK, "application_name": name, **given})


def describe(conninfo: str) -> str:
    """Which database `conninfo` means, in words for people and without the password. Raises as `full_conninfo`."""
    found = _filled_in(conninfo)
    hosts = found.get("host") or found.get("hostaddr") or "the local socket"
    user = found.get("user", "")
    return (
        f'the database "{found.get("dbname") or user}" at {hosts}, port {found.get("port", "")}, as the user "{user}"'
    )


def find_unverified_hosts(conninfo: str) -> list[str]:
    """Hosts that are reached over a network without proof that they are meant. Raises as `full_conninfo`."""
    found = _filled_in(conninfo)
    if found.get("sslmode") == "verify-full" or found.get("sslrootcert") == "system":
        return []
    hosts = (found.get("host") or found.get("hostaddr") or "").split(",")
    return [host for host in hosts if host and host[0] not in "/@" and not is_this_machine(host)]


def _filled_in(conninfo: str) -> dict[str, str]:
    """The parameters of `conninfo`, with libpq's own for those that it leaves out, be they from the environment."""
    usual = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None
    }
    given = conninfo_to_dict(full_conninfo(conninfo, name=""))
    return {name: str(value) for name, value in {**usual, **given}.items() if value}


_Result = TypeVar("_Result")


class _Patient(psycopg.Connection[TupleRow]):
    """A connection that gives up a server which says nothing for `patience_seconds`, and breaks; None: never.

    A server that hangs (its processes stopped, its disk stuck) is kept up by its kernel: that takes connections and
    acknowledges all that is sent, so no time-out of the network ever ends the wait, nor does `statement_timeout`.
    """

    patience_seconds: float | None = STATEMENT_SECONDS
    answered_at = -math.inf
    """When something last went well over it, on the monotonic clock; be it the end of a transaction that was none."""

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        limit = self.patience_seconds if timeout is None else timeout
        began = monotonic()
        try:
            result = super().wait(gen, interval, limit)
            self.answered_at = monotonic()
            return result
        except psycopg.OperationalError:
            if limit is not None and monotonic() - began >= limit:
                # Nobody waits for it any more, so the server need not go on; and its answer, which may yet come, must
                # not be taken for that to another statement.
                with contextlib.suppress(psycopg.Error):
                    self.cancel_safe(timeout=CHECK_SECONDS)
                self.close()
            raise


def connect(conninfo: str, *, name: str, autocommit: bool = False, patience_seconds: float | None = None) -> Connection:
    """One connection outside any pool, for a command or a migration, whose statements may take as long as they do,
    unless `patience_seconds` says otherwise. Raises DatabaseUnavailable.
    """
    with naming_outages():
        conn = _Patient.connect(full_conninfo(conninfo, name=name), autocommit=autocommit)
        try:
            _configure(conn, None)
            conn.patience_seconds = patience_seconds
        except BaseException:
            conn.close()
            raise
        return conn


def open_pool(
    conninfo: str,
    *,
    max_size: int,
    name: str,
    statement_timeout_seconds: float | None = None,
    wait_seconds: float = WAIT_SECONDS,
) -> Pool:
    """A pool of up to `max_size` connections, opened without waiting: Postgres may be away for now.

    Each connection: time zone UTC, application_name `name`, and statements ended by the server after
    `statement_timeout_seconds`, or broken by us after STATEMENT_SECONDS. One is waited for at most `wait_seconds`. Open
    it in the process that uses it, after any fork.
    """

    def check(conn: _Patient) -> None:
        if monotonic() - conn.answered_at < PROVEN_SECONDS:
            return
        conn.patience_seconds = CHECK_SECONDS
        try:
            ConnectionPool.check_connection(conn)
            conn.patience_seconds = STATEMENT_SECONDS
        except psycopg.Error:
            # One dead connection usually means a restarted server, so all are dead. Found one by one,
            # with the pool's growing pauses in between, they would outlast WAIT_SECONDS.
            pool.drain()
            raise

    pool: ConnectionPool[_Patient] = ConnectionPool(
        full_conninfo(conninfo, name=name),
        connection_class=_Patient,
        min_size=1,
        max_size=max_size,
        open=False,
        name=name,
        timeout=wait_seconds,
        check=check,
        configure=lambda conn: _configure(conn, statement_timeout_seconds),
        # Give up quickly: the next one who asks then tries at once, where a long series of attempts would
        # pause for a minute or more before it saw that Postgres had returned.
        reconnect_timeout=WAIT_SECONDS,
    )
    pool.open(wait=False)
    return cast(Pool, pool)


@contextmanager
def connection(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool: committed at the end, rolled back on an error, given back either way.

    Raises DatabaseUnavailable where none can be had, after WAIT_SECONDS or what the pool was opened with, and where
    Postgres breaks off. What the caller can act on passes unchanged: a constraint, a deadlock, a lock not got.
    """
    with naming_outages(), pool.connection() as conn:
        _set_autocommit(conn, False)
        yield conn


@contextmanager
def reading(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool whose statements are transactions of their own: spares BEGIN and COMMIT their ways.

    For what only reads, and needs no two statements to see the same. Raises as `connection`.
    """
    with naming_outages(), pool.connection() as conn:
        _set_autocommit(conn, True)
        yield conn


@contextmanager
def at_one_moment(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool all of whose reads see the database as it was at the first of them.

    For pages whose figures must agree with each other. Raises as `connection`.
    """
    with reading(pool) as conn, conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        yield conn


def _set_autocommit(conn: Connection, on: bool) -> None:
    if conn.autocommit != on:  # to set what is so already costs 20 us
        conn.autocommit = on


def _configure(conn: _Patient, statement_timeout_seconds: float | None) -> None:
    """Settings of the session, by statement: poolers such as PgBouncer refuse them as start parameters."""
    milliseconds = None if statement_timeout_seconds is None else str(round(statement_timeout_seconds * 1000))
    patience, conn.patience_seconds = conn.patience_seconds, CONNECT_SECONDS
    conn.execute(
        "select set_config('TimeZone', 'UTC', false),"
        # Each commit lets somebody forget something: a callback's sender, whoever queued a batch, the spool, the
        # provider. So it must be on disk, whatever the server, the database or the role says. A stricter setting stays.
        " set_config('synchronous_commit', coalesce("
        "  nullif(current_setting('synchronous_commit'), 'off'), 'on'), false),"
        " set_config('statement_timeout', coalesce(%s, current_setting('statement_timeout')), false)",
        [milliseconds],
    )
    conn.commit()
    conn.patience_seconds = patience


_CALLERS_CONCERN = (
    *GAVE_WAY,
    psycopg.errors.LockNotAvailable,  # the caller asked not to wait
)


@contextmanager
def naming_outages() -> Iterator[None]:
    """Turn what psycopg raises when Postgres is away into DatabaseUnavailable."""
    try:
        yield
    except _CALLERS_CONCERN:
        raise
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
        # The second: connected to what a failover has made a standby, which is no help to a writer.
        raise DatabaseUnavailable(
            f"The database is unavailable: {in_one_line(error)}. Check that Postgres runs and that"
            " DATABASE_URL is correct."
        ) from error


def in_one_line(error: Exception) -> str:
    """What libpq says in several lines, without its question to the user: our next sentence answers that."""
    lines = [line.strip() for line in str(error).splitlines() if not line.strip().startswith("Is the server")]
    return "; ".join(lines).rstrip(".") or type(error).__name__
