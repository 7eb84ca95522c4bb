"""Wrong clocks, jumping clocks and unusual time zones do not change counts or due times."""

from __future__ import annotations

import math
import shutil
import struct
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from tests.acceptance.outages import World, world, worst
from tests.acceptance.postgres import Postgres
from tests.waiting import eventually

pytestmark = pytest.mark.long

SHIFTED = Path(__file__).with_name("shifted_clock.c")
OFF_SECONDS, WAITED_SECONDS = 60.0, 25.0
"""Large limits are enough: a wrong use of a clock that jumped gives a difference of at least an hour."""

ODD_ZONES = ("Pacific/Apia", "America/St_Johns", "Asia/Kathmandu")
CHANGES = (
    # A day with a change of daylight saving time: its zone, its beginning, and its length in hours.
    ("America/New_York", "2026-03-08T05:00:00Z", 23),
    ("America/New_York", "2025-11-02T04:00:00Z", 25),
    ("Europe/Berlin", "2026-03-28T23:00:00Z", 23),
    ("Europe/Berlin", "2026-10-24T22:00:00Z", 25),
    ("Australia/Lord_Howe", "2026-04-04T13:00:00Z", 24.5),
    ("Australia/Lord_Howe", "2026-10-03T13:30:00Z", 23.5),
)


class Clock:
    """The wall clock of all processes that have `environment`. It can be set while they run."""

    def __init__(self, folder: Path) -> None:
        library, self._offset = folder / "shifted_clock.so", folder / "clock"
        compiler = shutil.which("cc")
        if compiler is None or sys.platform != "linux":
            pytest.skip("a C compiler for Linux is needed to shift the clock (Debian: apt-get install gcc libc6-dev)")
        subprocess.run([compiler, "-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o", library, SHIFTED], check=True)
        self._offset.write_bytes(bytes(8))
        self.environment = {"LD_PRELOAD": str(library), "CLOCK_OFFSET": str(self._offset)}

    def set_offset(self, by: timedelta) -> None:
        """Set the difference from the real time."""
        with self._offset.open("r+b", buffering=0) as offset:
            offset.write(struct.pack("=q", int(by.total_seconds())))


def moment(text: str) -> datetime:
    return datetime.fromisoformat(text)


def off_by(text: str, expected: datetime) -> float:
    return abs((moment(text) - expected).total_seconds())


def check_due(batch: dict[str, Any]) -> None:
    """Check that the batch is due after 24 hours of calls and one of grace, by the database's clock."""
    assert off_by(batch["created_at"], datetime.now(UTC)) < OFF_SECONDS
    (submission,) = batch["submissions"]
    assert moment(batch["due_at"]) == moment(submission["release_at"]) + timedelta(hours=25)
    assert batch["counts"]["overdue"] == 0


def series(running: World, **query: str) -> list[dict[str, Any]]:
    answer = running.service.ask(f"/api/v1/summary?{urlencode({'batch_id': running.batch_id, **query})}")
    assert answer.status == 200, answer.body
    found: list[dict[str, Any]] = answer.json["series"]
    return found


def check_sums(running: World) -> None:
    """For every interval and time zone, the series adds up to the ended calls."""
    final = len(running.results.acknowledged())
    counts = running.service.batch(running.batch_id)["counts"]
    assert (counts["final"], counts["completed"], counts["overdue"]) == (final, final, 0)
    for zone in ("UTC", *ODD_ZONES, *{zone for zone, _, _ in CHANGES}):
        for interval in ("hour", "day"):
            points = series(running, interval=interval, time_zone=zone, **{"from": "2025-11-01T00:00:00Z"})
            assert sum(point["final"] for point in points) == final, (zone, interval)
            assert [point["at"] for point in points] == sorted({point["at"] for point in points})


def check_day(running: World, clock: Clock, zone: str, begins: str, hours: float) -> None:
    """Check results in the first, middle and last minutes of a day, and around it, by the machine's clock."""
    start, length = moment(begins), timedelta(hours=hours)
    quarter = timedelta(minutes=10)
    for at in (
        start - quarter,
        start + quarter,
        start + length / 2,
        start + length - quarter,
        start + length + quarter,
    ):
        clock.set_offset(at - datetime.now(UTC))
        assert running.results.post(1)[0].status == 200
    clock.set_offset(timedelta())
    running.check_all_are_stored_once()
    within = {"from": begins, "to": f"{start + length:%Y-%m-%dT%H:%M:%SZ}", "time_zone": zone}
    (day,) = series(running, interval="day", **within)
    assert (day["at"], day["final"]) == (begins, 3)
    by_hour = series(running, interval="hour", **within)
    assert sum(point["final"] for point in by_hour) == 3
    assert len(by_hour) == math.ceil(hours)


def test_clock_that_jumps_changes_no_outcome_and_no_due_time(server_dir: Path) -> None:
    clock = Clock(server_dir)
    zones: dict[str, Any] = {"TZ": ODD_ZONES[0], **clock.environment}
    with Postgres(server_dir) as postgres:
        postgres.execute(f"alter role receiver set timezone = '{ODD_ZONES[1]}'")
        with world(server_dir, postgres, **zones) as running:
            running.results.post(10)
            for by in (timedelta(days=1), timedelta(days=-1), timedelta(hours=-1), timedelta()):
                clock.set_offset(by)
                queued = running.queue()
                assert queued.status == 201, queued.body
                check_due(queued.json)
                running.results.post(10, at_once=2)
                # The stored time is from the machine's clock, so it is wrong. Nothing else is.
                received = running.service.ask("/api/v1/callbacks?limit=1").json["callbacks"][0]["received_at"]
                assert off_by(received, datetime.now(UTC) + by) < OFF_SECONDS
                eventually(running.service.is_ready, otherwise=lambda: running.service.ask("/readyz").body)
            assert {each.status for each in running.results.posted} == {200}
            assert worst(running.results.posted) < WAITED_SECONDS, "no wait is measured by a clock that jumps"
            running.check_all_are_stored_once()
            for zone, begins, hours in CHANGES:
                check_day(running, clock, zone, begins, hours)
            check_sums(running)
            check_due(running.service.batch(running.batch_id))
            running.check_verified()


def test_zones_of_processes_and_of_the_role_change_nothing(server_dir: Path) -> None:
    with Postgres(server_dir) as postgres, world(server_dir, postgres) as running:
        for zone, other in zip(ODD_ZONES, ODD_ZONES[1:] + ODD_ZONES[:1], strict=True):
            postgres.execute(
                f"alter role receiver set timezone = '{zone}'", f"alter database receiver set timezone = '{zone}'"
            )
            running.service.stop()
            running.service.environment["TZ"] = other
            running.service.start()
            running.results.post(10)
            running.check_all_are_stored_once()
            check_sums(running)
            queued = running.queue()
            assert queued.status == 201, queued.body
            check_due(queued.json)
        check_due(running.service.batch(running.batch_id))
        running.check_verified()
