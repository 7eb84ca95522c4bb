"""The database of a command: found by the environment, told on standard error, and seen to fit this release."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from receiver.config import Config
from receiver.database.location import describe_database, find_database, running_database
from receiver.database.migrations import check
from receiver.database.pool import Connection, Pool, connect, naming_outages, open_pool
from receiver.environment import read_config


def existing_database(config: Config | None = None, *, signs: bool = False) -> tuple[Config, str]:
    """`find_database`, and a line on standard error that says which database it is."""
    config, url = find_database(config or read_config(), signs=signs)
    print(f"receiver: using {describe_database(config)}", file=sys.stderr, flush=True)
    return config, url


@contextmanager
def opened_database(command: str, config: Config | None = None) -> Iterator[Connection]:
    """A connection, in no transaction yet: committed at the end, rolled back on an error.

    Raises ConfigurationError, SchemaError, and DatabaseUnavailable also where Postgres breaks off in the block.
    """
    with (
        naming_outages(),
        _checked_database(command, config) as url,
        connect(url, name=f"receiver {command}") as conn,
    ):
        yield conn


@contextmanager
def opened_pool(command: str, config: Config | None = None) -> Iterator[Pool]:
    """A pool of one connection, for what takes a new one for each block that it reads. Raises as `opened_database`."""
    with _checked_database(command, config) as url, open_pool(url, max_size=1, name=f"receiver {command}") as pool:
        yield pool


@contextmanager
def _checked_database(command: str, config: Config | None) -> Iterator[str]:
    config, _ = existing_database(config)
    with running_database(config) as url:
        with connect(url, name=f"receiver {command}") as conn:
            check(conn)
        yield url
