"""The parameters of a batch: the error for each field, and the due time of results."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from receiver.errors import InvalidInput
from receiver.queueing.form_fields import Coded
from receiver.queueing.form_fields import faults as faults_of
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.schedule import due_at

NEEDED = {"application_id": "7", "deployment_id": "3"}
NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
LATER = "2999-12-01T22:00:00Z"


def read(**form: str) -> BatchParameters:
    return read_parameters({**NEEDED, **form}, "US")


def faults(form: dict[str, str]) -> list[tuple[str | int, str]]:
    """Field and code of each fault; every message must be a sentence."""
    with pytest.raises(InvalidInput) as caught:
        read_parameters(form, "US")
    assert caught.value.code == "invalid_parameters"
    assert caught.value.faults_total == len(caught.value.faults)
    assert all(fault.message.endswith(".") for fault in caught.value.faults)
    return sorted((fault.where, fault.code) for fault in caught.value.faults)


def refused(**form: str) -> list[tuple[str | int, str]]:
    return faults({**NEEDED, **form})


def from_now(**delta: float) -> str:
    return str(int((datetime.now(UTC) + timedelta(**delta)).timestamp()))


def test_only_the_two_ids_are_required_and_the_provider_is_told_nothing_else() -> None:
    assert read() == BatchParameters(application_id=7, deployment_id=3)
    assert faults({}) == [("application_id", "required"), ("deployment_id", "required")]


def test_code_of_a_fault_does_not_depend_on_the_words_of_its_message() -> None:
    said = ValidationError(
        {"note": ["Required reading in the past; more than once."], "age": [Coded("too_old", "No.")]}
    )
    assert [(fault.where, fault.code) for fault in faults_of(said)] == [("note", "invalid"), ("age", "too_old")]


def test_every_field_is_read() -> None:
    assert read(
        name="Décembre, 1st wave",
        start_timestamp="2999-12-01T08:00:00Z",
        end_timestamp=LATER,
        max_attempts="3",
        reattempt_wait="300",
        is_pci="1",
        default_region="gb",
        on_invalid="skip",
        on_duplicate="keep",
        dry_run="1",
    ) == BatchParameters(
        application_id=7,
        deployment_id=3,
        name="Décembre, 1st wave",
        start_timestamp=datetime(2999, 12, 1, 8, tzinfo=UTC),
        end_timestamp=datetime(2999, 12, 1, 22, tzinfo=UTC),
        max_attempts=3,
        reattempt_wait=300,
        is_pci=True,
        default_region="GB",
        on_invalid="skip",
        on_duplicate="keep",
        dry_run=True,
    )


def test_empty_field_of_a_form_is_as_good_as_none() -> None:
    blank = dict.fromkeys(("name", "start_timestamp", "max_attempts", "is_pci", "default_region", "on_invalid"), "")
    assert read(**blank) == read()
    assert faults({"application_id": "", "deployment_id": "3"}) == [("application_id", "required")]


def test_all_faults_are_named_at_once() -> None:
    assert refused(application_id="0", max_attempts="11", is_pci="yes", on_invalid="keep", colour="red") == [
        ("application_id", "out_of_range"),
        ("colour", "unknown_field"),
        ("is_pci", "invalid"),
        ("max_attempts", "out_of_range"),
        ("on_invalid", "invalid"),
    ]


@pytest.mark.parametrize(
    ("field", "lowest", "highest"),
    [
        ("application_id", 1, 2**53),
        ("deployment_id", 1, 2**53),
        ("max_attempts", 1, 10),
        ("reattempt_wait", 60, 86400),
    ],
)
def test_number_is_taken_in_its_range_only(field: str, lowest: int, highest: int) -> None:
    others = {"reattempt_wait": "60"} if field == "max_attempts" else {}
    for number in (lowest, highest):
        assert getattr(read(**{**others, field: str(number)}), field) == number
    for number in (lowest - 1, highest + 1):
        assert refused(**{**others, field: str(number)}) == [(field, "out_of_range")]


@pytest.mark.parametrize("text", ["7.0", "1e3", "seven", "٣", "+7", "0x7", "7 8", "9" * 19, "--7"])
def test_what_is_not_written_in_digits_is_no_number(text: str) -> None:
    assert refused(application_id=text) == [("application_id", "invalid")]


def test_more_than_one_attempt_needs_a_wait_between_them() -> None:
    assert refused(max_attempts="2") == [("reattempt_wait", "required")]
    assert read(max_attempts="1").max_attempts == 1
    assert read(reattempt_wait="60").reattempt_wait == 60


def test_wrong_wait_is_one_fault_and_not_a_missing_one_as_well() -> None:
    assert refused(max_attempts="2", reattempt_wait="5") == [("reattempt_wait", "out_of_range")]


@pytest.mark.parametrize("field", ["is_pci", "dry_run"])
@pytest.mark.parametrize("text", ["on", "yes", "2", "01", "-1", "1.0", "t"])
def test_flag_is_0_1_true_or_false(field: str, text: str) -> None:
    assert [getattr(read(**{field: flag}), field) for flag in ("0", "false", "False")] == [False] * 3
    assert [getattr(read(**{field: flag}), field) for flag in ("1", "true", "True")] == [True] * 3
    assert refused(**{field: text}) == [(field, "invalid")]


@pytest.mark.parametrize("region", ["USA", "XX", "U", "1", "U\0"])
def test_region_is_one_that_the_numbers_library_knows(region: str) -> None:
    assert refused(default_region=region) == [("default_region", "invalid")]


@pytest.mark.parametrize("name", ["a\0b", "a\nb", "a\x7fb", "a\ud800b"])
def test_name_that_cannot_be_stored_or_shown_is_refused(name: str) -> None:
    assert refused(name=name) == [("name", "invalid")]


def test_name_has_a_longest_length() -> None:
    assert read(name="☎" * 200).name == "☎" * 200
    assert refused(name="☎" * 201) == [("name", "too_long")]


@pytest.mark.parametrize(
    ("file_name", "name"),
    [
        ("december.csv", "december.csv"),
        ("d" * 300, "d" * 200),
        ("a\0b\nc.csv", "a b c.csv"),
        ("\udcff.csv", "�.csv"),  # a name that is not UTF-8, as Python hands it over
    ],
)
def test_batch_without_a_name_is_called_as_its_file_with_what_cannot_be_stored_replaced(
    file_name: str, name: str
) -> None:
    assert read_parameters(NEEDED, "US", file_name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "2999-12-01T22:00:00Z",
        "2999-12-01t22:00:00z",
        "2999-12-01 22:00:00+00:00",
        "2999-12-02T03:30:00+05:30",
        "2999-12-01T14:00:00-08:00",
        "2999-12-01T22:00:00.999999999Z",
        " 32501080800 ",
    ],
)
def test_moment_is_written_in_unix_seconds_or_rfc_3339(text: str) -> None:
    assert read(end_timestamp=text).end_timestamp == datetime(2999, 12, 1, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "tomorrow",
        "2999-12-01",
        "2999-12-01T22:00:00",  # whose noon?
        "2999-12-01T22:00Z",
        "2999-13-01T22:00:00Z",
        "2999-02-29T22:00:00Z",
        "2999-12-01T24:00:00Z",
        "2999-12-01T22:00:60Z",
        "2999-12-01T22:00:00+24:00",
        "0001-01-01T00:00:00+05:00",
        "9999-12-31T23:59:59-05:00",
        "-1",
        "1.5e9",
        "32501080800000",  # milliseconds
        "٣٢٥٠١٠٨٠٨٠٠",
        "∞",
    ],
)
@pytest.mark.parametrize("field", ["start_timestamp", "end_timestamp"])
def test_other_moments_are_refused(field: str, text: str) -> None:
    assert refused(**{field: text}) == [(field, "invalid")]


def test_window_in_the_past_is_refused() -> None:
    assert refused(end_timestamp=from_now(seconds=-1)) == [("end_timestamp", "in_the_past")]
    assert refused(start_timestamp=from_now(hours=-1)) == [("start_timestamp", "in_the_past")]
    assert refused(start_timestamp="0", end_timestamp="0") == [
        ("end_timestamp", "in_the_past"),
        ("start_timestamp", "in_the_past"),
    ]


def test_start_of_a_moment_ago_is_taken() -> None:
    assert read(start_timestamp=from_now(minutes=-4)).start_timestamp is not None


def test_window_must_end_after_it_begins() -> None:
    start, end = from_now(hours=1), from_now(hours=2)
    assert read(start_timestamp=start, end_timestamp=end).end_timestamp is not None
    assert refused(start_timestamp=end, end_timestamp=start) == [("end_timestamp", "invalid")]
    assert refused(start_timestamp=end, end_timestamp=end) == [("end_timestamp", "invalid")]


def due(parameters: BatchParameters, grace_seconds: int = 0) -> datetime:
    """When a call without a result is overdue that is released now."""
    window = (parameters.start_timestamp, parameters.end_timestamp)
    return due_at(*window, parameters.retries, NOW, timedelta(seconds=grace_seconds))


def test_results_are_due_a_grace_after_the_window_ends() -> None:
    parameters = BatchParameters(7, 3, end_timestamp=NOW + timedelta(hours=2), max_attempts=10, reattempt_wait=86400)
    assert due(parameters, 600) == NOW + timedelta(hours=2, seconds=600)


def test_without_an_end_results_are_due_a_day_and_every_wait_after_the_start() -> None:
    day = timedelta(hours=24)
    assert due(BatchParameters(7, 3)) == NOW + day
    assert due(BatchParameters(7, 3, max_attempts=1, reattempt_wait=600), 60) == NOW + day + timedelta(minutes=1)
    start = NOW + timedelta(days=2)
    later = BatchParameters(7, 3, start_timestamp=start, max_attempts=4, reattempt_wait=300)
    assert due(later) == start + day + timedelta(seconds=900)


@pytest.mark.parametrize("field", ["start_timestamp", "end_timestamp"])
@pytest.mark.parametrize("text", ["9999-12-31T23:59:59Z", "253402300799"])
def test_moment_so_late_that_nothing_can_be_due_after_it_is_refused(field: str, text: str) -> None:
    assert refused(**{field: text}) == [(field, "invalid")]


@given(
    st.dictionaries(
        st.sampled_from(
            ["application_id", "deployment_id", "start_timestamp", "end_timestamp", "name", "default_region", "x"]
        ),
        st.text(max_size=30) | st.integers().map(str) | st.datetimes().map(lambda at: f"{at:%Y-%m-%dT%H:%M:%S}Z"),
    )
)
def test_any_text_is_either_taken_or_refused_by_name(form: dict[str, str]) -> None:
    try:
        parameters = read_parameters(form, "US")
    except InvalidInput as error:
        assert {fault.where for fault in error.faults} <= {*form, "application_id", "deployment_id"}
    else:
        due(parameters, 30 * 86400)
