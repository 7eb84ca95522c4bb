"""Checks that the given secret keys can verify the tokens of all results that are still expected.

A worker stores the fingerprint of the key that signed a submission's token. A token that cannot be verified is answered
404, and the provider sends nothing twice. So a process without such a key does not start, and its deploy fails.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache

import psycopg

from receiver.config import Config
from receiver.database.pool import Connection, DatabaseUnavailable, connect
from receiver.errors import ConfigurationError, Fault
from receiver.logs import about
from receiver.model import OUTCOMES

LATEST_RESULT = timedelta(days=30)
"""Missing results are expected for this long after the due time. Some calls never get a result, and a key must not be
needed for ever."""

START_SECONDS = 3.0
"""How long a starting process waits for each answer of the database, which may hang."""

_LISTED = 5
"""The most batches in a message."""

_EXPECTING = f"""
select s.signing_key, count(*)::integer, (array_agg(distinct s.batch_id order by s.batch_id))[1:{_LISTED + 1}]
from submission s join batch b using (batch_id) join batch_count c using (batch_id)
where s.state in ('sending', 'accepted', 'unknown') and b.due_at > now() - %s
    and c.rows > c.skipped + c.refused + {" + ".join(f"c.{outcome}" for outcome in OUTCOMES)}
group by s.signing_key
"""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Expecting:
    """Submissions whose tokens were signed by one key, in batches that still expect results.

    `fingerprint`: None if release 1.0.0 sent them, which did not store it. `batch_ids`: the first few.
    """

    fingerprint: str | None
    submissions: int
    batch_ids: list[int]


def fingerprint(secret_key: str) -> str:
    """Eight characters that differ between keys, but do not help to guess a key.

    Each guess takes 16 MiB of memory and about 50 ms, and 32 bits cannot confirm it: one in four billion wrong keys
    has the same fingerprint.
    """
    return hashlib.scrypt(secret_key.encode(), salt=b"result_url signing key", n=1 << 14, r=8, p=1, dklen=4).hex()


def list_expecting(conn: Connection) -> list[Expecting]:
    """The submissions that still expect results, by key. Reads a row for each batch and submission, and no calls."""
    return [Expecting(*row) for row in conn.execute(_EXPECTING, (LATEST_RESULT,))]


def list_unverifiable(conn: Connection, secret_keys: Sequence[str]) -> list[Expecting]:
    """The submissions that these keys cannot verify.

    If the key of a submission is unknown, any key that was ever used here is accepted. Before a worker of this release
    has started, any key is accepted.
    """
    expecting = list_expecting(conn)
    if not expecting:
        return []
    given = {fingerprint(key) for key in secret_keys}
    known = {each for (each,) in conn.execute("select fingerprint from signing_key")}
    all_unknown = bool(known) and not known & given
    return [each for each in expecting if (all_unknown if each.fingerprint is None else each.fingerprint not in given)]


def has_earlier_release(conn: Connection) -> bool:
    """Whether this database was used, but never by a worker of a release that stores fingerprints."""
    used = conn.execute(
        "select not exists (select from signing_key) and (exists (select from worker) or exists (select from batch))"
    ).fetchall()[0][0]
    return bool(used)


def describe_loss(unverifiable: Sequence[Expecting]) -> str:
    """The end of a sentence that begins with SECRET_KEY, and a second sentence that explains what to do."""
    submissions = sum(each.submissions for each in unverifiable)
    batch_ids = sorted({batch_id for each in unverifiable for batch_id in each.batch_ids})
    batches = ", ".join(map(str, batch_ids[:_LISTED])) + (" and others" if len(batch_ids) > _LISTED else "")
    prints = sorted(each.fingerprint for each in unverifiable if each.fingerprint)
    named = f" (fingerprint {', '.join(prints)})" if prints else ""
    return (
        f"lacks the key{named} that signed {submissions} submissions which still expect results: their callbacks would"
        f" be answered 404 and lost (batch {batches}). Add that key after the first one: SECRET_KEY=new,old"
    )


def check_signing_keys(conn: Connection, config: Config) -> None:
    """Raise ConfigurationError if the given keys cannot verify all results that are still expected.

    With `SECRET_KEY_LOSS=accept` this is only logged.
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


@cache
def check_keys_at_start(config: Config, database_url: str) -> None:
    """`check_signing_keys` for a process that also starts without a database. Nothing is checked if the database is
    unavailable, or has another release's schema. Raises ReceiverError also if DATABASE_URL is not valid.

    Cached, also for the processes forked later: a web process that is restarted must not fail here, because the service
    still receives other results.
    """
    try:
        with connect(database_url, name="receiver start", autocommit=True, patience_seconds=START_SECONDS) as conn:
            check_signing_keys(conn, config)
    except (DatabaseUnavailable, psycopg.Error) as error:
        log.debug("the signing keys could not be checked: %s", error, extra=about("keys_not_checked"))
