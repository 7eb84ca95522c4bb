from __future__ import annotations

from receiver.simulator.calls import Attempt, Call, Plan, draw_plan, seeded
from receiver.simulator.timeline import Timeline

ANSWERED = Plan("completed", (Attempt(10, 30),))
UNANSWERED = Plan("failed", (Attempt(10, None), Attempt(10, None)))
SECOND_TRY = Plan("completed", (Attempt(10, None), Attempt(5, 20)))
CANCELED = Plan("canceled", ())


def calls(count: int) -> list[Call]:
    return [Call(row, f"61755500{row:02d}") for row in range(1, count + 1)]


def ends(timeline: Timeline, until: float = 1e9) -> list[tuple[int, str | None, int | None]]:
    return [(call.row, call.outcome, call.ended) for call in timeline.advance(until)]


def test_answered_call_is_dialed_connected_and_disconnected() -> None:
    (call,) = queued = calls(1)
    assert ends(Timeline(queued, lambda _: ANSWERED, lines=1)) == [(1, "completed", 41)]
    assert (call.dialed, call.connected, call.duration) == ((1,), 11, 30)


def test_unanswered_call_waits_before_each_further_attempt() -> None:
    (call,) = queued = calls(1)
    assert ends(Timeline(queued, lambda _: UNANSWERED, lines=1, reattempt_wait=60)) == [(1, "failed", 81)]
    assert call.dialed == (1, 71)


def test_time_passes_only_until_the_given_offset() -> None:
    (call,) = queued = calls(1)
    timeline = Timeline(queued, lambda _: SECOND_TRY, lines=1, reattempt_wait=60)
    seen = []
    for until, status in ((0, "queued"), (1, "dialing"), (11, "queued"), (71, "dialing"), (76, "connected")):
        assert ends(timeline, until) == []
        seen.append((call.status, status))
    assert all(was == wanted for was, wanted in seen), seen
    assert timeline.next_at() == 96
    assert ends(timeline, 96) == [(1, "completed", 96)]
    assert timeline.next_at() is None


def test_no_more_calls_at_the_same_time_than_lines() -> None:
    queued = calls(5)
    assert ends(Timeline(queued, lambda _: ANSWERED, lines=2)) == [
        (1, "completed", 41),
        (2, "completed", 41),
        (3, "completed", 81),
        (4, "completed", 81),
        (5, "completed", 121),
    ]


def test_retry_that_is_due_comes_before_a_first_attempt() -> None:
    queued = calls(9)
    of_row = {1: SECOND_TRY}
    order = ends(Timeline(queued, lambda call: of_row.get(call.row, ANSWERED), lines=1, reattempt_wait=60))
    # It is due at 71 while the line is busy until 91. Then it is dialed before row 4.
    assert [row for row, _, _ in order] == [2, 3, 1, 4, 5, 6, 7, 8, 9]
    assert queued[0].dialed == (1, 91)


def test_nothing_is_dialed_before_the_window_opens() -> None:
    queued = calls(1)
    timeline = Timeline(queued, lambda _: ANSWERED, lines=1, opens=3600)
    assert timeline.next_at() == 3600
    assert ends(timeline) == [(1, "completed", 3640)]


def test_end_of_the_window_cancels_calls_that_were_never_dialed_and_fails_the_rest() -> None:
    queued = calls(3)
    of_row = {1: UNANSWERED, 2: ANSWERED, 3: ANSWERED}
    timeline = Timeline(queued, lambda call: of_row[call.row], lines=1, closes=30, reattempt_wait=60)
    # Row 2 is being dialed at the end of the window, and its attempt continues.
    assert ends(timeline) == [(3, "canceled", 30), (1, "failed", 30), (2, "completed", 51)]


def test_window_that_is_over_cancels_every_call_at_once() -> None:
    assert ends(Timeline(calls(2), lambda _: ANSWERED, lines=9, closes=0)) == [
        (1, "canceled", 0),
        (2, "canceled", 0),
    ]


def test_cancel_ends_waiting_calls_but_no_connected_call() -> None:
    queued = calls(3)
    of_row = {1: ANSWERED, 2: UNANSWERED, 3: ANSWERED}
    timeline = Timeline(queued, lambda call: of_row[call.row], lines=2, reattempt_wait=60)
    assert ends(timeline, 10) == []
    timeline.cancel(10.9)
    assert ends(timeline) == [(3, "canceled", 10), (2, "canceled", 11), (1, "completed", 41)]


def test_planned_cancellation_replaces_an_attempt() -> None:
    (call,) = queued = calls(1)
    assert ends(Timeline(queued, lambda _: CANCELED, lines=1)) == [(1, "canceled", 1)]
    assert call.dialed == ()


def test_size_of_the_steps_changes_nothing() -> None:
    def ended(step: float) -> list[tuple[int, str | None, int | None]]:
        timeline = Timeline(
            calls(60),
            lambda call: draw_plan(seeded(5, call.row), {"completed": 2, "failed": 1, "canceled": 1}, 3),
            lines=7,
            reattempt_wait=60,
        )
        found, until = [], 0.0
        while timeline.next_at() is not None:
            found += ends(timeline, until)
            until += step
        return found

    assert ended(1e9) == ended(0.7) == ended(13)
    assert len(ended(13)) == 60
