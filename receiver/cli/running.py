"""Commands that run the service: serve, migrate, work."""

from __future__ import annotations

import argparse
import signal
from pathlib import Path

from receiver.cli.database import existing_database
from receiver.database.location import running_database
from receiver.database.migrations import check, migrate
from receiver.database.pool import connect
from receiver.environment import read_config
from receiver.errors import ConfigurationError, Fault, ReceiverError
from receiver.intake.signing_keys import check_signing_keys
from receiver.logs import start_logging
from receiver.release.presence import count_workers
from receiver.telemetry import start_telemetry

Commands = argparse._SubParsersAction  # argparse has no public name for what add_subparsers returns


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("serve", help="run everything on this machine")
    parser.set_defaults(run=_serve)
    parser = commands.add_parser("migrate", help="update the database schema to this release")
    parser.add_argument(
        "--after-restore",
        action="store_true",
        help="after restoring a backup: never reuse an id, and do not send anything that may have been sent already",
    )
    parser.set_defaults(run=_migrate)
    parser = commands.add_parser("work", help="send submissions and settle callbacks")
    parser.set_defaults(run=_work)


def _serve(_: argparse.Namespace) -> int:
    # Imported here, like the worker below: the other commands of this module would only wait for it.
    from receiver.supervisor.serve import serve

    config = read_config()
    start_logging(config.log_level, config.log_format, config.secrets)
    return serve(config)


def _migrate(parsed: argparse.Namespace) -> int:
    config = existing_database()[0]
    with running_database(config) as database_url:
        applied = migrate(database_url, report=print)
        print(f"{len(applied)} migrations applied." if applied else "Nothing to do: the schema is up to date.")
        if parsed.after_restore:
            _prepare_restored(database_url)
            print("The restored database is ready. Now resolve the unknown submissions.")
    return 0


def _prepare_restored(database_url: str) -> None:
    path = Path(__file__).resolve().parents[2] / "deploy" / "after-restore.sql"
    try:
        statements = path.read_bytes()
    except FileNotFoundError:
        raise ReceiverError(f"{path} does not exist; run this in a complete checkout.") from None
    with connect(database_url, name="receiver migrate", autocommit=True) as conn:
        if workers := count_workers(conn):
            raise ReceiverError(
                f"{workers} workers are running on this database, so nothing was changed. Stop them, and run this again"
                " only if the database was just restored."
            )
        conn.execute(statements)


def _work(_: argparse.Namespace) -> int:
    from receiver.release.provider import Provider
    from receiver.worker import Worker

    config, database_url = existing_database(signs=True)
    if config.plum_user is None or config.plum_key is None:
        raise ConfigurationError(
            [
                Fault(
                    "PLUM_USER",
                    "missing",
                    "and PLUM_KEY are required by `work`; `serve` starts a simulator without them",
                )
            ]
        )
    start_logging(config.log_level, config.log_format, config.secrets)
    start_telemetry(None, config.secrets)
    with connect(database_url, name="receiver worker") as conn:
        check(conn)
        check_signing_keys(conn, config)
    provider = Provider(config.plum_url, config.plum_user, config.plum_key, simulated=config.simulated)
    worker = Worker(config, database_url, provider)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: worker.stop())
    worker.run(grace_seconds=config.stop_seconds)
    return 0
