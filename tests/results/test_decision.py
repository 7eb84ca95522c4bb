from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import permutations
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.model import Outcome
from receiver.results.decision import OTHER_RESULT_WINS, SAME_RESULT, STEP_SUPERSEDED, Candidate, decide
from receiver.results.reading.call_details import CallDetails
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
    last_event: int | datetime | None = 60,
    attempts: int | None = 1,
    duration_seconds: int | None = None,
) -> Candidate:
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
        last_event_at=NOON + timedelta(seconds=last_event) if isinstance(last_event, int) else last_event,
        duration_seconds=duration_seconds,
        events=(),
    )
    received_at = NOON + timedelta(seconds=callback_id if received is None else received)
    return Candidate(callback_id, received_at, False, details)


def test_single_callback_wins_with_any_status() -> None:
    for only in (reading(1), reading(1, "dialing"), reading(1, "unheard of", last_event=None, attempts=None)):
        verdict = decide([only])
        assert (verdict.winner, verdict.not_applied) == (only, {})


def test_same_result_again_is_a_duplicate_of_the_earliest_received() -> None:
    verdict = decide([reading(1, received=30), reading(2, received=10), reading(3, received=20)])
    assert verdict.winner.callback_id == 2
    assert verdict.not_applied == {1: ("duplicate", SAME_RESULT), 3: ("duplicate", SAME_RESULT)}


def test_same_time_of_receipt_is_decided_by_the_id() -> None:
    verdict = decide([reading(2, received=5), reading(1, received=5)])
    assert (verdict.winner.callback_id, verdict.not_applied) == (1, {2: ("duplicate", SAME_RESULT)})


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
def test_any_difference_in_the_result_makes_another_result(other: Candidate) -> None:
    assert decide([reading(1), other]).not_applied == {2: ("conflict", OTHER_RESULT_WINS)}


def test_spelling_of_a_status_does_not_make_another_result() -> None:
    assert decide([reading(1, "canceled"), reading(2, "Cancelled")]).not_applied == {2: ("duplicate", SAME_RESULT)}


def test_conflicting_result_with_the_later_event_wins() -> None:
    for first, second in ((1, 2), (2, 1)):
        verdict = decide([reading(first, "failed", last_event=90), reading(second, "completed", last_event=60)])
        assert verdict.winner.callback_id == first
        assert verdict.not_applied == {second: ("conflict", OTHER_RESULT_WINS)}


def test_at_a_tie_the_result_received_first_wins() -> None:
    for first, second in ((1, 2), (2, 1)):
        verdict = decide([reading(first, "failed", received=5), reading(second, "completed", received=6)])
        assert verdict.winner.callback_id == first
        assert verdict.not_applied == {second: ("conflict", OTHER_RESULT_WINS)}


IMPOSSIBLE_TIMES = {
    "seconds since 1900": NOON + timedelta(days=365.25 * 70),
    "a day after the receipt, and a second": NOON + timedelta(days=1, seconds=2),
    "before 2000": datetime(1999, 12, 31, 12, 0, 0, tzinfo=UTC),
}
impossible_times = pytest.mark.parametrize("last_event", IMPOSSIBLE_TIMES.values(), ids=IMPOSSIBLE_TIMES)


def test_missing_time_does_not_decide() -> None:
    for first, second in ((0, 1), (1, 0)):
        found = [reading(1, received=first), reading(2, "failed", received=second, last_event=None)]
        assert decide(found).winner == found[first]


@impossible_times
def test_result_with_an_impossible_time_never_wins_against_one_with_a_possible_time(last_event: datetime) -> None:
    for first, second in ((0, 1), (1, 0)):
        possible = reading(1, received=first)
        assert decide([possible, reading(2, "failed", received=second, last_event=last_event)]).winner == possible


@impossible_times
def test_of_results_with_impossible_times_the_one_received_first_wins(last_event: datetime) -> None:
    later = last_event + timedelta(hours=1)
    assert decide([reading(1, last_event=last_event), reading(2, "failed", last_event=later)]).winner.callback_id == 1


@pytest.mark.parametrize("last_event", [None, *IMPOSSIBLE_TIMES.values()], ids=["missing", *IMPOSSIBLE_TIMES])
def test_documented_result_wins_over_an_undocumented_one_if_times_do_not_decide(last_event: datetime | None) -> None:
    for first, second in ((0, 1), (1, 0)):
        for times in ((60, last_event), (last_event, 60), (last_event, last_event)):
            documented = reading(1, "failed", received=first, last_event=times[0])
            undocumented = reading(2, "busy", received=second, last_event=times[1])
            assert decide([documented, undocumented]).winner == documented


def test_documented_result_wins_at_a_tie_and_an_undocumented_one_with_a_later_event_wins() -> None:
    assert decide([reading(1, "busy"), reading(2, "failed")]).winner.callback_id == 2
    assert decide([reading(1, "busy", last_event=61), reading(2, "failed")]).winner.callback_id == 1


def test_time_up_to_a_day_after_the_receipt_and_from_2000_decides() -> None:
    ahead = reading(2, received=5, last_event=NOON + timedelta(days=1, seconds=5))
    assert decide([reading(1, "failed"), ahead]).winner.callback_id == 2
    old = reading(2, last_event=datetime(2000, 1, 1, 0, 0, 1, tzinfo=UTC))
    assert decide([reading(1, "failed", last_event=datetime(2000, 1, 1, tzinfo=UTC)), old]).winner.callback_id == 2


