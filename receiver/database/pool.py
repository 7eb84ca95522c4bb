"""Connections to Postgres that detect an outage and report it with one error."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic
from typing import Any, TypeVar, cast

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
"""Longest wait for a connection from the pool. The sender of a callback waits for it, before the spool is used."""

CHECK_SECONDS = 1.0
"""How long a server may take to answer the check of a connection, before the connection is used."""

PROVEN_SECONDS = 0.05
"""A connection on which the server answered this recently is not checked again: a request that uses two connections
checks less. If the server failed in between, the statement fails, as one under way at that moment would."""

STATEMENT_SECONDS = 60.0
"""Longest wait for the answer to one statement. Every statement of a request or of the worker is faster."""

CONNECT_SECONDS = 3
"""How long a server may take to accept a connection, and then to apply the settings of the session."""

_NETWORK = {
    "connect_timeout": str(CONNECT_SECONDS),
    # For a server that vanished: the connection breaks if bytes are unacknowledged for 5 s. An idle connection is
    # probed after 10 s and breaks after 3 more probes. Unix sockets ignore these.
    "tcp_user_timeout": "5000",
    "keepalives": "1",
    "keepalives_idle": "10",
    "keepalives_interval": "3",
    "keepalives_count": "3",
}
"""libpq's parameters (manual: 32.1.2). Those in DATABASE_URL take precedence."""


GAVE_WAY = (
    # psycopg does not derive the errors of class 40 from a common class.
    psycopg.errors.TransactionRollback,
    psycopg.errors.SerializationFailure,
    psycopg.errors.DeadlockDetected,
)
"""The transaction was rolled back because of a concurrent one. Nothing was written; retry it."""


class DatabaseUnavailable(ReceiverError):
    """Postgres could not be reached, had no free connection, or broke the connection.

    If the connection broke during a commit, the transaction may be committed: retry only what may be done twice.
    """

    code = "database_unavailable"


def full_conninfo(conninfo: str, *, name: str, variable: str = "DATABASE_URL") -> str:
    """`conninfo` (a `postgres://` or `postgresql://` URL, or key=value pairs) with our time-outs and `name`.

    Raises ReceiverError with code `database_url` if it is neither. The message names `variable`; it does not repeat
    the value, which may contain a password.
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
    """Which database `conninfo` means, in words and without the password. Raises as `full_conninfo`."""
    found = _filled_in(conninfo)
    hosts = found.get("host") or found.get("hostaddr") or "the local socket"
    user = found.get("user", "")
    return (
        f'the database "{found.get("dbname") or user}" at {hosts}, port {found.get("port", "")}, as the user "{user}"'
    )


def find_unverified_hosts(conninfo: str) -> list[str]:
    """Hosts that are reached over a network without verifying their identity. Raises as `full_conninfo`."""
    found = _filled_in(conninfo)
    if found.get("sslmode") == "verify-full" or found.get("sslrootcert") == "system":
        return []
    hosts = (found.get("host") or found.get("hostaddr") or "").split(",")
    return [host for host in hosts if host and host[0] not in "/@" and not is_this_machine(host)]


def _filled_in(conninfo: str) -> dict[str, str]:
    """The parameters of `conninfo`, with libpq's defaults (from the environment, too) for those that are absent."""
    usual = {
        option.keyword.decode(): option.val.decode()
        for option in psycopg.pq.Conninfo.get_defaults()
        if option.val is not None
    }
    given = conninfo_to_dict(full_conninfo(conninfo, name=""))
    return {name: str(value) for name, value in {**usual, **given}.items() if value}


_Result = TypeVar("_Result")


class _Patient(psycopg.Connection[TupleRow]):
    """A connection that breaks if the server does not answer for `patience_seconds`; None: it waits without limit.

    The kernel of a server that hangs (stopped processes, a stuck disk) still accepts connections and acknowledges all
    data. So neither a network time-out nor `statement_timeout` ends the wait.
    """

    patience_seconds: float | None = STATEMENT_SECONDS
    answered_at = -math.inf
    """When the server last answered, on the monotonic clock."""

    def wait(self, gen: PQGen[_Result], interval: float = 0.1, timeout: float | None = None) -> _Result:
        limit = self.patience_seconds if timeout is None else timeout
        began = monotonic()
        try:
            result = super().wait(gen, interval, limit)
            self.answered_at = monotonic()
            return result
        except psycopg.OperationalError:
            if limit is not None and monotonic() - began >= limit:
                # Cancel the statement on the server, and close: an answer that still comes must not be taken for that
                # to another statement.
                with contextlib.suppress(psycopg.Error):
                    self.cancel_safe(timeout=CHECK_SECONDS)
                self.close()
            raise

    def __exit__(self, *raised: Any) -> None:
        """End the block's transaction and close. Raises DatabaseUnavailable if the connection broke in the block."""
        with naming_outages():
            super().__exit__(*raised)
            if isinstance(raised[1], psycopg.Error):
                raise raised[1]


