"""Migrate a database to the schema of this release, and check that it has this schema.

A migration is a numbered file of plain SQL in `migrations/`. Each is applied once, in order, in its own transaction. A
file that begins with `-- no-transaction` runs statement by statement instead, for `create index concurrently`. Each of
its statements ends with a semicolon at the end of a line, and needs `if not exists`, because an interrupted file runs
again from its beginning. Migrations only go forward: to correct a mistake, add a file; never change one.

If a released file builds an index in a transaction, all writers of a large table wait for it. A later file cannot
correct this, and the file itself must not change, because its sha256 is stored in databases. So the files in
`BUILT_CONCURRENTLY` run as if they began with `-- no-transaction` and had `concurrently if not exists` in their
statements.
"""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql
from psycopg.pq import TransactionStatus

from receiver.database.pool import Connection, connect, naming_outages
from receiver.errors import ReceiverError

MIGRATIONS = Path(__file__).resolve().parents[2] / "migrations"
MINIMUM_SERVER = 14
BUILT_CONCURRENTLY = frozenset({"0006_differing.sql"})
"""Released files that only build indexes, in a transaction. Later files contain `concurrently`."""

LOCK_SECONDS = 60.0
"""Longest wait for another process that migrates the same database."""

_log = logging.getLogger(__name__)
_LOCK_KEY = int.from_bytes(hashlib.sha256(b"receiver schema_migration").digest()[:8], signed=True)
_BUILD = re.compile(r"\bcreate (?:unique )?index\b")
_FILE_NAME = re.compile(r"(\d{4})_[a-z0-9_]+\.sql")
_TABLE = """
create table if not exists schema_migration (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default now()
)
"""


class SchemaError(ReceiverError):
    """The schema of the database does not match the files of this release, or a migration failed. Codes:

    `schema_behind`, `schema_ahead`, `migration_changed`, `migration_out_of_order`, `migration_failed`,
    `migration_lock`, `migration_files`, `server_version`.
    """

    code = "schema"


@dataclass(frozen=True, slots=True)
class Migration:
    """One file. `sha256` is computed with `\\n` line ends, so it is the same in a checkout on Windows."""

    name: str
    text: str
    sha256: str

    @property
    def in_transaction(self) -> bool:
        return not self.text.startswith("-- no-transaction") and self.name not in BUILT_CONCURRENTLY

    def statements(self) -> list[str]:
        """The statements of a file that does not run in a transaction: sent together, they would be one."""
        text = self.text
        if self.name in BUILT_CONCURRENTLY:
            text = _BUILD.sub(r"\g<0> concurrently if not exists", text)
        return [statement for statement in re.split(r";[ \t]*(?:\n|$)", text) if statement.strip()]


def list_migrations(folder: Path = MIGRATIONS) -> list[Migration]:
    """The folder's files in order. Raises SchemaError `migration_files` for an invalid name."""
    if not folder.is_dir():
        raise SchemaError(
            f"The folder {folder} does not exist: run this in a complete checkout.", code="migration_files"
        )
    found: dict[str, Migration] = {}
    for path in sorted(folder.glob("*.sql")):
        named = _FILE_NAME.fullmatch(path.name)
        if named is None or named[1] in found:
            raise SchemaError(
                f"{path} needs a name of its own such as 0002_add_index.sql: four digits that no other file "
                "has, then lower-case words.",
                code="migration_files",
            )
        text = path.read_text(encoding="utf-8").replace("\r\n", "\n")
        found[named[1]] = Migration(path.name, text, hashlib.sha256(text.encode()).hexdigest())
    return list(found.values())


def check(conn: Connection, folder: Path = MIGRATIONS) -> None:
    """Raise SchemaError unless the database has the schema of this release, on a server that is new enough."""
    check_server_version(conn.info.server_version)
    if missing := list_pending(conn, folder):
        names = ", ".join(migration.name for migration in missing)
        raise SchemaError(f"The database lacks {names}: run `python -m receiver migrate`.", code="schema_behind")


def migrate(conninfo: str, folder: Path = MIGRATIONS, *, report: Callable[[str], None] = _log.info) -> list[str]:
    """Apply the pending migrations and return their names. Any number of machines may do so at the same time.

    `report` receives a line before each file. Raises SchemaError, and then the files before the failed one stay
    applied. Raises DatabaseUnavailable.
    """
    applied = []
    with connect(conninfo, name="receiver migrate", autocommit=True) as conn, naming_outages():
        check_server_version(conn.info.server_version)
        # A statement time-out of the role or the database is for queries, not for building an index.
        conn.execute("set statement_timeout = 0; set idle_in_transaction_session_timeout = 0")
        with _locked(conn, report):
            conn.execute("set client_min_messages = warning")  # without "already exists, skipping"
            conn.execute(_TABLE)
            for migration in list_pending(conn, folder):
                report(f"Applying {migration.name}")
                _apply(conn, migration)
                applied.append(migration.name)
    return applied


