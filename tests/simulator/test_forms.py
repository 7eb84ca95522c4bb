from __future__ import annotations

from io import BytesIO

import pytest

from receiver.simulator.bodies import Parameters
from receiver.simulator.forms import Refused, is_destination, read_contacts, read_parameters


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("start_timestamp", "tomorrow"),
        ("start_timestamp", "1700000000.5"),
        ("start_timestamp", "1700000000000"),
        ("end_timestamp", "-1"),
        ("end_timestamp", "\u0661700000000"),
        ("max_attempts", "0"),
        ("max_attempts", "11"),
        ("reattempt_wait", "59"),
        ("reattempt_wait", "86401"),
        ("is_pci", "2"),
        ("is_pci", "true"),
        ("result_url", "example.com/results"),
        ("result_url", "ftp://example.com/results"),
        ("result_url", "http:///results"),
        ("result_url", "http://[::1/results"),
        ("result_url", "http://example.com/a b"),
        ("result_url", "http://example.com/" + "x" * 237),
    ],
)
def test_refusal_names_the_unusable_field(field: str, value: str) -> None:
    with pytest.raises(Refused, match=field) as refused:
        read_parameters({field: value})
    assert refused.value.status == 400


def test_more_than_one_attempt_needs_a_wait() -> None:
    with pytest.raises(Refused, match="reattempt_wait is required"):
        read_parameters({"max_attempts": "2"})


def test_window_must_end_after_it_starts() -> None:
    with pytest.raises(Refused, match="end_timestamp"):
        read_parameters({"start_timestamp": "1700000000", "end_timestamp": "1700000000"})


def test_all_fields_at_their_limits() -> None:
    url = "http://example.com/" + "x" * 236
    assert len(url) == 255
    form = {
        "start_timestamp": "1700000000",
        "end_timestamp": "1700000001",
        "max_attempts": "10",
        "reattempt_wait": "86400",
        "is_pci": "1",
        "result_url": url,
    }
    assert read_parameters(form) == Parameters(1700000000, 1700000001, 10, 86400, url)
    assert read_parameters({}) == Parameters()


@pytest.mark.parametrize(
    "text",
    [
        "6175551234",
        "16175551234",
        "tel:+16175551234",
        "16175551234;ani=8009957586",
        "16175551234;postd=2",
        "tel:+16175551234;ani=8009957586;postd=2",
        "(617) 555-1234",
        " 617.555.1234 ",
        "+442079460958",
    ],
)
def test_documented_destination_is_dialed(text: str) -> None:
    assert is_destination(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "911",
        "call me",
        "5551234",
        "1234567890123456",
        "\u0666175551234",
        "6175551234x",
        "'6175551234",
        "(+1) 6175551234",
    ],
)
def test_bad_destination_is_not_dialed(text: str) -> None:
    assert not is_destination(text)


def test_bad_rows_are_left_out_and_counted() -> None:
    contacts = read_contacts(BytesIO('\ufeffdestination,"a\nb"\r\n6175551234,"x\ny"\r\n\r\n911,z\r\n'.encode()))
    assert contacts == (["6175551234"], 1)


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "destination"),
        (b"name,destination\nAna,6175551234\n", "destination"),
        (b"Destination\n6175551234\n", "destination"),
        (b"destination\n", "no contacts"),
        (b"destination,name\n6175551234,Bj\xf6rn\n", "UTF-8"),
        (b"destination\n" + b"1" * 200_000 + b"\n", "cannot be read"),
    ],
)
def test_unusable_csv_is_refused_with_the_reason(content: bytes, fault: str) -> None:
    with pytest.raises(Refused, match=fault):
        read_contacts(BytesIO(content))
