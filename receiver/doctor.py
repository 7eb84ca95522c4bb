"""`doctor`: check everything that a deployment needs, and explain what to do. Changes nothing and calls nobody.

Each check yields its findings. It stops at a finding that makes the following ones useless.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import psycopg

from receiver.config import LOOPBACK_NAMES, Config, is_this_machine
from receiver.database.location import running_database
from receiver.database.migrations import check, check_server_version
from receiver.database.pool import Connection, connect, find_unverified_hosts
from receiver.database.replica import NotFollowing, measure
from receiver.errors import ReceiverError
from receiver.intake import callback_rules
from receiver.intake.callback_rules import FORBIDDEN, NOT_FOUND, OK
from receiver.intake.spool import Spool, SpoolFailed
from receiver.intake.token import ResultTokens, result_url
from receiver.release.presence import WORKER_SECONDS
from receiver.release.provider import NoAnswer, Provider, get, read_error
from receiver.summary.gauges import get_gauges

Level = Literal["ok", "warning", "failure"]

CLOCK_SECONDS = 2.0
"""Largest accepted difference between this machine's clock and the database's. Times of receipt are from this machine,
and due times are compared with the database's clock."""

OLD_SECONDS = 300.0
"""A callback that has waited longer than this is a problem."""

ASK_SECONDS = 10.0
SLOW_SECONDS = 2.0
"""A callback must be answered within this time."""

_BODY_READ = 1000
"""How many bytes of an answer are read: enough to recognize the service."""

