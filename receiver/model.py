"""Values that several packages use. They are frozen and do no I/O.

A phone number is an `int` in Python and a `bigint` in the database: E.164 without its plus sign (at most 15 digits). It
needs half the space of the text, and is compared faster. `e164` formats it for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

Outcome = Literal["completed", "failed", "canceled", "rejected", "other"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""How a call can end. `other` means a final status that is not documented."""

CallbackState = Literal["waiting", "applied", "duplicate", "conflict", "unmatched", "unreadable"]
CALLBACK_STATES: tuple[CallbackState, ...] = get_args(CallbackState)

SubmissionState = Literal["pending", "sending", "accepted", "refused", "unknown", "withdrawn"]
SUBMISSION_STATES: tuple[SubmissionState, ...] = get_args(SubmissionState)

BatchState = Literal["queueing", "queued", "refused", "unknown", "canceled", "partial"]
BATCH_STATES: tuple[BatchState, ...] = get_args(BatchState)

BatchPhase = Literal["paused", "scheduled", "releasing", "calling", "overdue", "ended"]
BATCH_PHASES: tuple[BatchPhase, ...] = get_args(BatchPhase)
"""Where a batch is on its way: the first of these that applies (`receiver.summary.batches`)."""

CallState = Literal["pending", "overdue", "final", "refused", "withdrawn"]
CALL_STATES: tuple[CallState, ...] = get_args(CallState)

WITHDRAWN_REASONS = ("canceled", "suppressed", "answered")
"""Why a call is withdrawn."""

EventType = Literal[
    "call.result",
    "batch.ended",
    "batch.overdue",
    "batch.refused",
    "batch.canceled",
    "submission.unknown",
    "submission.refused",
    "callback.unreadable",
    "endpoint.disabled",
]
EVENT_TYPES: tuple[EventType, ...] = get_args(EventType)
"""What endpoints and people are told (`receiver.changes.events`)."""


@dataclass(frozen=True, slots=True, order=True)
class SubmissionKey:
    """Identifies a submission: the batch, and the number of the submission in it (from 1)."""

    batch_id: int
    submission_no: int


ERASED = "erased"
"""Replaces a number, and all other data of a person, after it was erased."""


def e164(phone_number: int) -> str:
    """`16175551234` as `+16175551234`. The placeholder of an erased number, which is negative, as `ERASED`."""
    return f"+{phone_number}" if phone_number > 0 else ERASED


def rfc3339(moment: datetime) -> str:
    """A time in the format of all answers: in UTC, in whole seconds if it has no fraction, else in microseconds."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def masked(phone_number: int | str) -> str:
    """A number for a log line: only its last two digits and its length stay."""
    text = str(phone_number)
    return "*" * max(len(text) - 2, 0) + text[-2:]
