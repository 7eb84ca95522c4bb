"""`doctor --deploy`: prove, before anything is replaced, that results can be accepted with the new settings.

Run it with the settings and the database role of the web processes, and again with those of the intake if they differ.
It stores a callback in the journal and one in the spool, and rolls both back. It searches for the keys that expected
results need, and sends a request to PUBLIC_URL. A failure names the wrong setting. `doctor` checks
the rest (worker, provider, disk space), because a fault there must not prevent a deploy.
"""

from __future__ import annotations

from collections.abc import Iterator
from http.client import HTTPException
from tempfile import TemporaryDirectory

import psycopg

from receiver.config import Config
from receiver.database.location import find_database, running_database
from receiver.database.migrations import check
from receiver.database.pool import Connection, connect, in_one_line
from receiver.doctor import Finding, Level, ask, check_configuration, check_public_url, explain
from receiver.environment import read_config
from receiver.errors import ConfigurationError, ReceiverError
from receiver.intake.callback_rules import FORBIDDEN, NOT_FOUND, OK
from receiver.intake.draining import cut_after
from receiver.intake.journal import try_write
from receiver.intake.signing_keys import (
    describe_loss,
    has_earlier_release,
    list_expecting,
    list_unverifiable,
)
from receiver.intake.spool import Spool, SpoolFailed
from receiver.intake.token import ResultTokens, result_url

STORE_SECONDS = 30.0
"""How long the database may take to store. If its synchronous standby is gone, it waits for ever."""

_LATER = "Run `doctor` when the web processes have started; the next deploy checks it again"


def examine_deploy(environ: dict[str, str] | None = None) -> Iterator[Finding]:
    """Check what a deploy must not break. After a failure, nothing must be replaced."""
    try:
        config, _ = find_database(read_config(environ), signs=True)
    except ConfigurationError as error:
        yield from (Finding("configuration", "failure", f"{fault.where} {fault.message}") for fault in error.faults)
        return
    expects = earlier = False
    try:
        yield from check_configuration(config)
        with running_database(config) as url, connect(url, name="receiver doctor", autocommit=True) as conn:
            with cut_after(STORE_SECONDS, conn):
                check(conn)
                yield from check_journal(conn)
                yield check_keys(conn, config)
                expects, earlier = bool(list_expecting(conn)), has_earlier_release(conn)
    except (ReceiverError, psycopg.Error) as error:
        yield Finding("journal", "failure", f"DATABASE_URL cannot be used: {in_one_line(error)}")
    yield check_spool(config)
    yield from check_receiver(config, expects=expects, earlier=earlier)


def check_journal(conn: Connection) -> Iterator[Finding]:
    """Whether this role can store a callback durably."""
    try:
        try_write(conn)
    except psycopg.Error as error:
        yield Finding(
            "journal", "failure", f"no callback can be stored in the database of DATABASE_URL: {in_one_line(error)}"
        )
        return
    settings = conn.execute("select current_setting('fsync'), current_setting('synchronous_commit')")
    ((fsync, synchronous_commit),) = settings.fetchall()
    if synchronous_commit == "off":
        message = "DATABASE_URL: synchronous_commit is off although this service sets it, so a pooler in between resets"
        message += " settings; a crash can lose a callback that was answered 200"
        yield Finding("journal", "failure", message)
        return
    yield Finding("journal", "ok", "a callback was stored, and rolled back")
    if fsync == "off":
        message = "fsync is off at the server: a power cut can destroy the whole database; switch it on"
        yield Finding("journal", "warning", message)


def check_keys(conn: Connection, config: Config) -> Finding:
    """Whether SECRET_KEY verifies every result that is still expected."""
    if unverifiable := list_unverifiable(conn, config.secret_keys):
        level: Level = "warning" if config.accepts_key_loss else "failure"
        otherwise = "" if config.accepts_key_loss else ". To accept this loss, set SECRET_KEY_LOSS=accept"
        return Finding("keys", level, f"SECRET_KEY {describe_loss(unverifiable)}{otherwise}")
    submissions = sum(each.submissions for each in list_expecting(conn))
    return Finding("keys", "ok", f"{submissions} submissions expect results, and SECRET_KEY verifies all of them")


def check_spool(config: Config) -> Finding:
    """Whether a callback can be stored in the folder of the spool. A spool in use is not disturbed."""
    path = config.data_dir / "spool.sqlite3"
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _try_spool(Spool(path, config.spool_max_bytes))
        else:  # leave no spool: a web process must create it, because this may run as another account
            with TemporaryDirectory(prefix="spool-check-", dir=config.data_dir) as folder:
                _try_spool(Spool(config.data_dir / folder / path.name, config.spool_max_bytes))
    except (OSError, SpoolFailed) as error:
        message = f"DATA_DIR {config.data_dir} cannot store a callback: {error}. Callbacks would be lost in an outage:"
        return Finding("spool", "failure", f"{message} make room, or set DATA_DIR to a folder that can be written")
    return Finding("spool", "ok", f"a callback was stored in {config.data_dir}, and removed again")


def _try_spool(spool: Spool) -> None:
    try:
        spool.try_write()
    finally:
        spool.close()


def check_receiver(config: Config, *, expects: bool, earlier: bool) -> Iterator[Finding]:
    """Whether PUBLIC_URL leads to a receiver with the same keys. Before the first deploy, it may lead to nothing.

    `expects`: results are expected. `earlier`: only an earlier release has used this database. That release does not
    know the token of this request.
    """
    if_absent: Level = "failure" if expects else "warning"
    where = f"PUBLIC_URL {config.public_url}"
    try:
        answer = ask("GET", result_url(config.public_url, ResultTokens(config.secret_keys).sign_probe()))
    except (OSError, HTTPException) as error:
        message = f"{where} cannot be reached from here ({str(error) or type(error).__name__})"
        yield Finding("PUBLIC_URL", if_absent, f"{message}. {_hint(expects)}")
        return
    if (answer.status, answer.body) == (404, NOT_FOUND.body):
        message = f"{where} leads to a receiver with another SECRET_KEY"
        if earlier:
            yield Finding("PUBLIC_URL", "warning", f"{message}, or to an earlier release. {_LATER}")
            return
        message += (
            ": it answers 404 to tokens of this key. Set PUBLIC_URL to the address of this service, or SECRET_KEY to"
        )
        message += " the value that its processes have. To change the key, see docs/upgrades.md"
        yield Finding("PUBLIC_URL", "warning" if config.accepts_key_loss else "failure", message)
    elif 300 <= answer.status < 400 or answer.status == 401:
        message = f"{where} answers {answer.status}{explain(answer.status, 200, answer.location)}"
        yield Finding("PUBLIC_URL", "failure", message)
    elif (answer.status, answer.body) == (200, OK.body):
        yield from check_public_url(config)
    elif (answer.status, answer.body) == (403, FORBIDDEN.body) and config.result_sources:
        # Expected if this machine may not post results. It cannot be seen from here whether the keys are right.
        yield from check_public_url(config)
    else:
        yield Finding(
            "PUBLIC_URL", if_absent, f"{where} answers {answer.status} and is not a receiver. {_hint(expects)}"
        )


def _hint(expects: bool) -> str:
    if expects:
        return (
            "Results are expected there. Set PUBLIC_URL to the address of the web processes. If they are not running,"
            " start them with their previous settings"
        )
    return f"No results are expected, so this may be a first deploy. {_LATER}"