def check_server_version(server_version: int) -> None:
    """Raise SchemaError for a server older than MINIMUM_SERVER. `server_version` is libpq's number (140005)."""
    if server_version < MINIMUM_SERVER * 10000:
        raise SchemaError(
            f"The server is Postgres {server_version // 10000}; {MINIMUM_SERVER} or later is needed. Upgrade it, or set"
            " DATABASE_URL to another.",
            code="server_version",
        )


def list_pending(conn: Connection, folder: Path = MIGRATIONS) -> list[Migration]:
    """The files that were not applied to this database yet. Raises SchemaError if the applied ones do not match."""
    files = list_migrations(folder)
    applied = _list_applied(conn)
    known = {migration.name for migration in files}
    for name in sorted(applied.keys() - known):
        raise SchemaError(
            f"This release does not know the migration {name} of the database: a newer release has migrated it. "
            "Start that release, or restore a backup from before it.",
            code="schema_ahead",
        )
    for migration in files:
        if applied.get(migration.name, migration.sha256) != migration.sha256:
            raise SchemaError(
                f"{migration.name} was changed after it was applied to this database. Put the file back as it was, and "
                "make the change in a new file.",
                code="migration_changed",
            )
    waiting = [migration for migration in files if migration.name not in applied]
    if waiting and applied and waiting[0].name < max(applied):
        raise SchemaError(
            f"{waiting[0].name} comes before {max(applied)}, which is already applied. "
            "Give it a number after the last.",
            code="migration_out_of_order",
        )
    return waiting


def _list_applied(conn: Connection) -> dict[str, str]:
    """The sha256 of each applied file, by name."""
    table = conn.execute("select to_regclass('schema_migration')").fetchone()
    if table is None or table[0] is None:
        return {}
    return dict(conn.execute("select name, sha256 from schema_migration").fetchall())


def _apply(conn: Connection, migration: Migration) -> None:
    try:
        if migration.in_transaction:
            with conn.transaction():
                # While a change waits for its table, all other users of the table wait behind it.
                conn.execute("set local lock_timeout = '30s'")
                conn.execute(migration.text.encode())
                if conn.info.transaction_status != TransactionStatus.INTRANS:
                    raise SchemaError(
                        f"{migration.name} ends its transaction itself: remove its `commit` or `rollback`.",
                        code="migration_failed",
                    )
                _insert_applied(conn, migration)
        else:
            _drop_unfinished_indexes(conn, migration)
            for statement in migration.statements():
                conn.execute(statement.encode())
            _insert_applied(conn, migration)
    except psycopg.OperationalError as error:
        if conn.broken:
            raise
        raise _failed(migration, error) from error
    except psycopg.Error as error:
        raise _failed(migration, error) from error


def _insert_applied(conn: Connection, migration: Migration) -> None:
    conn.execute("insert into schema_migration (name, sha256) values (%s, %s)", [migration.name, migration.sha256])


def _drop_unfinished_indexes(conn: Connection, migration: Migration) -> None:
    """Drop the indexes that an interrupted `create index concurrently` of this file left.

    Such an index is invalid: Postgres updates it, but never uses it, and `if not exists` would skip it.
    """
    invalid: Sequence[tuple[str, str]] = conn.execute(
        "select n.nspname, c.relname from pg_index i join pg_class c on c.oid = i.indexrelid"
        " join pg_namespace n on n.oid = c.relnamespace where not i.indisvalid"
    ).fetchall()
    for schema, name in invalid:
        if re.search(rf"\b{re.escape(name)}\b", migration.text):
            conn.execute(sql.SQL("drop index concurrently {}").format(sql.Identifier(schema, name)))


def _failed(migration: Migration, error: psycopg.Error) -> SchemaError:
    where = migration.name
    if migration.in_transaction and error.diag.statement_position:
        where += f", line {migration.text.count(chr(10), 0, int(error.diag.statement_position) - 1) + 1}"
    kept = (
        "Nothing of this file was applied."
        if migration.in_transaction
        else "Its earlier statements were applied; the next run starts again at its beginning."
    )
    said = (error.diag.message_primary or str(error), error.diag.message_detail, error.diag.message_hint)
    why = "; ".join(part.strip().rstrip(".") for part in said if part)
    return SchemaError(f"{where}: {why}. {kept}", code="migration_failed")


@contextmanager
def _locked(conn: Connection, report: Callable[[str], None]) -> Iterator[None]:
    """Hold the migration lock of this database. It is released when the session ends.

    This polls for the lock and does not wait in a statement. A waiting statement is a running transaction, and a
    `create index concurrently` of the lock's holder would wait for its end.
    """
    give_up_at = time.monotonic() + LOCK_SECONDS
    waiting = False
    while conn.execute("select pg_try_advisory_lock(%s)", [_LOCK_KEY]).fetchone() != (True,):
        if time.monotonic() >= give_up_at:
            raise SchemaError(
                f"Another process has been migrating this database for {LOCK_SECONDS:.0f} seconds. Try again when "
                "it has ended; pg_locks shows its process (locktype advisory).",
                code="migration_lock",
            )
        if not waiting:
            report("Waiting for another process that migrates this database")
            waiting = True
        time.sleep(0.1)
    try:
        yield
    finally:
        if not conn.broken:
            conn.execute("select pg_advisory_unlock(%s)", [_LOCK_KEY])
