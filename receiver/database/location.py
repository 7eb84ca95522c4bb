"""Find the database of a configuration: DATABASE_URL, or the embedded one under DATA_DIR.

Only `serve` creates an embedded database. Every other command needs an existing one. If it is started without the
service's environment, it must not use a new, empty database.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from receiver.config import Config
from receiver.embedded_postgres.data_folder import claim_data_folder, find_data_folder
from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.errors import ConfigurationError, Fault
from receiver.secret_key import make_secret, read_secret


def claim_database(config: Config) -> tuple[Config, str | None]:
    """For `serve`: the configuration with its data folder and secret, and a sentence for the user, if any.

    Both are created if they are missing. The first start of the embedded server creates its database.
    """
    if config.database_url is not None:
        return config, None
    data_dir, notice = claim_data_folder(config.data_dir)
    secret_keys = config.secret_keys or (make_secret(data_dir),)
    return replace(config, data_dir=data_dir, secret_keys=secret_keys), notice


def find_database(config: Config, *, signs: bool = False) -> tuple[Config, str]:
    """For all other commands: the configuration with the data folder in use, and the address of the database.

    `running_database` starts an embedded server if necessary. `signs`: the caller also needs the secret.
    Raises ConfigurationError if there is no database, or no secret.
    """
    if config.database_url is not None:
        return config, config.database_url
    data_dir = find_data_folder(config.data_dir)
    if not (data_dir / "postgres").exists():
        message = (
            f"is not set, and there is no embedded database in {data_dir}. Run this with the environment of the service"
            " (DATABASE_URL, or DATA_DIR), and in the same folder. Only `serve` creates a database"
        )
        raise ConfigurationError([Fault("DATABASE_URL", "missing", message)])
    config = replace(config, data_dir=data_dir)
    if signs and not config.secret_keys:
        config = replace(config, secret_keys=(read_secret(data_dir),))
    return config, EmbeddedPostgres(data_dir).conninfo


@contextmanager
def running_database(config: Config) -> Iterator[str]:
    """Yields the address of the database, and runs its embedded server if necessary. `config` comes from
    `find_database`."""
    if config.database_url is not None:
        yield config.database_url
        return
    with EmbeddedPostgres(config.data_dir) as server:
        yield server.conninfo


def describe_database(config: Config) -> str:
    """Which database a configuration from `find_database` means, in words and without the password.

    Raises ReceiverError with code `database_url` if libpq cannot parse the address.
    """
    if config.database_url is None:
        return f"the embedded database in {config.data_dir / 'postgres'}"
    from receiver.database.pool import describe  # imported here: gunicorn's parent must not import psycopg

    return describe(config.database_url)
