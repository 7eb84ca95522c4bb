"""A number is found in every spelling that people and providers use, and no other number is mistaken for it."""

from __future__ import annotations

import pytest

from receiver.database.pool import Connection
from receiver.phone_numbers.masking import Mentions

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
    "617_555_1234",
    "\u202a617\u200b555\u200b1234\u202c",
    "\uff0b\uff11\uff16\uff11\uff17 \uff15\uff15\uff15 \uff11\uff12\uff13\uff14",
    "\u0666\u0661\u0667\u0665\u0665\u0665\u0661\u0662\u0663\u0664",
    "https://example.com/?n=617%2D555%2D1234",
    "https://example.com/?n=%E2%80%8B6175551234",
    "%25%33%36175551234",
    '{"note": "\\u0036175551234"}',
    '{"note": "617\\u2011555\\u20111234"}',
    "<note>&#54;17&#160;555&#x2d;1234</note>",
    '{"phone_number": 6175551234.0}',
    '{"phone_number": 6.175551234E9}',
    "1.6175551234e+10",
]
ENCODED = ("%", "\\u", "&#", "\u0666", "\uff0b")


@pytest.mark.parametrize("text", SPELT)
def test_every_spelling_is_found(text: str) -> None:
    assert BOSTON.within(text)
    assert BOSTON.may_be_within(text.encode())


@pytest.mark.parametrize("text", SPELT)
def test_postgres_also_finds_every_spelling(conn: Connection, text: str) -> None:
    assert conn.execute("select %s ~ %s", (text, BOSTON.sieve)).fetchone() == (True,)


@pytest.mark.parametrize(
    "text",
    [
        "6.17555E9",
        "",
        "6175551235",
        "26175551234",
        "61755512340",
        "617555123",
        "+44 6175551234",
        "617x5551234",
        "1617 5551 2345",
    ],
)
def test_another_number_is_not_found(text: str) -> None:
    assert not BOSTON.within(text)


@pytest.mark.parametrize("text", ["020 7946 0958", "+44 (0)20 7946 0958", "00442079460958", "2079460958"])
def test_number_is_found_with_a_trunk_zero(text: str) -> None:
    assert LONDON.within(text)


@pytest.mark.parametrize("text", [text for text in SPELT if not any(mark in text for mark in ENCODED)])
def test_number_is_removed_and_the_rest_stays(text: str) -> None:
    left = BOSTON.removed(f"before {text} after")
    assert "erased" in left and "5551234" not in left and not BOSTON.within(left)
    assert left.startswith("before ") and left.endswith(" after")


@pytest.mark.parametrize("text", SPELT)
def test_encoded_number_is_removed(text: str) -> None:
    assert not BOSTON.within(BOSTON.removed(text))


def test_other_numbers_stay() -> None:
    text = "call 6175551299, +44 6175551234 or 6175551234"
    assert BOSTON.removed(text) == "call 6175551299, +44 6175551234 or erased"
