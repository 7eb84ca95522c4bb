from __future__ import annotations

from datetime import UTC, datetime, timedelta
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.model import Outcome
from receiver.results.call_details import CallDetails
from receiver.results.standing import OTHER_RESULT_STANDS, SAME_RESULT, STEP_SUPERSEDED, Reading, decide
from tests.factories import NOON

STEPS = ("queued", "dialing", "connected")
OUTCOMES: dict[str, Outcome] = {
    "completed": "completed",
    "failed": "failed",
    "canceled": "canceled",
    "Cancelled": "canceled",
    "busy": "other",
}


def reading(
    callback_id: int,
    status: str = "completed",
    *,
    received: int | None = None,
    last_event: int | None = 60,
    attempts: int | None = 1,
    duration_seconds: int | None = None,
) -> Reading:
    """`received` (by default the id) and `last_event`: seconds past noon."""
    details = CallDetails(
        phone_number="6175551234",
        provider_status=status,
        outcome=OUTCOMES.get(status),
        attempts=attempts,
        max_attempts=3,
        queued_at=None,
        started_at=None,
        ended_at=None,
        last_event_at=None if last_event is None else NOON + timedelta(seconds=last_event),
        duration_seconds=duration_seconds,
        events=(),
    )
    return Reading(callback_id, NOON + timedelta(seconds=callback_id if received is None else received), details)


def test_single_reading_stands_whatever_it_says() -> None:
    for only in (reading(1), reading(1, "dialing"), reading(1, "unheard of", last_event=None, attempts=None)):
        verdict = decide([only])
        assert (verdict.stands, verdict.set_aside) == (only, {})


def test_same_result_again_is_a_duplicate_of_the_earliest_received() -> None:
    verdict = decide([reading(1, received=30), reading(2, received=10), reading(3, received=20)])
    assert verdict.stands.callback_id == 2
    assert verdict.set_aside == {1: ("duplicate", SAME_RESULT), 3: ("duplicate", SAME_RESULT)}


def test_same_moment_of_receipt_is_decided_by_the_id() -> None:
    verdict = decide([reading(2, received=5), reading(1, received=5)])
    assert (verdict.stands.callback_id, verdict.set_aside) == (1, {2: ("duplicate", SAME_RESULT)})


@pytest.mark.parametrize(
    "other",
    [
        reading(2, "failed"),
        reading(2, attempts=2),
        reading(2, attempts=None),
        reading(2, duration_seconds=9),
        reading(2, last_event=59),
    ],
    ids=["status", "attempts", "attempts missing", "duration", "last event"],
)
def test_any_difference_in_what_counts_makes_another_result(other: Reading) -> None:
    assert decide([reading(1), other]).set_aside == {2: ("conflict", OTHER_RESULT_STANDS)}


def test_spelling_of_a_status_makes_no_other_result() -> None:
    assert decide([reading(1, "canceled"), reading(2, "Cancelled")]).set_aside == {2: ("duplicate", SAME_RESULT)}


def test_conflicting_result_with_the_later_event_stands() -> None:
    for first, second in ((1, 2), (2, 1)):
        verdict = decide([reading(first, "failed", last_event=90), reading(second, "completed", last_event=60)])
        assert verdict.stands.callback_id == first
        assert verdict.set_aside == {second: ("conflict", OTHER_RESULT_STANDS)}


def test_at_a_tie_the_earlier_received_stands() -> None:
    for first, second in ((1, 2), (2, 1)):
        verdict = decide([reading(first, "failed", received=5), reading(second, "completed", received=6)])
        assert verdict.stands.callback_id == first
        assert verdict.set_aside == {second: ("conflict", OTHER_RESULT_STANDS)}


def test_result_without_any_event_yields_to_one_with() -> None:
    assert decide([reading(1, "failed", last_event=None), reading(2, "completed")]).stands.callback_id == 2


def test_duplicate_of_a_result_in_conflict_is_a_duplicate() -> None:
    verdict = decide([reading(1, "failed"), reading(2, last_event=90), reading(3, "failed"), reading(4, last_event=90)])
    assert verdict.stands.callback_id == 2
    assert verdict.set_aside == {
        1: ("conflict", OTHER_RESULT_STANDS),
        3: ("duplicate", SAME_RESULT),
        4: ("duplicate", SAME_RESULT),
    }


@pytest.mark.parametrize("last_event", [1, 60, 99999])
def test_step_never_stands_beside_a_final_result(last_event: int) -> None:
    verdict = decide([reading(1, "connected", last_event=last_event), reading(2), reading(3, "dialing", last_event=7)])
    assert verdict.stands.callback_id == 2
    assert verdict.set_aside == {1: ("duplicate", STEP_SUPERSEDED), 3: ("duplicate", STEP_SUPERSEDED)}


def test_of_steps_the_latest_stands_and_at_a_tie_the_later_received() -> None:
    assert decide([reading(1, "connected", last_event=9), reading(2, "queued", last_event=5)]).stands.callback_id == 1
    verdict = decide([reading(1, "queued"), reading(2, "dialing")])
    assert (verdict.stands.callback_id, verdict.set_aside) == (2, {1: ("duplicate", STEP_SUPERSEDED)})


readings = st.lists(
    st.builds(
        reading,
        st.just(0),
        st.sampled_from([*OUTCOMES, *STEPS]),
        received=st.integers(0, 3),
        last_event=st.none() | st.integers(1, 3),
        attempts=st.none() | st.integers(1, 2),
    ),
    min_size=1,
    max_size=8,
).map(lambda found: [Reading(number, r.received_at, r.details) for number, r in enumerate(found, 1)])


@given(readings, st.randoms(use_true_random=False))
def test_order_in_which_readings_come_does_not_matter(found: list[Reading], random: Random) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert decide(shuffled) == decide(found)


@given(readings)
def test_every_reading_is_accounted_for_and_the_best_stands(found: list[Reading]) -> None:
    verdict = decide(found)
    assert verdict.set_aside.keys() | {verdict.stands.callback_id} == {reading.callback_id for reading in found}
    assert verdict.stands.callback_id not in verdict.set_aside
    finals = [reading for reading in found if reading.details.outcome is not None]
    assert (verdict.stands in finals) == bool(finals)
    latest = max(r.details.last_event_at or datetime.min.replace(tzinfo=UTC) for r in finals or found)
    assert (verdict.stands.details.last_event_at or datetime.min.replace(tzinfo=UTC)) == latest
    results = {reading.details.result_key for reading in found}
    duplicates = [callback_id for callback_id, (_, reason) in verdict.set_aside.items() if reason == SAME_RESULT]
    assert len(duplicates) == len(found) - len(results)


@given(readings, st.data())
def test_deciding_in_portions_comes_to_the_same_as_at_once(found: list[Reading], data: st.DataObject) -> None:
    """Settlement decides what is new among all that was settled before."""
    cut = data.draw(st.integers(1, len(found)))
    first = decide(found[:cut])
    assert decide([*found[cut:], first.stands, *(r for r in found[:cut] if r != first.stands)]) == decide(found)
