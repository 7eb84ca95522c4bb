"""A number is found in every spelling that people and providers use, and no other number is taken for it."""

from __future__ import annotations

import pytest

from receiver.queueing.mentions import Mentions

BOSTON = Mentions(16175551234)
LONDON = Mentions(442079460958)

SPELT = [
    "6175551234",
    "16175551234",
    "+16175551234",
    "tel:+16175551234",
    "'6175551234'",
    "+1 (617) 555-1234",
    "1-617-555-1234",
    "617.555.1234",
    "[617] 555 / 1234",
    "001 617 555 1234",
    "011 1 617 555 1234",
    "617\u2011555\u20111234",
    '{"phone_number": "\'6175551234\'", "status": "completed"}',
    "16175551234;ani=8009957586",
    "16175551299;ani=6175551234",
    "phone_number=%276175551234%27",
    "phone_number=%2B16175551234&status=completed",
]


@pytest.mark.parametrize("text", SPELT)
def test_every_spelling_is_found(text: str) -> None:
    assert BOSTON.within(text)


@pytest.mark.parametrize(
    "text",
    ["", "6175551235", "26175551234", "61755512340", "617555123", "+44 6175551234", "617x5551234", "1617 5551 2345"],
)
def test_another_number_is_not(text: str) -> None:
    assert not BOSTON.within(text)


@pytest.mark.parametrize("text", ["020 7946 0958", "+44 (0)20 7946 0958", "00442079460958", "2079460958"])
def test_a_trunk_zero_may_stand_before_it(text: str) -> None:
    assert LONDON.within(text)


@pytest.mark.parametrize("text", [text for text in SPELT if "%" not in text])
def test_nothing_of_it_is_left(text: str) -> None:
    left = BOSTON.removed(f"before {text} after")
    assert "erased" in left and "5551234" not in left and not BOSTON.within(left)
    assert left.startswith("before ") and left.endswith(" after")


def test_other_numbers_stay() -> None:
    text = "call 6175551299, +44 6175551234 or 6175551234"
    assert BOSTON.removed(text) == "call 6175551299, +44 6175551234 or erased"
