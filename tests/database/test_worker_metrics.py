"""The measurements of workers are added in the database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from receiver.database.pool import Connection, connect
from receiver.database.worker_metrics import BOUNDS_SECONDS, Measurements, add_measured, get_counts, get_times


def test_times_are_counted_in_the_bucket_of_the_next_bound(conn: Connection) -> None:
    measurements = Measurements()
    measurements.observe("settle", [-3.0, 0.05, 0.051, 1800.0, 1801.0])
    add_measured(conn, measurements.take())
    times = get_times(conn)["settle"]
    expected = dict.fromkeys((*BOUNDS_SECONDS, "more"), 0) | {0.05: 2, 0.1: 1, 1800.0: 1, "more": 1}
    assert times.counts == tuple(expected.values())
    assert times.sum_seconds == 0.05 + 0.051 + 1800 + 1801


def test_measurements_of_several_workers_are_added(database_url: str, conn: Connection) -> None:
    def work(number: int) -> None:
        with connect(database_url, name="test") as own:
            for _ in range(20):
                measurements = Measurements()
                measurements.count("send_result", "accepted", number)
                measurements.observe("settle", [0.1, 2.0])
                add_measured(own, measurements.take())
                own.commit()

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, (1, 2, 3, 4)))
    assert get_counts(conn, "send_result") == {"accepted": 200}
    assert sum(get_times(conn)["settle"].counts) == 160
    assert get_counts(conn, "failure") == {}


def test_measurements_that_were_not_written_are_written_the_next_time(conn: Connection) -> None:
    measurements = Measurements()
    measurements.count("failure", "settle")
    measurements.back(measurements.take())
    measurements.count("failure", "settle")
    add_measured(conn, measurements.take())
    add_measured(conn, measurements.take())
    assert get_counts(conn, "failure") == {"settle": 2}
