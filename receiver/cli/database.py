"""The database of a command, found by the environment and seen to fit this release."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from receiver.config import Config
from receiver.database.location import running_database
from receiver.database.migrations import check
from receiver.database.pool import Connection, connect


@contextmanager
def opened_database(command: str, config: Config | None = None) -> Iterator[Connection]:
    """A connection, in no transaction yet: committed at the end, rolled back on an error.

    Raises ConfigurationError, DatabaseUnavailable, SchemaError.
    """
    with running_database(config or Config.from_env()) as url, connect(url, name=f"receiver {command}") as conn:
        check(conn)
        conn.rollback()
        yield conn
