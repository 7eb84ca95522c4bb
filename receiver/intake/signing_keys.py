"""Which secret keys the results that are still expected need, by their fingerprints in the database.

A worker notes with each submission which key signed its token. A token that cannot be verified is answered 404, and the
provider sends nothing twice: so a process that lacks such a key does not start, and a deploy without it fails.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import psycopg

from receiver.config import Config
from receiver.database.pool import Connection, DatabaseUnavailable, connect
from receiver.errors import ConfigurationError, Fault
from receiver.logs import about
from receiver.model import OUTCOMES

LATEST_RESULT = timedelta(days=30)
"""How long past its due time a batch's missing results are still expected. Some calls never get one, and must not make
a key necessary for ever."""

START_SECONDS = 3.0
"""How long a process that starts waits for each answer of a database that may be hanging."""

_NAMED = 5
"""Batches that a message names."""

_EXPECTING = f"""
select s.signing_key, count(*)::integer, (array_agg(distinct s.batch_id order by s.batch_id))[1:{_NAMED + 1}]
from submission s join batch b using (batch_id) join batch_count c using (batch_id)
where s.state in ('sending', 'accepted', 'unknown') and b.due_at > now() - %s
    and c.rows > c.skipped + c.refused + {" + ".join(f"c.{outcome}" for outcome in OUTCOMES)}
group by s.signing_key
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expecting:
    """Submissions whose tokens one key signed, in batches that still expect results.

    `fingerprint` None: release 1.0.0 sent them, and did not note the key. `batch_ids`: the first few.
    """

    fingerprint: str | None
    submissions: int
    batch_ids: list[int]


def fingerprint(secret_key: str) -> str:
    """Eight characters that tell keys apart, and are of no use for guessing one.

    To try a guess takes 16 MiB of memory and some 50 ms. Even then 32 bits cannot confirm it: of the likely keys, a
    quarter of a billionth fits.
    """
    return hashlib.scrypt(secret_key.encode(), salt=b"result_url signing key", n=1 << 14, r=8, p=1, dklen=4).hex()


def list_expecting(conn: Connection) -> list[Expecting]:
    """What still expects results, by the key that it needs. Reads a row for each batch and submission, and no call."""
    return [Expecting(*row) for row in conn.execute(_EXPECTING, (LATEST_RESULT,))]


def list_unverifiable(conn: Connection, secret_keys: Sequence[str]) -> list[Expecting]:
    """Those that none of these keys can verify.

    Where the key was not noted, any key that ever signed here is taken for the right one; and any at all before a
    worker of this release has started.
    """
    expecting = list_expecting(conn)
    if not expecting:
        return []
    given = {fingerprint(key) for key in secret_keys}
    known = {each for (each,) in conn.execute("select fingerprint from signing_key")}
    strange = bool(known) and not known & given
    return [each for each in expecting if (strange if each.fingerprint is None else each.fingerprint not in given)]


def has_earlier_release(conn: Connection) -> bool:
    """Whether this database has been used, and never by a worker of a release that notes the keys."""
    row = conn.execute(
        "select not exists (select from signing_key) and (exists (select from worker) or exists (select from batch))"
    ).fetchone()
    return row is not None and bool(row[0])


def describe_loss(unverifiable: Sequence[Expecting]) -> str:
    """A sentence that continues "SECRET_KEY", and what to do."""
    submissions = sum(each.submissions for each in unverifiable)
    batch_ids = sorted({batch_id for each in unverifiable for batch_id in each.batch_ids})
    batches = ", ".join(map(str, batch_ids[:_NAMED])) + (" and others" if len(batch_ids) > _NAMED else "")
    prints = sorted(each.fingerprint for each in unverifiable if each.fingerprint)
    named = f" (fingerprint {', '.join(prints)})" if prints else ""
    return (
        f"lacks the key{named} that signed {submissions} submissions which still expect results: their callbacks would"
        f" be answered 404 and lost (batch {batches}). Add that key after the first one: SECRET_KEY=new,old"
    )


def check_signing_keys(conn: Connection, config: Config) -> None:
    """Raise ConfigurationError if results are still expected that the given keys cannot verify.

    With `SECRET_KEY_LOSS=accept` it is only logged.
    """
    unverifiable = list_unverifiable(conn, config.secret_keys)
    if not unverifiable:
        return
    loss = describe_loss(unverifiable)
    if config.accepts_key_loss:
        log.warning(
            "started because of SECRET_KEY_LOSS=accept: SECRET_KEY %s", loss, extra=about("secret_key_loss_accepted")
        )
        return
    raise ConfigurationError(
        [Fault("SECRET_KEY", "lacks_key", f"{loss}. To accept this loss, set SECRET_KEY_LOSS=accept")]
    )


def check_keys_at_start(config: Config, database_url: str) -> None:
    """`check_signing_keys` for a process that also starts without a database: one that is away, or whose schema is not
    this release's, is not asked. Raises ReceiverError also where DATABASE_URL cannot be read.
    """
    try:
        with connect(database_url, name="receiver start", autocommit=True, patience_seconds=START_SECONDS) as conn:
            check_signing_keys(conn, config)
    except (DatabaseUnavailable, psycopg.Error) as error:
        log.debug("the signing keys could not be checked: %s", error, extra=about("keys_not_checked"))
