"""Values that several packages use. Frozen, without behaviour that does I/O.

A phone number is an `int` here and a `bigint` in the database: E.164 without its plus sign (at most
15 digits), which is half the size of the text and compares faster. `e164` writes it for people.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, get_args

Outcome = Literal["completed", "failed", "canceled", "rejected", "other"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
"""How a call can have ended. `other` stands for a final status that nobody documented."""

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


@dataclass(frozen=True, slots=True, order=True)
class SubmissionKey:
    """Names one submission: the batch, and the submission's number in it (from 1)."""

    batch_id: int
    submission_no: int


ERASED = "erased"
"""What is shown in place of a number, and of all else about a person, that was erased on request."""


def e164(phone_number: int) -> str:
    """`16175551234` as `+16175551234`; the stand-in of an erased number, which is negative, as `ERASED`."""
    return f"+{phone_number}" if phone_number > 0 else ERASED


def rfc3339(moment: datetime) -> str:
    """A time as every answer writes it: in UTC, in whole seconds if it has no fraction, else in microseconds."""
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


def masked(phone_number: int | str) -> str:
    """A number for a log line: everything but its last two digits replaced, its length kept."""
    text = str(phone_number)
    return "*" * max(len(text) - 2, 0) + text[-2:]