def test_time_of_a_repeated_result_is_judged_by_its_first_receipt() -> None:
    """A later repetition does not make a time possible that was not."""
    ahead = NOON + timedelta(days=1, seconds=30)
    first, again = reading(1, last_event=ahead), reading(3, received=99_999, last_event=ahead)
    assert decide([first, again, reading(2, "failed", received=0)]).winner.callback_id == 2


def test_result_without_a_time_does_not_change_which_of_the_others_wins() -> None:
    latest, earlier = reading(3, "failed", last_event=90), reading(1, "completed", last_event=60)
    without = reading(2, "busy", received=0, last_event=None)
    assert decide([earlier, latest, without]).winner == latest


def test_duplicate_of_a_result_in_conflict_is_a_duplicate() -> None:
    verdict = decide([reading(1, "failed"), reading(2, last_event=90), reading(3, "failed"), reading(4, last_event=90)])
    assert verdict.winner.callback_id == 2
    assert verdict.not_applied == {
        1: ("conflict", OTHER_RESULT_WINS),
        3: ("duplicate", SAME_RESULT),
        4: ("duplicate", SAME_RESULT),
    }


@pytest.mark.parametrize("last_event", [1, 60, 99999])
def test_step_never_wins_against_a_final_result(last_event: int) -> None:
    verdict = decide([reading(1, "connected", last_event=last_event), reading(2), reading(3, "dialing", last_event=7)])
    assert verdict.winner.callback_id == 2
    assert verdict.not_applied == {1: ("duplicate", STEP_SUPERSEDED), 3: ("duplicate", STEP_SUPERSEDED)}


def test_of_steps_the_latest_wins_and_at_a_tie_the_one_received_last() -> None:
    assert decide([reading(1, "connected", last_event=9), reading(2, "queued", last_event=5)]).winner.callback_id == 1
    verdict = decide([reading(1, "queued"), reading(2, "dialing")])
    assert (verdict.winner.callback_id, verdict.not_applied) == (2, {1: ("duplicate", STEP_SUPERSEDED)})


_times = st.none() | st.integers(1, 3) | st.sampled_from(list(IMPOSSIBLE_TIMES.values()))
readings = st.lists(
    st.builds(
        reading,
        st.just(0),
        st.sampled_from([*OUTCOMES, *STEPS]),
        received=st.integers(0, 3),
        last_event=_times,
        attempts=st.none() | st.integers(1, 2),
    ),
    min_size=1,
    max_size=8,
).map(lambda found: [each._replace(callback_id=number) for number, each in enumerate(found, 1)])


@given(readings, st.randoms(use_true_random=False))
def test_order_of_callbacks_does_not_matter(found: list[Candidate], random: Random) -> None:
    shuffled = list(found)
    random.shuffle(shuffled)
    assert decide(shuffled) == decide(found)


def _wins(one: Candidate, other: Candidate) -> bool:
    """Whether `one` wins against `other`, by the rules of the contract."""
    times = [None if each.time_is_impossible else each.details.last_event_at for each in (one, other)]
    if times[0] is not None and times[1] is not None and times[0] != times[1]:
        return times[0] > times[1]
    if one.documented != other.documented:
        return one.documented
    if one.time_is_impossible != other.time_is_impossible:
        return other.time_is_impossible
    return (one.received_at, one.callback_id) < (other.received_at, other.callback_id)


@given(readings)
def test_every_callback_has_a_state_and_the_best_one_wins(found: list[Candidate]) -> None:
    verdict = decide(found)
    assert verdict.not_applied.keys() | {verdict.winner.callback_id} == {reading.callback_id for reading in found}
    assert verdict.winner.callback_id not in verdict.not_applied
    results = {reading.details.result_key for reading in found}
    duplicates = [callback_id for callback_id, (_, reason) in verdict.not_applied.items() if reason == SAME_RESULT]
    assert len(duplicates) == len(found) - len(results)
    different = [reading for reading in found if reading.callback_id not in duplicates]
    finals = [reading for reading in different if reading.outcome is not None]
    assert (verdict.winner in finals) == bool(finals)
    for each in finals:
        if all(each is other or _wins(each, other) for other in finals):
            assert verdict.winner == each
    if finals:  # the winner never loses against each of the others
        assert len(finals) == 1 or any(_wins(verdict.winner, other) for other in finals)


@given(readings)
def test_settling_one_by_one_in_any_order_has_the_same_result_as_together(found: list[Candidate]) -> None:
    """Settlement decides among new callbacks, the result and all that differ from it. Duplicates are not read again."""
    expected = decide(found)
    for order in permutations(found[:5]):
        known: list[Candidate] = []
        states: dict[int, tuple[str, str]] = {}
        for new in (*order, *found[5:]):
            verdict = decide([*known, new])
            states |= verdict.not_applied
            states.pop(verdict.winner.callback_id, None)
            known = [each for each in (*known, new) if states.get(each.callback_id, ("", ""))[1] != SAME_RESULT]
        assert (verdict.winner, states) == expected