LEAST_DISK = 256 << 20
GOOD_SECRET = 32


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of output. The message of a warning or a failure explains what to do."""

    subject: str
    level: Level
    message: str


def list_faults(error: ReceiverError) -> Iterator[Finding]:
    """The faults of a configuration that cannot be used."""
    faults = [f"{fault.where} {fault.message}" for fault in getattr(error, "faults", ())]
    yield from (Finding("configuration", "failure", message) for message in faults or [str(error)])


def examine(config: Config) -> Iterator[Finding]:
    """Run all checks, each after those that it depends on. `config` comes from `find_database`."""
    yield from check_configuration(config)
    try:
        with running_database(config) as url, connect(url, name="receiver doctor", autocommit=True) as conn:
            yield from check_database(conn)
            if config.database_replica_url is not None:
                yield check_replica(conn, config.database_replica_url, config.replica_max_lag_seconds)
    except (ReceiverError, psycopg.Error) as error:
        yield Finding("database", "failure", str(error).strip())
    yield from check_disk(config)
    yield from check_public_url(config)
    yield from check_provider(config)


def check_configuration(config: Config) -> Iterator[Finding]:
    """Settings that are valid, but dangerous when real calls are made."""
    found = []
    plum = urlsplit(config.plum_url)
    scheme, host = urlsplit(config.public_url).scheme, urlsplit(config.public_url).hostname
    if config.loses_results:
        message = f"PUBLIC_URL is {config.public_url}: the provider cannot reach it, and every result would be lost"
        found.append(Finding("configuration", "failure", message))
    elif config.has_provider and scheme == "http" and host not in LOOPBACK_NAMES:
        message = "PUBLIC_URL is not https: phone numbers cross the network in the clear; put TLS in front"
        found.append(Finding("configuration", "warning", message))
    if config.has_provider and plum.scheme == "http" and not is_this_machine(plum.hostname or ""):
        message = "PLUM_URL is not https: PLUM_KEY and phone numbers cross the network in the clear; set it to https"
        found.append(Finding("configuration", "warning", message))
    for name, url in (("DATABASE_URL", config.database_url), ("DATABASE_REPLICA_URL", config.database_replica_url)):
        if url is not None and (hosts := find_unverified_hosts(url)):
            message = f"{name} reaches {', '.join(hosts)} without sslmode=verify-full: an attacker in between can read"
            message += (
                " and change everything; add sslmode=verify-full, and sslrootcert with the authority's certificate"
            )
            found.append(Finding("configuration", "warning", message))
    if config.secret_keys and len(config.secret_keys[0]) < GOOD_SECRET:
        message = f"the first SECRET_KEY has fewer than {GOOD_SECRET} characters; put a longer one in front of it"
        found.append(Finding("configuration", "warning", message))
    if config.has_provider and config.metrics_key is None and host not in LOOPBACK_NAMES:
        message = (
            "METRICS_KEY is not set: anybody who reaches /metrics sees how many calls there are; set it, or block it"
        )
        found.append(Finding("configuration", "warning", message))
    yield from found or [Finding("configuration", "ok", "complete")]
    if config.result_sources:
        networks = ", ".join(str(network) for network in config.result_sources)
        yield Finding("RESULT_SOURCES", "ok", f"results are accepted only from these networks: {networks}")


def check_database(conn: Connection) -> Iterator[Finding]:
    """Version, durability, clock, schema, and whether a worker is running."""
    check_server_version(conn.info.server_version)
    yield Finding("database", "ok", f"PostgreSQL {conn.info.parameter_status('server_version')}")
    yield from _check_settings(conn)
    asked = time.monotonic()
    ((now,),) = conn.execute("select clock_timestamp()").fetchall()
    apart = abs((datetime.now(UTC) - now).total_seconds()) - (time.monotonic() - asked)
    if apart > CLOCK_SECONDS:
        message = f"differs from the database's by {apart:.0f} s; run a time service on both machines"
        yield Finding("clock", "failure", message)
    else:
        yield Finding("clock", "ok", "agrees with the database's")
    check(conn)
    yield Finding("migrations", "ok", "the schema matches this release")
    yield from _check_work(conn)


def check_replica(primary: Connection, url: str, max_lag_seconds: int) -> Finding:
    """Whether it follows this primary, and its lag. There is no failure: without a replica, reads are only slower."""
    try:
        with connect(url, name="receiver doctor", autocommit=True) as conn:
            behind_seconds = measure(primary, conn, max_lag_seconds)
    except NotFollowing as error:
        return Finding("replica", "warning", f"is not used; reads go to the primary: {error}")
    except (ReceiverError, psycopg.Error) as error:
        reason = str(error).strip().partition("\n")[0]
        message = f"is not used; reads go to the primary: {reason}; correct DATABASE_REPLICA_URL"
        return Finding("replica", "warning", message)
    if behind_seconds is None:
        message = f"is more than {max_lag_seconds} s behind, so it is not used: check its load, disk and network"
        return Finding("replica", "warning", message)
    return Finding("replica", "ok", f"follows, {behind_seconds:.1f} s behind")


_SETTINGS: tuple[tuple[str, tuple[str, ...], Level, str], ...] = (
    ("fsync", ("on",), "failure", "a power cut can destroy the whole database; switch it on"),
    ("full_page_writes", ("on",), "failure", "a power cut can destroy pages; switch it on"),
    (
        "synchronous_commit",
        ("on", "remote_apply", "remote_write", "local"),
        "failure",
        "a crash can lose a callback that was answered 200, or make a request to the provider twice; "
        "this service sets it in each session, so a pooler in between resets settings",
    ),
    (
        "server_encoding",
        ("UTF8",),
        "failure",
        "names and bodies cannot be stored; create the database with encoding UTF8",
    ),
    ("transaction_read_only", ("off",), "failure", "this is a standby, or read only; connect to the primary"),
    ("TimeZone", ("UTC",), "warning", "this service sets UTC in each session, so a pooler in between resets settings"),
)
"""For each setting: its name, the accepted values, and the level and the message of a finding for other values."""


def _check_settings(conn: Connection) -> Iterator[Finding]:
    found = []
    for name, accepted, level, message in _SETTINGS:
        ((value,),) = conn.execute("select current_setting(%s)", (name,)).fetchall()
        if value not in accepted:
            found.append(Finding("settings", level, f"{name} is {value}: {message}"))
    yield from found or [Finding("settings", "ok", "durable, UTF-8, UTC, a primary")]


def _check_work(conn: Connection) -> Iterator[Finding]:
    gauges = get_gauges(conn)
    if gauges.workers:
        yield Finding("worker", "ok", f"{gauges.workers} seen within {WORKER_SECONDS} s")
    else:
        seen = "never" if gauges.worker_seen_seconds is None else f"{gauges.worker_seen_seconds:.0f} s ago"
        message = f"seen {seen}: nothing is sent and nothing settled; start `python -m receiver work`"
        yield Finding("worker", "failure", message)
    if (gauges.oldest_waiting_seconds or 0) > OLD_SECONDS:
        message = f"the oldest callback has waited for {gauges.oldest_waiting_seconds:.0f} s; see the worker's log"
        yield Finding("callbacks", "warning", message)
    else:
        yield Finding("callbacks", "ok", f"{gauges.callbacks['waiting']} waiting to be settled")
    if doubts := gauges.submissions["unknown"]:
        message = f"{doubts} unknown; resolve them: `python -m receiver resolve --help`"
        yield Finding("submissions", "warning", message)


def check_disk(config: Config) -> Iterator[Finding]:
    """Whether the folder of the spool can be written and has enough space, and whether the spool is empty."""
    try:
        config.data_dir.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=config.data_dir) as file:
            file.write(b"doctor")
            file.flush()
            os.fsync(file.fileno())
        free = shutil.disk_usage(config.data_dir).free
    except OSError as error:
        message = f"{config.data_dir} cannot be written ({error.strerror}): callbacks are lost in an outage"
        yield Finding("disk", "failure", f"{message}; set DATA_DIR to a folder that can be written")
        return
    if free < min(LEAST_DISK, config.spool_max_bytes):
        yield Finding("disk", "failure", f"only {free >> 20} MiB are free in {config.data_dir}; free some space")
    elif free < config.spool_max_bytes:
        message = (
            f"{free >> 20} MiB are free in {config.data_dir}, less than SPOOL_MAX_BYTES; free some space, or lower it"
        )
        yield Finding("disk", "warning", message)
    else:
        yield Finding("disk", "ok", f"{free >> 20} MiB are free in {config.data_dir}")
    yield _spool(config.data_dir / "spool.sqlite3", config.spool_max_bytes)


def _spool(path: Path, max_bytes: int) -> Finding:
    try:
        with closing(Spool(path, max_bytes)) as spool:
            depth = spool.depth()
    except SpoolFailed as error:
        return Finding("spool", "failure", f"{error}. Move its file away and keep it: it may contain callbacks")
    if depth:
        message = f"contains {depth} callbacks; it drains while a web process runs on this machine"
        return Finding("spool", "warning", message)
    return Finding("spool", "ok", "empty")


def check_public_url(
    config: Config, *, if_absent: Level = "failure", if_other_key: Level = "failure"
) -> Iterator[Finding]:
    """Whether a `result_url` answers requests from this machine as the provider needs it. Stores nothing.

    `if_absent`: the level of a finding if nothing or another service answers there. `if_other_key`: if a receiver does
    not know our token. Both are less than a failure only before a deploy (receiver.deploy_check).
    """
    tokens = ResultTokens(config.secret_keys)
    # A wrong PUBLIC_URL may belong to anybody, so these requests contain no token that could be used.
    url = result_url(config.public_url, tokens.sign_probe())
    forged = result_url(config.public_url, ResultTokens(["nobody's secret"]).sign_probe())
    for method, asked, wanted in (("GET", url, OK), ("HEAD", url, OK), ("POST", url, OK), ("POST", forged, NOT_FOUND)):
        began = time.monotonic()
        try:
            answer = ask(method, asked)
        except (OSError, HTTPException) as error:
            reason = str(error) or type(error).__name__
            message = f"{config.public_url} cannot be reached from here ({reason}): start the web processes, or check"
            message += " the address, its DNS, its certificate and the proxy in front"
            yield Finding("PUBLIC_URL", if_absent, message)
            return
        seconds, status = time.monotonic() - began, answer.status
        if answer.is_ours(FORBIDDEN) and config.result_sources:
            message = (
                f"{config.public_url} answers 403 from here, as expected if this machine is not in RESULT_SOURCES;"
            )
            message += " run this on a machine that is, to check that the provider would be answered"
            yield Finding("PUBLIC_URL", "warning", message)
            return
        if not (answer.is_ours(wanted) or (method == "HEAD" and status == 200)):
            what = "a forged token" if asked == forged else "a valid token"
            message = f"{config.public_url} answers {method} with {what} by {status}, but {wanted.status} is expected"
            level, why = if_absent, ": see the logs of the web processes and of the proxy in front of them"
            if 300 <= status < 400:
                target = urlsplit(answer.location).netloc or "another address"
                level, why = "failure", f": a redirect to {target}; set PUBLIC_URL to its target"
            elif answer.is_ours(NOT_FOUND):
                why = ": a receiver with another SECRET_KEY answers there; to change the key, see docs/upgrades.md"
                level = if_other_key
            elif status in (401, 403):
                why = ": the proxy in front requires a login or blocks this address; allow /results/ for everybody"
                level = "failure" if status == 401 else if_absent
            elif status in (200, 404):
                why = ": another service or the proxy in front answers instead of this service"
            yield Finding("PUBLIC_URL", level, message + why)
            return
        if seconds > SLOW_SECONDS:
            message = f"{method} took {seconds:.1f} s; the provider may not wait that long"
            yield Finding("PUBLIC_URL", "warning", message)
    yield Finding("PUBLIC_URL", "ok", f"{config.public_url} answers as a result_url must")


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer from PUBLIC_URL. `location`: the target of a redirect. `body`: only its beginning."""

    status: int
    location: str
    body: bytes

    def is_ours(self, wanted: callback_rules.Answer) -> bool:
        """Whether a receiver gave this answer. Other services do not have its body."""
        return self.status == int(wanted.status[:3]) and self.body == wanted.body


