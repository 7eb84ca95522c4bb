from __future__ import annotations

import json
import random
from email import message_from_bytes
from email.message import Message
from pathlib import Path
from urllib.parse import parse_qsl
from xml.etree import ElementTree

import pytest

from receiver.simulator.bodies import (
    Parameters,
    Spelling,
    call_details,
    draw_spelling,
    encode,
    spell_number,
    to_xml,
    with_extra_fields,
    with_inconsistency,
)
from receiver.simulator.calls import Call

SAMPLES = Path(__file__).parent.parent / "samples" / "callbacks"
PLAIN = Spelling()


def completed() -> dict[str, object]:
    call = Call(1, "6175551234", dialed=(2,), connected=31, ended=78, outcome="completed")
    return call_details(call, Parameters(reattempt_wait=300), 1700000100, PLAIN)


def test_completed_call_is_the_recorded_sample() -> None:
    assert encode(completed(), "bare") == (
        (SAMPLES / "completed.json").read_bytes().strip(),
        "application/json",
    )


def test_retried_call_is_the_recorded_wrapped_sample() -> None:
    call = Call(1, "tel:+16175551299", dialed=(3, 363), connected=379, ended=411, outcome="completed")
    details = call_details(call, Parameters(max_attempts=3, reattempt_wait=360), 1700000200, PLAIN)
    assert encode(details, "wrapped")[0] == (SAMPLES / "completed-wrapped.json").read_bytes().strip()


def test_failed_call_is_the_recorded_sample() -> None:
    call = Call(1, "16175550188;postd=2", dialed=(1, 95, 187), ended=200, outcome="failed")
    parameters = Parameters(max_attempts=3, reattempt_wait=60)
    details = call_details(call, parameters, 1700002000, Spelling(flip_leading_one=True))
    assert encode(details, "bare")[0] == (SAMPLES / "failed-exhausted.json").read_bytes().strip()


def test_call_canceled_in_its_window_is_the_recorded_sample() -> None:
    call = Call(1, "tel:+16175550147;ani=8009957586", ended=9, outcome="canceled")
    parameters = Parameters(start_timestamp=1700001400, end_timestamp=1700005000)
    spelling = Spelling(flip_leading_one=True, queued_skew=-7, text_timestamps=True)
    details = call_details(call, parameters, 1700001465, spelling)
    assert encode(details, "bare")[0] == (SAMPLES / "canceled-window.json").read_bytes().strip()


def test_form_names_events_like_the_recorded_sample() -> None:
    body, content_type = encode(completed(), "form")
    sent = parse_qsl(body.decode())
    recorded = dict(parse_qsl((SAMPLES / "form.txt").read_text().strip()))
    assert content_type == "application/x-www-form-urlencoded"
    assert dict(sent)["events[1][event]"] == "dialing"
    same = [name for name in recorded if not name.startswith("events[1]")]
    assert {name: dict(sent)[name] for name in same} == {name: recorded[name] for name in same}


def test_form_field_holds_the_json() -> None:
    body, content_type = encode(completed(), "field")
    ((name, value),) = parse_qsl(body.decode())
    assert (name, json.loads(value)) == ("call_details", completed())
    assert content_type == "application/x-www-form-urlencoded"


def test_multipart_has_the_fields_of_the_form_and_repeats_byte_for_byte() -> None:
    body, content_type = encode(completed(), "multipart")
    assert encode(completed(), "multipart") == (body, content_type)
    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + body)
    parts = message.get_payload()
    assert isinstance(parts, list)
    values = {str(part["Content-Disposition"]): part.get_payload() for part in parts if isinstance(part, Message)}
    assert values['form-data; name="phone_number"'] == "'6175551234'"
    assert values['form-data; name="events[1][event]"'] == "dialing"


def test_xml_is_the_recorded_sample_for_the_fields_of_the_sample() -> None:
    body, content_type = encode(completed(), "xml")
    details = ElementTree.fromstring(body)[0]  # noqa: S314 - written by this test
    recorded = ElementTree.fromstring((SAMPLES / "details.xml").read_bytes())[0]  # noqa: S314 - in this repository
    assert content_type == "application/xml"
    assert (details.tag, details[2][0].tag) == ("call_details", "item")
    for field in recorded:
        if field.tag != "events":
            assert details.findtext(field.tag) == field.text
    assert [item.findtext("event") for item in details[2]] == [
        "queued",
        "dialing",
        "connected",
        "disconnected",
    ]


def test_xml_escapes_text_and_keeps_keys_that_are_not_names() -> None:
    assert to_xml("result", {"6175551234": 'a<b&"'}) == (
        '<?xml version="1.0"?><result><item key="6175551234">a&lt;b&amp;"</item></result>'
    )


@pytest.mark.parametrize(
    ("destination", "as_written", "flipped"),
    [
        ("6175551234", "'6175551234'", "'16175551234'"),
        ("16175551234;postd=2", "'16175551234'", "'6175551234'"),
        ("tel:+16175551234;ani=8009957586;postd=2", "'16175551234'", "'6175551234'"),
        ("(617) 555-1234", "'6175551234'", "'16175551234'"),
        ("+442079460958", "'442079460958'", "'442079460958'"),
        ("0612345678", "'0612345678'", "'0612345678'"),
    ],
)
def test_number_in_apostrophes_with_or_without_the_leading_one(destination: str, as_written: str, flipped: str) -> None:
    assert spell_number(destination, flip_leading_one=False) == as_written
    assert spell_number(destination, flip_leading_one=True) == flipped


def test_call_canceled_before_dialing_has_one_attempt() -> None:
    call = Call(1, "6175551234", ended=5, outcome="canceled")
    assert call_details(call, Parameters(), 1700000000, PLAIN)["attempts"] == "1"


def test_step_before_the_end_has_no_duration_and_no_final_event() -> None:
    call = Call(1, "6175551234", dialed=(2,), connected=31, ended=78, outcome="completed")
    details = call_details(call.until(77), Parameters(), 1700000100, PLAIN)
    assert details["status"] == "connected"
    assert "duration" not in details
    assert details["events"] == [
        {"event": "queued", "timestamp": 1700000100},
        {"event": "dialing", "timestamp": 1700000102},
        {"event": "connected", "timestamp": 1700000131},
    ]


def test_each_inconsistency_changes_only_its_own_field() -> None:
    details = completed()
    assert with_inconsistency(details, "cancelled") == details
    assert with_inconsistency({**details, "status": "canceled"}, "cancelled")["status"] == "cancelled"
    assert "events" not in with_inconsistency(details, "events_missing")
    events = details["events"]
    assert isinstance(events, list)
    assert with_inconsistency(details, "events_as_object")["events"] == {str(no): e for no, e in enumerate(events)}
    capital = with_inconsistency(details, "start_Timestamp")
    assert capital["start_Timestamp"] == details["start_timestamp"] and "start_timestamp" not in capital


def test_extra_fields_do_not_change_the_documented_ones() -> None:
    details = completed()
    more = with_extra_fields(details, "1-1")
    assert {name: more[name] for name in details} == details
    assert more["call_id"] == "1-1"
    assert b"carrier%5Bhops%5D%5B1%5D=b" in encode(more, "form")[0]


def test_spelling_varies_and_depends_on_the_seed() -> None:
    seen = {draw_spelling(random.Random(seed)) for seed in range(200)}
    assert {each.flip_leading_one for each in seen} == {True, False}
    assert {each.queued_skew for each in seen} == set(range(-7, 1))
    assert draw_spelling(random.Random(9)) == draw_spelling(random.Random(9))
