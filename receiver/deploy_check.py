"""`doctor --deploy`: proves, before anything is replaced, that the new settings take results as the old ones do.

Run with the settings and the role of the web processes, and once more with the intake's where they differ. It stores a
callback in the journal and one in the spool, each taken back in its own transaction; looks for the keys that expected
results need; and asks PUBLIC_URL. What fails names the setting that is wrong. A worker that does not run, a provider
that does not answer or little room are no reason to keep the old settings: for these there is `doctor`.
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
from receiver.doctor import Finding, Level, ask, explain, look_at_configuration, look_at_public_url
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
"""How long the database may take to store: one that waits for a synchronous standby which is gone takes for ever."""

_LATER = "Run `doctor` when the web processes have started; the next deploy checks it again"


def examine_deploy(environ: dict[str, str] | None = None) -> Iterator[Finding]:
    """Everything that a deploy must not get wrong. A failure means: replace nothing."""
    try:
        config, _ = find_database(read_config(environ), signs=True)
    except ConfigurationError as error:
        yield from (Finding("configuration", "failure", f"{fault.where} {fault.message}") for fault in error.faults)
        return
    expects = earlier = False
    try:
        yield from look_at_configuration(config)
        with running_database(config) as url, connect(url, name="receiver doctor", autocommit=True) as conn:
            with cut_after(STORE_SECONDS, conn):
                check(conn)
                yield from look_at_journal(conn)
                yield look_at_keys(conn, config)
                expects, earlier = bool(list_expecting(conn)), has_earlier_release(conn)
    except (ReceiverError, psycopg.Error) as error:
        yield Finding("journal", "failure", f"DATABASE_URL cannot be used: {in_one_line(error)}")
    yield look_at_spool(config)
    yield from look_at_receiver(config, expects=expects, earlier=earlier)


def look_at_journal(conn: Connection) -> Iterator[Finding]:
    """Whether a callback can be stored durably there, by this role."""
    try:
        try_write(conn)
    except psycopg.Error as error:
        yield Finding(
            "journal", "failure", f"no callback can be stored in the database of DATABASE_URL: {in_one_line(error)}"
        )
        return
    row = conn.execute("select current_setting('fsync'), current_setting('synchronous_commit')").fetchone()
    assert row is not None  # noqa: S101 one row
    fsync, synchronous_commit = row
    if synchronous_commit == "off":
        message = "DATABASE_URL: synchronous_commit is off although this service sets it, so a pooler in between resets"
        message += " settings; a crash can lose a callback that was answered 200"
        yield Finding("journal", "failure", message)
        return
    yield Finding("journal", "ok", "a callback was stored, and rolled back")
    if fsync == "off":
        message = "fsync is off at the server: a power cut can destroy the whole database; switch it on"
        yield Finding("journal", "warning", message)


def look_at_keys(conn: Connection, config: Config) -> Finding:
    """Whether every result that is still expected can be verified."""
    if unverifiable := list_unverifiable(conn, config.secret_keys):
        level: Level = "warning" if config.accepts_key_loss else "failure"
        otherwise = "" if config.accepts_key_loss else ". To accept this loss, set SECRET_KEY_LOSS=accept"
        return Finding("keys", level, f"SECRET_KEY {describe_loss(unverifiable)}{otherwise}")
    submissions = sum(each.submissions for each in list_expecting(conn))
    return Finding("keys", "ok", f"{submissions} submissions expect results, and SECRET_KEY verifies all of them")


def look_at_spool(config: Config) -> Finding:
    """Whether a callback can be kept in the folder of the spool. One that other processes use is not disturbed."""
    path = config.data_dir / "spool.sqlite3"
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        if path.exists():
            _try_spool(Spool(path, config.spool_max_bytes))
        else:  # the first of the web processes makes it: whoever runs this may be another account
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


def look_at_receiver(config: Config, *, expects: bool, earlier: bool) -> Iterator[Finding]:
    """Whether PUBLIC_URL leads to a receiver with the same keys; or, where no results are expected, to nothing yet.

    `earlier`: only an earlier release has used this database. That one does not know the token that is asked with.
    """
    nothing: Level = "failure" if expects else "warning"
    where = f"PUBLIC_URL {config.public_url}"
    try:
        answer = ask("GET", result_url(config.public_url, ResultTokens(config.secret_keys).sign_probe()))
    except (OSError, HTTPException) as error:
        message = f"{where} cannot be reached from here ({str(error) or type(error).__name__})"
        yield Finding("PUBLIC_URL", nothing, f"{message}. {_hint(expects)}")
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
        yield from look_at_public_url(config)
    elif (answer.status, answer.body) == (403, FORBIDDEN.body) and config.result_sources:
        # As it should, from a machine that may post no results. Other keys would not be seen from here.
        yield from look_at_public_url(config)
    else:
        yield Finding("PUBLIC_URL", nothing, f"{where} answers {answer.status} and is not a receiver. {_hint(expects)}")


def _hint(expects: bool) -> str:
    if expects:
        return (
            "Results are expected there. Set PUBLIC_URL to the address of the web processes. If they are not running,"
            " start them with their previous settings"
        )
    return f"No results are expected, so this may be a first deploy. {_LATER}"
