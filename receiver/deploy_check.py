"""`doctor --deploy`: prove, before anything is replaced, that results can be accepted with the new settings.

Run it with the settings and the database role of the web processes, and again with those of the intake if they differ.
It stores a callback in the journal and one in the spool, and rolls both back. It searches for the keys that expected
results need, and sends a request to PUBLIC_URL. A failure names the wrong setting. `doctor` checks
the rest (worker, provider, disk space), because a fault there must not prevent a deploy.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from tempfile import TemporaryDirectory

import psycopg

from receiver.config import Config
from receiver.database.location import running_database
from receiver.database.migrations import check
from receiver.database.pool import Connection, connect, in_one_line
from receiver.doctor import Finding, Level, check_configuration, check_public_url
from receiver.errors import ReceiverError
from receiver.intake.draining import cut_after
from receiver.intake.journal import try_write
from receiver.intake.signing_keys import describe_loss, has_earlier_release, list_expecting, list_unverifiable
from receiver.intake.spool import Spool, SpoolFailed

STORE_SECONDS = 30.0
"""How long the database may take to store. If its synchronous standby is gone, it waits for ever."""


def examine_deploy(config: Config) -> Iterator[Finding]:
    """Check what a deploy must not break. After a failure, nothing must be replaced."""
    expects = earlier = False
    yield from check_configuration(config)
    try:
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
            _try_spool(path, config.spool_max_bytes)
        else:  # leave no spool: a web process must create it, because this may run as another account
            with TemporaryDirectory(prefix="spool-check-", dir=config.data_dir) as folder:
                _try_spool(config.data_dir / folder / path.name, config.spool_max_bytes)
    except (OSError, SpoolFailed) as error:
        message = f"DATA_DIR {config.data_dir} cannot store a callback: {error}. Callbacks would be lost in an outage:"
        return Finding("spool", "failure", f"{message} make room, or set DATA_DIR to a folder that can be written")
    return Finding("spool", "ok", f"a callback was stored in {config.data_dir}, and removed again")


def _try_spool(path: Path, max_bytes: int) -> None:
    with closing(Spool(path, max_bytes)) as spool:
        spool.try_write()


def check_receiver(config: Config, *, expects: bool, earlier: bool) -> Iterator[Finding]:
    """Whether PUBLIC_URL leads to a receiver with the same keys. Before the first deploy, it may lead to nothing.

    `expects`: results are expected. `earlier`: only an earlier release has used this database. That release does not
    know the token of this request.
    """
    yield from check_public_url(
        config,
        if_absent="failure" if expects else "warning",
        if_other_key="warning" if earlier or config.accepts_key_loss else "failure",
    )
