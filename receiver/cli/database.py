"""Open the database of a command: find it by the environment, name it on standard error, and check its schema."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from receiver.config import Config
from receiver.database.location import describe_database, find_database, running_database
from receiver.database.migrations import check
from receiver.database.pool import Connection, Pool, connect, open_pool
from receiver.environment import read_config


def existing_database(config: Config | None = None, *, signs: bool = False) -> tuple[Config, str]:
    """Call `find_database`, and name the database on standard error."""
    config, url = find_database(config or read_config(), signs=signs)
    print(f"receiver: using {describe_database(config)}", file=sys.stderr, flush=True)
    return config, url


@contextmanager
def opened_database(command: str, config: Config | None = None) -> Iterator[Connection]:
    """A connection without a transaction. It is committed at the end, and rolled back on an error.

    Raises ConfigurationError, SchemaError, and DatabaseUnavailable, also if the connection is lost in the block.
    """
    with _checked_database(command, config) as url, connect(url, name=f"receiver {command}") as conn:
        yield conn


@contextmanager
def opened_pool(command: str, config: Config | None = None) -> Iterator[Pool]:
    """A pool of one connection, for an export, which takes it for each block. Raises as `opened_database`."""
    with _checked_database(command, config) as url, open_pool(url, max_size=1, name=f"receiver {command}") as pool:
        yield pool


@contextmanager
def _checked_database(command: str, config: Config | None) -> Iterator[str]:
    config, _ = existing_database(config)
    with running_database(config) as url:
        with connect(url, name=f"receiver {command}") as conn:
            check(conn)
        yield url
