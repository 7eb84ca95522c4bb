"""Pace, hours, zones and names of a batch: what is taken, what is refused, and what the preview shows."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.errors import InvalidInput
from receiver.queueing.acceptance import Limits, accept, preview
from receiver.queueing.batches import ExternalIdUsed, Preview
from receiver.queueing.form_fields import days_text, hours_text
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.queueing.submissions import BLOCK_ROWS
from receiver.queueing.suppressions import digest_of, get_key
from tests.factories import differences, read_batch

NEEDED = {"application_id": "7", "deployment_id": "3"}
DAY = timedelta(days=1)


def read(**form: str) -> BatchParameters:
    return read_parameters({**NEEDED, **form}, "US")


def faults_of(**form: str) -> list[tuple[str | int, str]]:
    with pytest.raises(InvalidInput) as refused:
        read(**form)
    return [(fault.where, fault.code) for fault in refused.value.faults]


def previewed(csv: str, *, suppressed: set[int] | None = None, **parameters: Any) -> Preview:
    given = BatchParameters(7, 3, **parameters)
    return preview(io.BytesIO(csv.encode()), given, Limits(10_000, 3600), lambda _: suppressed or ())


def test_all_fields_are_read() -> None:
    given = read(calls_per_minute="600", calling_hours="09:00-24:00", calling_days="mon, TUE,sun",
                 time_zone="America/New_York", external_id="crm-7", labels='{"team": "north"}')  # fmt: skip
    assert given.calls_per_minute == 600
    assert (given.calling_hours, given.calling_days) == ((540, 1440), 0b1000011)
    assert (given.external_id, given.labels) == ("crm-7", {"team": "north"})
    assert (hours_text(540, 1440), days_text(0b1000011)) == ("09:00-24:00", "mon,tue,sun")


@pytest.mark.parametrize(
    "hours", ["9-17", "09:00", "21:00-09:00", "09:00-09:00", "09:00-24:01", "25:00-26:00", "09:00-17:60"]
)
def test_hours_that_are_none_are_refused(hours: str) -> None:
    assert faults_of(calling_hours=hours) == [("calling_hours", "invalid")]


@pytest.mark.parametrize(
    ("form", "fault"),
    [
        ({"calls_per_minute": "0"}, ("calls_per_minute", "out_of_range")),
        ({"calls_per_minute": "100001"}, ("calls_per_minute", "out_of_range")),
        ({"calling_hours": "09:00-09:29"}, ("calling_hours", "invalid")),
        ({"calling_days": "mon"}, ("calling_hours", "required")),
        ({"time_zone": "UTC"}, ("calling_hours", "required")),
        ({"calling_hours": "09:00-17:00", "calling_days": "monday"}, ("calling_days", "invalid")),
        ({"calling_hours": "09:00-17:00", "time_zone": "Mars/Olympus"}, ("time_zone", "invalid")),
        ({"calling_hours": "09:00-17:00", "time_zone": "EST5EDT,M3"}, ("time_zone", "invalid")),
        ({"labels": "[1]"}, ("labels", "invalid")),
        ({"labels": '{"a:b": "c"}'}, ("labels", "invalid")),
        ({"labels": '{"a": ""}'}, ("labels", "invalid")),
        ({"labels": str({str(n): "x" for n in range(11)}).replace("'", '"')}, ("labels", "invalid")),
        ({"external_id": "x" * 256}, ("external_id", "too_long")),
    ],
)
def test_what_cannot_be_taken_is_named(form: dict[str, str], fault: tuple[str, str]) -> None:
    assert faults_of(**form) == [fault]


def test_hours_that_contradict_the_window_and_days_that_never_come_are_refused() -> None:
    # A window of one hour, twelve hours from now, at noon of some zone; the hours are at night.
    start = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) + timedelta(hours=12)
    window = {
        "start_timestamp": start.isoformat(),
        "end_timestamp": (start + timedelta(hours=1)).isoformat(),
        "time_zone": "UTC",
    }
    night = f"{(start.hour + 6) % 23:02}:00-{(start.hour + 6) % 23:02}:45"
    assert faults_of(calling_hours=night, **window) == [("calling_hours", "outside_calling_hours")]
    other_day = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")[(start.weekday() + 3) % 7]
    assert faults_of(calling_hours="00:00-24:00", calling_days=other_day, **window) == [
        ("calling_hours", "outside_calling_hours")
    ]


CSV = "destination,zone\n+16175550000,\n+12135550123,Asia/Tokyo\n+18005550199,\n+16175550001,Nowhere/Here\n"


def test_rows_whose_zone_is_unknown_or_has_no_common_hours_are_named() -> None:
    seen = previewed(CSV, calling_hours=(540, 1020), time_zone_column="zone", on_invalid="skip")
    assert [(fault.where, fault.code) for fault in seen.errors] == [(3, "no_common_hours"), (4, "time_zone_unknown")]
    assert [(zone.time_zone, zone.rows) for zone in seen.zones] == [("America/New_York", 1), ("Asia/Tokyo", 1)]
    now = datetime.now(UTC) - timedelta(minutes=1)
    assert all(zone.opens_at is not None and now < zone.opens_at < now + DAY for zone in seen.zones)
    assert (seen.valid, seen.invalid, seen.submissions) == (2, 2, 2)


def test_column_that_does_not_exist_is_named() -> None:
    with pytest.raises(InvalidInput) as refused:
        previewed(CSV, calling_hours=(540, 1020), time_zone_column="tz")
    assert refused.value.faults[0].where == "time_zone_column"


def test_time_zone_column_can_have_a_line_break_in_its_name() -> None:
    seen = previewed(
        'destination,"time\nzone"\n+16175550000,Asia/Tokyo\n', calling_hours=(540, 1020), time_zone_column="time zone"
    )
    assert [zone.time_zone for zone in seen.zones] == ["Asia/Tokyo"]


def test_preview_counts_suppressed_rows_and_warns_of_retries() -> None:
    seen = previewed(
        "destination\n+16175550000\n+16175550001\n", suppressed={16175550001}, calling_hours=(540, 660),
        max_attempts=4, reattempt_wait=3600, time_zone="UTC",
    )  # fmt: skip
    assert (seen.suppressed, seen.rows, seen.errors[0].code) == (1, 2, "suppressed")
    assert [warning.code for warning in seen.warnings] == ["retries_do_not_fit"]


def test_due_time_of_a_paced_batch_is_an_estimate_of_its_last_release() -> None:
    csv = "destination\n" + "".join(f"+1617555{row:04}\n" for row in range(600))
    now = datetime.now(UTC)
    seen = previewed(csv, calls_per_minute=10)
    assert timedelta(hours=1) < seen.due_at - now - timedelta(hours=25) < timedelta(hours=1.1)
    assert seen.submissions == 600


def test_numbers_that_repeat_in_other_zones_still_stand_once_in_a_submission(conn: Connection) -> None:
    csv = "destination,zone\n" + "".join(
        f"+1617555000{row % 3},{'UTC' if row % 2 else 'Asia/Tokyo'}\n" for row in range(12)
    )
    given = BatchParameters(7, 3, calling_hours=(0, 1440), time_zone_column="zone", on_duplicate="keep")
    batch_id = accept(conn, io.BytesIO(csv.encode()), given, Limits(2, 3600)).batch_id
    conn.commit()
    assert differences(conn) == []
    batch = read_batch(conn, batch_id)
    assert sum(each.calls for each in batch.submissions) == 12
    assert {each.time_zone for each in batch.submissions} == {"UTC", "Asia/Tokyo"}


def test_external_id_names_one_batch(conn: Connection) -> None:
    def queue() -> int:
        given = BatchParameters(7, 3, external_id="crm-7")
        return accept(conn, io.BytesIO(b"destination\n6175550000\n"), given, Limits(10, 3600)).batch_id

    first = queue()
    conn.commit()
    with pytest.raises(ExternalIdUsed) as used:
        queue()
    conn.rollback()
    assert used.value.members == {"batch_id": first}


def test_suppressions_are_looked_up_while_a_large_file_is_copied(conn: Connection) -> None:
    rows = 2 * BLOCK_ROWS + 10
    suppressed = [16172000000 + BLOCK_ROWS + 1, 16172000000 + rows - 1]
    for number in suppressed:
        conn.execute(
            "insert into suppression (phone_number, digest, created_by) values (%s, %s, 'Ana')",
            (number, digest_of(get_key(conn), number)),
        )
    csv = "destination\n" + "".join(f"+{16172000000 + row}\n" for row in range(rows))
    given = BatchParameters(7, 3)
    batch_id = accept(conn, io.BytesIO(csv.encode()), given, Limits(10_000, 3600)).batch_id
    conn.commit()
    counts = read_batch(conn, batch_id).counts
    assert (counts["rows"], counts["skipped"]) == (rows, 2)
    assert differences(conn) == []
