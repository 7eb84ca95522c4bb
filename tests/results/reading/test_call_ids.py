"""All call ids in the provider's answer are used, and nothing in it is an error."""

from __future__ import annotations

import json
from typing import Any

import pytest

from receiver.results.reading.call_ids import read_call_ids

CALLS = [(1, 16175551234, "6175551234,Ana"), (2, 16175551299, "tel:+16175551299,Ben"), (3, 16175550188, "6175550188,C")]
ALL = ["a", "b", "c"]


def found(answer: Any, calls: list[tuple[int, int, str]] = CALLS) -> list[str | None]:
    return read_call_ids(answer if isinstance(answer, str) else json.dumps(answer)).find(calls, "US")


@pytest.mark.parametrize(
    "answer",
    [
        {"calls_queued": 3, "call_ids": ALL},
        {"result": {"calls_queued": "3", "call_ids": ALL}},
        {"CALL_IDS": {"0": "a", "1": "b", "2": "c"}},
        {"calls": [{"call_id": "a"}, {"id": "b"}, {"call_id": "c"}]},
        {"calls": [{"call_id": "c", "phone_number": "6175550188"}, {"id": "a", "destination": "6175551234"},
                   {"id": "b", "number": "'16175551299'"}]},
        {"call_ids": {"6175551234": "a", "tel:+16175551299": "b", "6175550188": "c"}},
        {"call_ids": {"+1 617 555 1234": "a", "6175551299": "b", "16175550188": "c"}},
        {"call_ids": {"a": "6175551234", "b": "6175551299", "c": "6175550188"}},
        {"calls": {"6175551234": {"call_id": "a"}, "6175551299": {"call_id": "b"}, "6175550188": {"id": "c"}}},
        ALL,
        "<result><calls_queued>3</calls_queued><call_ids><item>a</item><item>b</item><item>c</item></call_ids></result>",
    ],
)  # fmt: skip
def test_each_form_names_every_call(answer: Any) -> None:
    assert found(answer) == ALL


def test_ids_of_overdue_calls_are_found_by_their_position_among_all_calls() -> None:
    assert found({"call_ids": ALL}, CALLS[2:]) == ["c"]
    assert found({"call_ids": {"6175551299": 7}}, CALLS[1:2]) == ["7"]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"call_ids": ["a", None, "c"]}, ["a", None, "c"]),
        ({"call_ids": ["a"]}, ["a", None, None]),
        ({"call_ids": [1, True, 3.5]}, ["1", None, None]),
        ({"call_ids": ["..", "a\nb", "x" * 201]}, [None, None, None]),
        ({"call_ids": ["../../queue", "a b", "é"]}, ["../../queue", "a b", None]),
        ({"call_ids": {"6175550188": "c", "nobody": "d"}}, [None, None, "c"]),
        ({"call_id": "a"}, ["a", None, None]),
    ],
)
def test_missing_and_unusable_ids_are_none(answer: Any, expected: list[str | None]) -> None:
    assert found(answer) == expected


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "<html>Gateway</html>",
        "<result>",
        '{"call_ids": ["a", "b"',
        "[" * 100_000,
        "null",
        {"calls_queued": 3},
        {"calls_queued": 3, "error": None},
        {"call_ids": []},
        {"call_ids": {}},
        {"call_ids": 0},
        {"call_ids": [[["a"]]]},
        {"call_ids": [{"phone_number": "6175551234"}]},
        {"status": "ok", "elapsed": 12},
    ],
)
def test_answer_without_ids_is_not_an_error(answer: Any) -> None:
    assert found(answer) == [None, None, None]


def test_ids_of_the_longest_submissions_are_read() -> None:
    ids = read_call_ids(json.dumps({"calls_queued": 100_000, "call_ids": [f"1-{row}" for row in range(100_000)]}))
    assert ids.find([(100_000, 16175551234, "6175551234")], "US") == ["1-99999"]
