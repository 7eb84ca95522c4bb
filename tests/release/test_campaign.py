"""A campaign of 10,000 calls in twelve zones at 600 a minute: paused, resumed, a machine killed, canceled half-way, and
its deployment canceled. Time is compressed: the pace is made to believe that three seconds pass in a tenth of one.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from receiver.database.pool import Connection, connect
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from receiver.release.control import cancel_batch, pause_batch, resume_batch
from receiver.release.deployment_cancel import get_cancel, request_cancel
from receiver.release.resolution import resolve_submission
from receiver.simulator.server import Simulator
from receiver.simulator.settings import Settings
from receiver.summary.batches import get_batch
from tests.acceptance.machines import Machine
from tests.factories import differences
from tests.release.test_schedule import is_open, local_dates
from tests.simulator.receiving import ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

ROWS = 10_000
ZONES = [
    "America/New_York", "America/Chicago", "America/Denver", "America/Los_Angeles", "America/Anchorage",
    "Pacific/Honolulu", "Europe/London", "Europe/Berlin", "Asia/Kolkata", "Asia/Tokyo", "Australia/Sydney",
    "America/St_Johns",
]  # fmt: skip
SECRET = "a secret that is long enough"


@contextmanager
def compressed(database_url: str) -> Iterator[None]:
    over = threading.Event()

    def tick() -> None:
        with closing(connect(database_url, name="clock", autocommit=True)) as conn:
            while not over.wait(0.1):
                step = timedelta(seconds=3)
                conn.execute(
                    "update batch set next_release_at = next_release_at - %s, last_release_at = last_release_at - %s",
                    (step, step),
                )
                conn.execute(
                    "update submission set released_at = released_at - %s where released_at is not null", (step,)
                )

    clock = threading.Thread(target=tick)
    clock.start()
    try:
        yield
    finally:
        over.set()
        clock.join()


def released(conn: Connection, batch_id: int) -> int:
    row = conn.execute(
        "select coalesce(sum(calls), 0) from submission where batch_id = %s and tries > 0", (batch_id,)
    ).fetchone()
    conn.commit()
    assert row is not None
    return int(row[0])


@pytest.mark.long
def test_whole_campaign(conn: Connection, database_url: str, tmp_path: Path) -> None:
    csv = "destination,zone\n" + "".join(f"+1617{5550000 + row},{ZONES[row % 12]}\n" for row in range(ROWS))
    given = BatchParameters(7, 3, calls_per_minute=600, calling_hours=(8 * 60, 21 * 60), time_zone_column="zone")
    batch_id = accept(conn, io.BytesIO(csv.encode()), given, Limits(10_000, 3600, True)).batch_id
    conn.commit()
    with Simulator(Settings(check=False, speed=3600)) as simulator:
        environment = {
            "DATABASE_URL": database_url, "SECRET_KEY": SECRET, "PLUM_URL": simulator.url, "PLUM_USER": "simulator",
            "PLUM_KEY": "simulator", "PLUM_SIMULATED": "1",
        }  # fmt: skip
        stays = Machine(tmp_path / "stays", works=True, **environment)
        stays.environment["PUBLIC_URL"] = stays.url
        lost = Machine(tmp_path / "lost", works=True, **environment, PUBLIC_URL=stays.url)
        with compressed(database_url), stays:
            with lost:
                eventually(lambda: released(conn, batch_id) >= 300)
                pause_batch(conn, batch_id, by="Ana")
                conn.commit()
                paused = released(conn, batch_id)
                eventually(lambda: conn.execute("select from submission where state = 'sending'").rowcount == 0)
                assert released(conn, batch_id) == paused
                assert get_batch(conn, batch_id).phase == "paused"
                resume_batch(conn, batch_id, by="Ana")
                conn.commit()
                eventually(lambda: released(conn, batch_id) >= paused + 300)
                lost.kill()
            eventually(lambda: released(conn, batch_id) >= 1500)
            before = get_batch(conn, batch_id).counts
            canceled = cancel_batch(conn, batch_id, by="Ana", note="enough")
            conn.commit()
            sent = released(conn, batch_id)
            assert canceled.withdrawn == ROWS - sent and before["withdrawn"] == 0
            cancel_id, _ = request_cancel(conn, 7, 3, by="Ana", note="enough")
            conn.commit()
            eventually(lambda: _is_over(conn, cancel_id))
            assert get_cancel(conn, cancel_id).state == "accepted"
            eventually(lambda: _settled(conn, batch_id), 240, lambda: _counts(conn, batch_id))
            queued = ask(f"{simulator.url}/simulator/ledger").content["requests"]
            for number in _in_doubt(conn, batch_id):  # the killed machine had not sent them yet
                assert not [each for each in queued if f"/{batch_id}-{number}." in each["result_url"]]
                resolve_submission(conn, batch_id, number, queued=False, note="not in the ledger", by="Ana")
                conn.commit()
            assert _counts(conn, batch_id)["pending"] == 0
    assert {each["times_queued"] for each in queued} == {1}
    counts = _counts(conn, batch_id)
    assert counts["withdrawn"] + counts["final"] == ROWS
    assert differences(conn) == []
    windows = conn.execute(
        "select time_zones, request_start_at, request_end_at from submission where tries > 0"
    ).fetchall()
    assert len(windows) >= 50
    for zones, start, end in windows:
        last = end - timedelta(seconds=1)
        assert local_dates(zones, start) == local_dates(zones, last)
        for moment in (start, last):
            assert 8 <= moment.astimezone(ZoneInfo(zones[0])).hour < 21
        assert is_open(given.hours, zones, start)  # type: ignore[arg-type]


def _is_over(conn: Connection, cancel_id: int) -> bool:
    conn.commit()
    return get_cancel(conn, cancel_id).is_over


def _settled(conn: Connection, batch_id: int) -> bool:
    """Whether no call is pending, except in submissions that the provider may not have."""
    row = conn.execute(
        "select coalesce(sum(calls), 0) from submission where batch_id = %s and state = 'unknown'", (batch_id,)
    ).fetchone()
    assert row is not None
    return _counts(conn, batch_id)["pending"] == int(row[0])


def _in_doubt(conn: Connection, batch_id: int) -> list[int]:
    found = conn.execute(
        "select submission_no from submission where batch_id = %s and state = 'unknown'", (batch_id,)
    ).fetchall()
    return [number for (number,) in found]


def _counts(conn: Connection, batch_id: int) -> dict[str, int]:
    conn.commit()
    return get_batch(conn, batch_id).counts
