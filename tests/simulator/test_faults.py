from __future__ import annotations

import random
from dataclasses import fields, replace

import pytest

from receiver.simulator.bodies import SHAPES
from receiver.simulator.faults import Rates, draw_answer_fault, draw_call_faults

BARE = {"bare": 1.0}
OF_CALLBACK = [each.name for each in fields(Rates) if not each.name.endswith("_after_acceptance")]


@pytest.mark.parametrize("name", OF_CALLBACK)
def test_fault_with_rate_one_always_occurs_and_no_other_does(name: str) -> None:
    for seed in range(50):
        assert draw_call_faults(random.Random(seed), Rates(**{name: 1.0}), BARE).names == name
        assert draw_call_faults(random.Random(seed), Rates(), BARE).names is None


def test_rate_is_how_often_a_fault_occurs() -> None:
    drawn = [draw_call_faults(random.Random(seed), Rates(drop=0.1), BARE) for seed in range(5000)]
    dropped = sum("drop" in each.occur for each in drawn)
    assert dropped == pytest.approx(500, abs=75)


def test_rate_of_one_fault_changes_no_other_fault() -> None:
    half = Rates(drop=0.5, duplicate=0.5, step=0.5, malformed=0.5, unknown_status=0.5)
    for seed in range(200):
        few = draw_call_faults(random.Random(seed), half, BARE)
        more = draw_call_faults(random.Random(seed), replace(half, slow_sender=1.0), BARE)
        assert replace(more, occur=more.occur - {"slow_sender"}) == few


def test_malformed_body_has_a_shape_that_cannot_be_read_when_cut_off() -> None:
    mixed = dict.fromkeys(SHAPES, 1.0)
    shapes = {draw_call_faults(random.Random(seed), Rates(malformed=1), mixed).shape for seed in range(200)}
    assert shapes == {"bare", "wrapped", "xml"}


def test_only_json_gets_a_wrong_content_type() -> None:
    for seed in range(50):
        faults = draw_call_faults(random.Random(seed), Rates(wrong_content_type=1), {"form": 1.0})
        assert (faults.content_type, faults.names) == (None, None)


def test_answer_faults() -> None:
    def drawn(rates: Rates) -> set[str | None]:
        return {draw_answer_fault(random.Random(seed), rates) for seed in range(20)}

    assert drawn(Rates()) == {None}
    assert drawn(Rates(error_after_acceptance=1)) == {"error"}
    assert drawn(Rates(timeout_after_acceptance=1)) == {"timeout"}
