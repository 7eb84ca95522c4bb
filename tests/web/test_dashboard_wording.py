"""Sentences with numbers: every singular and plural, and no zeros."""

from __future__ import annotations

import pytest

from receiver.model import OUTCOMES
from receiver.results.reading.unreadable import REASONS as UNREADABLE_REASONS
from receiver.web.dashboard import wording
from tests.web.test_dashboard_charts import counts_of


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"skipped": 5, "completed": 932, "pending": 63}, "1,000 rows: 5 skipped, 995 calls, 932 ended, 63 pending."),
        ({"pending": 1}, "1 row: 1 call, none ended yet, 1 pending."),
        ({"completed": 1}, "1 row: 1 call, 1 ended."),
        ({"refused": 4}, "4 rows: 4 calls, 4 refused."),
        ({"refused": 4, "pending": 2}, "6 rows: 6 calls, 4 refused, none ended yet, 2 pending."),
        ({"withdrawn": 4}, "4 rows: 4 calls, 4 withdrawn."),
        (
            {"refused": 1, "withdrawn": 2, "pending": 1},
            "4 rows: 4 calls, 1 refused, 2 withdrawn, none ended yet, 1 pending.",
        ),
        ({"skipped": 1}, "1 row: 1 skipped, 0 calls."),
        ({"overdue": 2, "failed": 1}, "3 rows: 3 calls, 1 ended, 2 overdue."),
        ({}, "0 rows: 0 calls."),
        ({"completed": 1_000_000}, "1,000,000 rows: 1,000,000 calls, 1,000,000 ended."),
    ],
)
def test_balance_sentence(given: dict[str, int], sentence: str) -> None:
    assert wording.balance_sentence(counts_of(**given)) == sentence


def test_hours_sentence_names_the_days() -> None:
    for days, words in ((None, "every day"), ("mon,tue,wed,thu,fri,sat,sun", "every day"), ("mon", "Mon")):
        assert wording.hours_sentence("09:00-20:00", days) == f"09:00-20:00, {words}"
    assert wording.hours_sentence("09:00-20:00", "mon,tue") == "09:00-20:00, Mon, Tue"


def test_outcomes_sentence_leaves_out_zeros() -> None:
    assert wording.outcomes_sentence(counts_of(completed=1200, other=1)) == "1,201 ended: 1,200 completed, 1 other."
    assert wording.outcomes_sentence(counts_of()) == "No call has ended yet."
    assert wording.outcomes_sentence(counts_of(**dict.fromkeys(OUTCOMES, 1))).count(",") == len(OUTCOMES) - 1


@pytest.mark.parametrize(
    ("attempts", "final", "sentence"),
    [
        (0, 0, "No call has ended yet."),
        (1, 1, "1 attempt for 1 ended call."),
        (3, 1, "3 attempts for 1 ended call."),
        (1400, 932, "1,400 attempts for 932 ended calls, 1.5 per call on average."),
        (2, 2, "2 attempts for 2 ended calls, 1.0 per call on average."),
    ],
)
def test_attempts_sentence_has_the_mean(attempts: int, final: int, sentence: str) -> None:
    assert wording.attempts_sentence(attempts, final) == sentence


@pytest.mark.parametrize(
    ("seconds", "completed", "sentence"),
    [
        (0, 5, "No talk time was reported."),
        (60, 1, "1 min of talk time in 1 completed call."),
        (43_440, 800, "12 h 4 min of talk time in 800 completed calls, 54 s each on average."),
        (30, 0, "30 s of talk time."),
    ],
)
def test_talk_sentence_has_the_mean(seconds: int, completed: int, sentence: str) -> None:
    assert wording.talk_sentence(seconds, completed) == sentence


def test_callbacks_sentence_counts_by_state() -> None:
    counted = {
        "received": 6,
        "waiting": 0,
        "applied": 1,
        "duplicate": 1,
        "conflict": 1,
        "unmatched": 2,
        "unreadable": 1,
    }
    assert (
        wording.callbacks_sentence(counted)
        == "6 callbacks: 1 applied, 1 duplicate, 1 conflict, 2 unmatched, 1 unreadable."
    )
    several = dict.fromkeys(counted, 0) | {"received": 5, "applied": 2, "duplicate": 2, "waiting": 1}
    assert wording.callbacks_sentence(several) == "5 callbacks: 2 applied, 2 duplicates, 1 waiting."
    assert wording.callbacks_sentence(dict.fromkeys(counted, 0)) == "No callback has been received yet."


def test_submissions_sentence_counts_by_state() -> None:
    assert wording.submissions_sentence({"accepted": 1}) == "1 submission: 1 accepted."
    assert (
        wording.submissions_sentence({"refused": 1, "unknown": 1200}) == "1,201 submissions: 1 refused, 1,200 unknown."
    )


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (0.4, "0 s"), (59.6, "1 min"), (60, "1 min"), (79, "1 min 19 s"), (3600, "1 h"), (7500, "2 h 5 min"),
     (3605, "1 h"), (86_399, "23 h 59 min"), (273_600, "3 d 4 h"), (100_000_000, "1,157 d 9 h"), (-5, "0 s")],
)  # fmt: skip
def test_duration_has_its_two_largest_units(seconds: float, words: str) -> None:
    assert wording.duration(seconds) == words


@pytest.mark.parametrize(
    ("part", "whole", "words"),
    [(0, 10, "0%"), (10, 10, "100%"), (1, 1000, "under 1%"), (999, 1000, "over 99%"), (99, 100, "99%"), (5, 0, "–")],  # noqa: RUF001
)
def test_share_is_0_or_100_percent_only_if_exact(part: int, whole: int, words: str) -> None:
    assert wording.percent(part, whole) == words


@pytest.mark.parametrize("code", sorted(UNREADABLE_REASONS))
def test_every_reason_of_the_reader_has_its_sentence(code: str) -> None:
    assert wording.reason_sentence(code) == UNREADABLE_REASONS[code]


def test_unknown_reason_is_shown_unchanged() -> None:
    assert wording.reason_sentence("moon_phase") == "moon phase"
    assert wording.reason_sentence(None) == ""


@pytest.mark.parametrize(
    ("status", "advice"),
    [(400, "Correct the problem"), (401, "PLUM_KEY"), (403, "PLUM_USER"), (404, "Check both numbers"),
     (409, "Check both numbers"), (None, "never reached the provider")],
)  # fmt: skip
def test_refusal_has_advice(status: int | None, advice: str) -> None:
    assert advice in wording.refusal_advice(status)
