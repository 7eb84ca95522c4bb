"""The faults, and how often they occur. They are drawn from the seed. Every draw is made, even for a rate of 0, so
that a higher rate does not change other faults of a call."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from receiver.simulator.calls import pick

UNDOCUMENTED_STATUSES = ("voicemail", "expired", "do_not_call")
WRONG_CONTENT_TYPES = (
    "text/plain",
    "text/html; charset=utf-8",
    "application/x-www-form-urlencoded",
    "application/octet-stream",
    "",  # no header at all
)
INCONSISTENCIES = ("start_Timestamp", "cancelled", "events_as_object", "events_missing")
"""The inconsistencies of real bodies, as `bodies.with_inconsistency` writes them."""


def rate(meaning: str) -> float:
    """A field of `Rates`, 0 by default; `meaning` is its `--help`."""
    return field(default=0.0, metadata={"help": meaning})


@dataclass(frozen=True, slots=True)
class Rates:
    """How often each fault occurs, each from 0 (never) to 1 (always)."""

    drop: float = rate("a result is never delivered")
    duplicate: float = rate("a result is delivered a second time, the same bytes")
    delay: float = rate("a result comes 1 to 120 simulated minutes late")
    reorder: float = rate("a result is delivered after later ones, and before its own --step")
    wrong_content_type: float = rate("JSON is sent as text, as a form, or without a content type")
    unknown_status: float = rate("the final status is undocumented")
    extra_fields: float = rate("undocumented fields are added, also nested ones")
    inconsistent: float = rate("a field name, the events or a spelling deviates, as in documented bodies")
    malformed: float = rate("the body is truncated in the middle")
    step: float = rate("a status that is not final is posted before the result")
    slow_sender: float = rate("the body is sent slowly, over two real seconds")
    error_after_acceptance: float = rate("bulk_queue answers 500 but dials")
    timeout_after_acceptance: float = rate("bulk_queue dials and never answers")


@dataclass(frozen=True, slots=True)
class CallFaults:
    """The faults of one call's callback: the names of those that `occur`, and what they do. Delays are simulated
    seconds.

    `keep` is the part of the body that is sent, None for the whole body. A `content_type` of None: the correct one.
    """

    occur: frozenset[str]
    shape: str
    duplicate_after: int
    delay: int
    content_type: str | None
    status: str | None
    inconsistency: str | None
    keep: float | None

    @property
    def names(self) -> str | None:
        """As the ledger shows them, joined by `+`; None without a fault."""
        return "+".join(each.name for each in fields(Rates) if each.name in self.occur) or None


def draw_call_faults(draws: random.Random, rates: Rates, shapes: Mapping[str, float]) -> CallFaults:
    """The faults of one call. `shapes` are weights of `bodies.SHAPES`."""
    occurs = {each.name: draws.random() < getattr(rates, each.name) for each in fields(Rates)}
    shape = pick(draws, shapes)
    late, overtaken, again = draws.randint(60, 7200), draws.randint(30, 600), draws.randint(1, 300)
    content_type = draws.choice(WRONG_CONTENT_TYPES)
    status = draws.choice(UNDOCUMENTED_STATUSES)
    inconsistency = draws.choice(INCONSISTENCIES)
    keep = draws.uniform(0.1, 0.9)
    # A form that is cut off can still be read; JSON and XML cannot.
    if occurs["malformed"] and shape not in ("bare", "wrapped", "xml"):
        shape = "bare"
    occurs["wrong_content_type"] &= shape in ("bare", "wrapped")
    faults_of_answers = {"error_after_acceptance", "timeout_after_acceptance"}
    return CallFaults(
        occur=frozenset(name for name, hit in occurs.items() if hit) - faults_of_answers,
        shape=shape,
        duplicate_after=again,
        delay=(late if occurs["delay"] else 0) + (overtaken if occurs["reorder"] else 0),
        content_type=content_type if occurs["wrong_content_type"] else None,
        status=status if occurs["unknown_status"] else None,
        inconsistency=inconsistency if occurs["inconsistent"] else None,
        keep=keep if occurs["malformed"] else None,
    )


def draw_answer_fault(draws: random.Random, rates: Rates) -> str | None:
    """The fault of the answer to one accepted request: `timeout`, `error` or None."""
    timeout, error = draws.random(), draws.random()
    if timeout < rates.timeout_after_acceptance:
        return "timeout"
    return "error" if error < rates.error_after_acceptance else None
