"""Accept a batch. The API, the dashboards and the command line use this."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import IO

from receiver.changes.audit import SYSTEM, record_change
from receiver.database.locks import own_recent, share_copies
from receiver.database.pool import Connection
from receiver.errors import InvalidInput, ReceiverError
from receiver.queueing.batches import (
    ExternalIdUsed,
    Preview,
    check_external_id,
    find_idempotent,
    get_now,
    insert_batch,
    insert_idempotent,
    preview_batch,
)
from receiver.queueing.contacts import ContactReader
from receiver.queueing.follow_ups import ChosenCalls, FollowUp, NothingToFollowUp
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.recent import FindRecent, RecentCalls
from receiver.queueing.submissions import FindSuppressed, Plan
from receiver.queueing.suppressions import find_suppressed

_BLOCK_BYTES = 128 << 10
"""Bytes that are read and hashed at a time."""


class IdempotencyKeyReused(ReceiverError):
    """The key was used before with another CSV or other parameters."""

    code = "idempotency_key_reused"

    def __init__(self, batch_id: int) -> None:
        super().__init__(
            "This Idempotency-Key was used before with another CSV or other parameters. Use a new key for a new batch.",
            batch_id=batch_id,
        )


@dataclass(frozen=True, slots=True)
class Limits:
    """What the deployment sets: rows of a submission, seconds of grace before a call is overdue, and whether the
    batches are for a simulator."""

    submission_rows: int
    result_grace_seconds: int
    simulated: bool | None = False

    @property
    def grace(self) -> timedelta:
        return timedelta(seconds=self.result_grace_seconds)


@dataclass(frozen=True, slots=True)
class IdempotentRequest:
    """A request that may be repeated: the API key, the idempotency key, and the digest of its content.

    `digest_as_sent`: the digest that earlier releases stored, if defaults are written out in the request.
    """

    key_id: int
    idempotency_key: str
    digest: bytes
    digest_as_sent: bytes | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    batch_id: int
    replayed: bool = False
    """The same request was accepted before, as this batch."""


def recent_calls(parameters: BatchParameters, limits: Limits, first_batch_id: int | None = None) -> RecentCalls:
    """Which calls count as recent for a batch, which belongs to the lineage of `first_batch_id`."""
    simulated = limits.simulated is not False  # None: the first worker decides
    return RecentCalls(parameters.recent_hours, simulated=simulated, first_batch_id=first_batch_id)


def preview(
    csv: IO[bytes],
    parameters: BatchParameters,
    limits: Limits,
    find_suppressed: FindSuppressed = lambda _: (),
    find_recent: FindRecent = lambda _: {},
) -> Preview:
    """What queueing this file would do. Stores nothing. Raises InvalidInput if the file is not a CSV of contacts."""
    return preview_batch(plan_file(csv, parameters, limits, find_suppressed, find_recent), limits.grace)


def plan_file(
    csv: IO[bytes], parameters: BatchParameters, limits: Limits, suppressed: FindSuppressed, recent: FindRecent
) -> Plan:
    """The plan for a file. Raises InvalidInput if it is not a CSV of contacts."""
    contacts = ContactReader(csv, parameters.default_region, parameters.destination_column)
    now = datetime.now(UTC).replace(microsecond=0)
    return Plan(contacts, parameters, limits.submission_rows, now, suppressed, recent)


def preview_follow_up(
    conn: Connection, wanted: FollowUp, parameters: BatchParameters, limits: Limits
) -> tuple[Preview, ChosenCalls]:
    """What queueing this follow-up would do, and which calls it chooses. Stores nothing. Raises NotFound and
    ExternalIdUsed."""
    check_external_id(conn, parameters)
    now = get_now(conn).replace(microsecond=0)
    contacts = ChosenCalls(conn, wanted)
    plan = _plan(conn, contacts, parameters, limits, now, find_recent=True)
    return preview_batch(plan, limits.grace), contacts


def _plan(
    conn: Connection,
    contacts: ContactReader | ChosenCalls,
    parameters: BatchParameters,
    limits: Limits,
    now: datetime,
    *,
    find_recent: bool,
) -> Plan:
    first_batch_id = contacts.first_batch_id if isinstance(contacts, ChosenCalls) else None
    recent: FindRecent = lambda _: {}  # noqa: E731
    if find_recent or parameters.on_recent != "allow":
        recent = partial(recent_calls(parameters, limits, first_batch_id).find, conn)
    if isinstance(contacts, ChosenCalls) and parameters.on_recent == "skip":
        contacts.leave_out_recent = recent
    return Plan(contacts, parameters, limits.submission_rows, now, partial(find_suppressed, conn), recent)


def accept(
    conn: Connection,
    source: IO[bytes] | FollowUp,
    parameters: BatchParameters,
    limits: Limits,
    request: IdempotentRequest | None = None,
    *,
    created_by: str | None = None,
) -> Accepted:
    """Store a batch for the worker to send; the caller commits, or on an error rolls back.

    `source`: a CSV, or which calls of an earlier batch are called again.
    `created_by`: the API key's name, or another actor of the audit trail.
    Raises InvalidInput (nothing is stored), IdempotencyKeyReused, ExternalIdUsed. Of a follow-up: NotFound,
    NothingToFollowUp.
    """
    if request is not None and (earlier := find_accepted(conn, request)) is not None:
        return earlier
    if parameters.on_recent != "allow":
        own_recent(conn)
    now = get_now(conn)
    contacts: ContactReader | ChosenCalls
    simulated = limits.simulated
    if isinstance(source, FollowUp):
        share_copies(conn)
        conn.execute("savepoint begun")
        contacts = ChosenCalls(conn, source)
        simulated = contacts.simulated  # what a simulator made up is never followed up by a real call
    else:
        contacts = ContactReader(source, parameters.default_region, parameters.destination_column)
    plan = _plan(conn, contacts, parameters, limits, now, find_recent=False)
    try:
        batch_id = insert_batch(conn, plan, limits.grace, simulated=simulated, created_by=created_by)
    except ExternalIdUsed:
        # Perhaps by the same request, which was sent twice at the same time.
        conn.rollback()
        if request is not None and (earlier := find_accepted(conn, request)) is not None:
            return earlier
        raise
    except InvalidInput:
        if isinstance(contacts, ChosenCalls) and not contacts.chosen:
            raise NothingToFollowUp(contacts.left_out) from None
        raise
    is_first = not isinstance(contacts, ChosenCalls) or contacts.link(batch_id)
    if is_first and request is not None:
        is_first = insert_idempotent(conn, request.key_id, request.idempotency_key, request.digest, batch_id)
    if not is_first:
        # At the same time, some of these calls were followed up, their batch was purged, or the same request was sent a
        # second time. A follow-up keeps its lock: an erasure must not come between reading parameters and storing them.
        if isinstance(source, FollowUp):
            conn.execute("rollback to begun")
        else:
            conn.rollback()
        return accept(conn, source, parameters, limits, request, created_by=created_by)
    record_change(conn, created_by or SYSTEM, "queue", batch_id=batch_id)
    return Accepted(batch_id)


def request_digest(csv: IO[bytes], form: Mapping[str, str]) -> bytes:
    """SHA-256 of the file and the fields. The order of the fields does not matter."""
    digest = hashlib.sha256()
    csv.seek(0)
    while block := csv.read(_BLOCK_BYTES):
        digest.update(block)
    for name, text in sorted(form.items()):
        for part in (name.encode(), text.encode()):
            digest.update(len(part).to_bytes(8, "big") + part)
    return digest.digest()


def find_accepted(conn: Connection, request: IdempotentRequest) -> Accepted | None:
    """The batch of the same request before. None: its key is new. Raises IdempotencyKeyReused."""
    earlier = find_idempotent(conn, request.key_id, request.idempotency_key)
    if earlier is None:
        return None
    batch_id, digest = earlier
    if digest not in (request.digest, request.digest_as_sent):
        raise IdempotencyKeyReused(batch_id)
    return Accepted(batch_id, replayed=True)
