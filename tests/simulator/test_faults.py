from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest

from receiver.simulator.bodies import SHAPES
from receiver.simulator.faults import Rates, draw_answer_fault, draw_mishaps

BARE = {"bare": 1.0}
OF_CALLBACK = [each.name for each in fields(Rates) if not each.name.endswith("_after_acceptance")]


@pytest.mark.parametrize("name", OF_CALLBACK)
def test_rate_one_always_strikes_and_alone(name: str) -> None:
    for seed in range(50):
        assert draw_mishaps(random.Random(seed), Rates(**{name: 1.0}), BARE).names == name
        assert draw_mishaps(random.Random(seed), Rates(), BARE).names is None


def test_rate_is_how_often_it_strikes() -> None:
    struck = sum(draw_mishaps(random.Random(seed), Rates(drop=0.1), BARE).drop for seed in range(5000))
    assert struck == pytest.approx(500, abs=75)


def test_one_rate_changes_no_other_fault() -> None:
    half = Rates(drop=0.5, duplicate=0.5, step=0.5, malformed=0.5, unknown_status=0.5)
    for seed in range(200):
        few = draw_mishaps(random.Random(seed), half, BARE)
        more = draw_mishaps(random.Random(seed), replace(half, slow_sender=1.0), BARE)
        assert replace(more, slow_sender=False, names=few.names) == few


def test_malformed_body_is_of_a_shape_that_breaking_off_spoils() -> None:
    mixed = dict.fromkeys(SHAPES, 1.0)
    shapes = {draw_mishaps(random.Random(seed), Rates(malformed=1), mixed).shape for seed in range(200)}
    assert shapes == {"bare", "wrapped", "xml"}


def test_wrong_content_type_is_given_to_json_only() -> None:
    for seed in range(50):
        mishaps = draw_mishaps(random.Random(seed), Rates(wrong_content_type=1), {"form": 1.0})
        assert (mishaps.content_type, mishaps.names) == (None, None)


def test_answer_faults() -> None:
    def drawn(rates: Rates) -> set[str | None]:
        return {draw_answer_fault(random.Random(seed), rates) for seed in range(20)}

    assert drawn(Rates()) == {None}
    assert drawn(Rates(error_after_acceptance=1)) == {"error"}
    assert drawn(Rates(timeout_after_acceptance=1)) == {"timeout"}