def ask(method: str, url: str) -> Answer:
    """Send a request. Verifies certificates, and does not follow redirects. Raises OSError, HTTPException."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    with closing(kind(parts.hostname or "", parts.port, timeout=ASK_SECONDS)) as conn:
        conn.request(method, parts.path, headers={"Connection": "close", "User-Agent": "result-url-receiver doctor"})
        answer: HTTPResponse = conn.getresponse()
        return Answer(answer.status, answer.getheader("Location") or "", answer.read(_BODY_READ))


_MEANINGS: dict[int, tuple[Level, str]] = {
    401: ("failure", "refuses PLUM_USER and PLUM_KEY, or the account is not active"),
    403: ("ok", "accepts our login"),
    404: ("ok", "accepts our login"),
    400: ("ok", "accepts our login"),
}


def check_provider(config: Config) -> Iterator[Finding]:
    """Request a call that does not exist. The answer shows whether the credentials are right, and nobody is called."""
    if config.plum_user is None or config.plum_key is None:
        message = "PLUM_USER and PLUM_KEY are not set: `serve` starts a simulator, `work` refuses to start"
        yield Finding("provider", "warning", message)
        return
    provider = Provider(config.plum_url, config.plum_user, config.plum_key, read_timeout=ASK_SECONDS)
    try:
        got = get(provider, "/api/outbound/0")
    except NoAnswer as error:
        message = f"{config.plum_url} cannot be reached: {error}. Check PLUM_URL and the outgoing network"
        yield Finding("provider", "failure", message)
        return
    level, meaning = _MEANINGS.get(got.status, ("warning", "gives an unexpected answer; check PLUM_URL"))
    said = " for a made-up call, as expected" if level == "ok" else f": {read_error(provider, got)}"
    yield Finding("provider", level, f"{config.plum_url} {meaning} ({got.status}{said})")
