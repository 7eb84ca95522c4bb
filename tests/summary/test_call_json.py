"""Lines of NDJSON: the quick ways to write them give the same as the general ones."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.intake.packing import pack
from receiver.results.reading.call_details import read_call_events
from receiver.results.reading.unreadable import UnreadableBody
from receiver.summary.call_json import LISTED_EVENTS, OwnMembers, _find_usual_events, events_of_body
from receiver.text.csv_line import csv_line
from tests.factories import result_body

EVENT = '{"event":"queued","timestamp":1700000001}'


def listed(body: bytes) -> Any:
    """The members that the API writes for this body."""
    try:
        events, total = read_call_events(body, "application/json", most=LISTED_EVENTS)
    except UnreadableBody:
        events, total = (), 0
    shown = [{"event": event.event, "at": event.at and event.at.isoformat().replace("+00:00", "Z")} for event in events]
    return {"events": shown, "events_total": total}


def written(body: bytes) -> Any:
    packing, packed = pack(body)
    return json.loads("{" + events_of_body(packing, None, None, packed)[1:] + "}")


def test_events_of_usual_bodies_are_found_quickly() -> None:
    for body in (
        result_body(6175551234),
        result_body("'6175551234'", "failed", last_event=90),
        b'{"phone_number":"6175551234","status":"completed","events":[' + EVENT.encode() + b"]}",
    ):
        assert _find_usual_events(body) is not None
        assert written(body) == listed(body) and written(body)["events"]


@pytest.mark.parametrize(
    "body",
    [
        "",
        "{}",
        "x",
        '{"events":[]}',
        '{"events":[%s]}',
        '{"events":[%s,1,"dialing"]}',
        '{"events":["dialing",%s]}',
        '{"events":[%s],"Events":""}',
        '{"events":[%s],"events":null}',
        '{"x\\"events":[%s]}',
        '{"x":{"events":[%s]}}',
        '{"status":"x","phone_number":"1","x":{"events":[%s]}}',
        '{"status":"x","phone_number":"1","x":[%s]}',
        '{"status":"x","phone_number":"1","events":"","x":[%s]}',
        '{"call_details":{"events":[%s]},"phone_number":"1"}',
        '{"events":[%s],"call_details":"<a><events><event>x</event></events></a>"}',
        '{"events":[%s],"CALL_DETAILS":"<a><phone_number>1</phone_number></a>"}',
        '{"events":[%s],"x":"<a><status>1</status></a>"}',
        '[{"events":[%s]}]',
        '{"events":[{"timestamp":1700000001,"event":"queued"}]}',
        '{"events":[{"event":"queued","timestamp":1700000001,"x":"y"}]}',
        '{"events":[{"event":"queued","timestamp":1700000001000}]}',
        '{"events":[{"event":"queued","timestamp":"1700000001"}]}',
        '{"events":[{"event":"queued","timestamp":0}]}',
        '{"events":[{"event":"","timestamp":1700000001}]}',
        '{"events":[{"event":"Z\u00fcrich","timestamp":1700000001}]}',
        '{"events":[' + ",".join([EVENT] * LISTED_EVENTS) + "]}",
        '{"events":[' + ",".join([EVENT] * (LISTED_EVENTS + 1)) + "]}",
    ],
)
def test_events_of_other_bodies_are_those_of_the_api(body: str) -> None:
    for text in (body.replace("%s", EVENT), body.replace("%s", f"{EVENT}, {EVENT}").replace(":", ": ")):
        for content in (text.encode(), text.encode("utf-16"), text.encode("cp1252")):
            assert written(content) == listed(content)


NAMES = st.sampled_from(["events", "Events", "event", "timestamp", "status", "phone_number", "call_details", "result"])
VALUES = st.recursive(
    st.sampled_from(["", "queued", "<a>", "{}", 'a"b', None, 0, 1700000001, 17000000010, True]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=6,
)
EVENTS = st.lists(
    st.fixed_dictionaries({"event": st.sampled_from(["queued", "x y", ""]), "timestamp": st.integers(0, 10**11)})
    | VALUES,
    max_size=3,
)


@given(st.dictionaries(NAMES, VALUES | EVENTS, max_size=4), st.sampled_from([(",", ":"), (", ", ": ")]))
def test_events_are_those_of_the_api_whatever_the_body(fields: dict[str, Any], separators: tuple[str, str]) -> None:
    body = json.dumps(fields, separators=separators).encode()
    assert written(body) == listed(body)


DIGITS = st.text("0123456789", max_size=26)


SECONDS = DIGITS | st.integers(10**9, 2 * 10**9).map(str)


@given(st.lists(st.tuples(DIGITS | st.just(""), st.just("") | DIGITS, SECONDS), min_size=1, max_size=3), DIGITS)
def test_events_are_those_of_the_api_wherever_there_are_digits(events: list[tuple[str, ...]], more: str) -> None:
    listed_events = ",".join(f'{{"event":"q{name}","times{key}tamp":{at}}}' for name, key, at in events)
    for body in (
        f'{{"status":"failed","events":[{listed_events}]}}',
        f'{{"status":"failed{more}","eve{more}nts":[{listed_events}],"x":{more or 0}}}',
    ):
        assert written(body.encode()) == listed(body.encode())


@given(st.lists(st.text(max_size=8), min_size=1, max_size=4))
def test_cells_are_written_as_json(cells: list[str]) -> None:
    columns = [f"%s {place} \\ é" for place in range(len(cells) - 1)]
    members = json.loads("{" + OwnMembers(columns).write(csv_line(cells)) + "}")
    assert members == {"destination": cells[0], "variables": dict(zip(columns, cells[1:], strict=True))}
