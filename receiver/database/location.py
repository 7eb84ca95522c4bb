"""Which database a configuration means: the given one, or the embedded one under DATA_DIR."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from receiver.config import Config, read_secret
from receiver.database.account import usable_data_dir
from receiver.database.embedded import EmbeddedPostgres


def settle_config(config: Config) -> tuple[Config, str | None]:
    """The configuration with nothing left open (data folder, secret), and a sentence for the user, if any."""
    notice = None
    if config.database_url is None:
        data_dir, notice = usable_data_dir(config.data_dir)
        config = replace(config, data_dir=data_dir)
        if not config.secret_keys:
            config = replace(config, secret_keys=(read_secret(data_dir),))
    return config, notice


def find_database(config: Config) -> tuple[Config, str]:
    """The whole configuration and the database's address; an embedded server may yet have to be started."""
    config, _ = settle_config(config)
    return config, config.database_url or EmbeddedPostgres(config.data_dir).conninfo


@contextmanager
def running_database(config: Config) -> Iterator[str]:
    """The database's address, an embedded server running meanwhile: for a command beside or without `serve`."""
    config, _ = settle_config(config)
    if config.database_url is not None:
        yield config.database_url
        return
    with EmbeddedPostgres(config.data_dir) as server:
        yield server.conninfo