def connect(conninfo: str, *, name: str, autocommit: bool = False, patience_seconds: float | None = None) -> Connection:
    """One connection outside any pool, for a command or a migration. Raises DatabaseUnavailable.

    So does a `with` block over it if the connection breaks. A statement may take any time, unless `patience_seconds` is
    given.
    """
    with naming_outages():
        conn = _Patient.connect(full_conninfo(conninfo, name=name), autocommit=autocommit)
        try:
            _configure(conn)
            conn.patience_seconds = patience_seconds
        except BaseException:
            conn.close()
            raise
        return conn


def open_pool(conninfo: str, *, max_size: int, name: str, wait_seconds: float = WAIT_SECONDS) -> Pool:
    """A pool of up to `max_size` connections, opened without waiting, because Postgres may be unavailable.

    Each connection has time zone UTC and application_name `name`. It breaks if a statement takes longer than
    STATEMENT_SECONDS. Getting a connection takes at most `wait_seconds`. Open the pool after any fork.
    """

    def check(conn: _Patient) -> None:
        if monotonic() - conn.answered_at < PROVEN_SECONDS:
            return
        conn.patience_seconds = CHECK_SECONDS
        try:
            ConnectionPool.check_connection(conn)
            conn.patience_seconds = STATEMENT_SECONDS
        except psycopg.Error:
            # One dead connection usually means a restarted server, so all are dead. To find them one by one, with the
            # pool's growing pauses in between, would take longer than WAIT_SECONDS.
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
        configure=_configure,
        # Give up quickly. The next request then tries at once; a long series of attempts would pause for a minute or
        # more before it detects that Postgres is back.
        reconnect_timeout=WAIT_SECONDS,
    )
    pool.open(wait=False)
    return cast(Pool, pool)


@contextmanager
def connection(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool: committed at the end, rolled back on an error, returned to the pool either way.

    Raises DatabaseUnavailable if there is no connection within WAIT_SECONDS (or the pool's own limit), and if the
    connection breaks. Errors that the caller can handle pass unchanged: constraints, deadlocks, unavailable locks.
    """
    with naming_outages(), pool.connection() as conn:
        _set_autocommit(conn, False)
        yield conn


@contextmanager
def reading(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool in autocommit mode, which saves the round trips of BEGIN and COMMIT.

    For reads whose statements need no common snapshot. Raises as `connection`.
    """
    with naming_outages(), pool.connection() as conn:
        _set_autocommit(conn, True)
        yield conn


@contextmanager
def at_one_moment(pool: Pool) -> Iterator[Connection]:
    """A connection from the pool whose reads share one snapshot. Raises as `connection`.

    For pages whose figures must agree with each other.
    """
    with reading(pool) as conn, conn.transaction():
        conn.execute("set transaction isolation level repeatable read, read only")
        yield conn


def _set_autocommit(conn: Connection, on: bool) -> None:
    if conn.autocommit != on:  # setting it to the same value costs 20 us
        conn.autocommit = on


def _configure(conn: _Patient) -> None:
    """Set the session's settings by a statement: poolers such as PgBouncer refuse them as start parameters."""
    patience, conn.patience_seconds = conn.patience_seconds, CONNECT_SECONDS
    conn.execute(
        "select set_config('TimeZone', 'UTC', false),"
        # After each commit, another copy is deleted: by the sender of a callback, by the user who queued a batch, or
        # in the spool. So the commit must be on disk, regardless of the settings of server, database and role. A
        # stricter setting is kept.
        " set_config('synchronous_commit', coalesce("
        "  nullif(current_setting('synchronous_commit'), 'off'), 'on'), false)"
    )
    conn.commit()
    conn.patience_seconds = patience


_CALLERS_CONCERN = (
    *GAVE_WAY,
    psycopg.errors.LockNotAvailable,  # the caller chose not to wait
)


@contextmanager
def naming_outages() -> Iterator[None]:
    """Turn the errors that psycopg raises in an outage into DatabaseUnavailable."""
    try:
        yield
    except _CALLERS_CONCERN:
        raise
    except (psycopg.OperationalError, psycopg.errors.ReadOnlySqlTransaction) as error:
        # ReadOnlySqlTransaction: after a failover the connection leads to a standby.
        raise DatabaseUnavailable(
            f"The database is unavailable: {in_one_line(error)}. Check that Postgres runs and that"
            " DATABASE_URL is correct."
        ) from error


def in_one_line(error: Exception) -> str:
    """libpq's message of several lines in one, without its question ("Is the server running?")."""
    lines = [line.strip() for line in str(error).splitlines() if not line.strip().startswith("Is the server")]
    return "; ".join(lines).rstrip(".") or type(error).__name__
