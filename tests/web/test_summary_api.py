"""`GET /api/v1/summary`: totals and series for dashboards."""

from __future__ import annotations

import time
from datetime import timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient

from receiver.database.pool import Connection
from receiver.results.erasure import erase
from receiver.results.retention import purge_batch
from tests.factories import NOON, deliver, journal, make_batch, make_callback, phone_number, result_body, settle_all
from tests.web.asking import faults_of, shape_of

COUNTS = ["rows", "skipped", "refused", "withdrawn", "pending", "overdue", "final"]
OUTCOMES = ["completed", "failed", "canceled", "rejected", "other"]


def receive(conn: Connection, count: int = 1, **parameters: Any) -> int:
    """A batch of two calls, some of which got their results at noon."""
    numbers = [phone_number(index) for index in range(2)]
    batch_id = make_batch(conn, numbers, **parameters)
    bodies = [result_body(number) for number in numbers[:count]]
    journal(conn, *(make_callback(batch_id, body, received_at=NOON) for body in bodies))
    settle_all(conn)
    return batch_id


def test_shape(reader: FlaskClient, conn: Connection) -> None:
    receive(conn)
    answer = reader.get("/api/v1/summary")
    assert answer.status_code == 200
    assert shape_of(answer.json) == {
        "totals": dict.fromkeys([*COUNTS, *OUTCOMES, "attempts", "duration_seconds"], "int"),
        "series": [{"at": "time", **dict.fromkeys(["final", *OUTCOMES, "attempts", "duration_seconds"], "int")}],
    }


def test_ten_thousand_points_are_fast(reader: FlaskClient, conn: Connection) -> None:
    receive(conn, 2)
    path = "/api/v1/summary?interval=hour&from=2026-01-01T00:00:00Z&to=2027-02-21T16:00:00Z"
    for headers in ({}, {"Accept-Encoding": "gzip"}):
        costs = []
        for _ in range(5):
            began = time.thread_time()
            answer = reader.get(path, headers=headers)
            costs.append(time.thread_time() - began)
            assert answer.status_code == 200
        assert min(costs) < 0.05, costs  # CPU time of this thread, so other processes do not matter
    series = reader.get(path).get_json()["series"]
    assert len(series) == 10_000
    assert [point["at"] for point in series if point["final"]] == ["2026-03-01T12:00:00Z"]
    assert reader.get(path.replace("T16", "T17")).status_code == 422


def test_summary_without_batches_is_zeros_and_an_empty_series(reader: FlaskClient) -> None:
    content = reader.get("/api/v1/summary").json
    assert content is not None
    assert set(content["totals"].values()) == {0}
    assert content["series"] == []


def test_series_of_a_time_zone(reader: FlaskClient, conn: Connection) -> None:
    receive(conn)
    for query, begins in {
        "": "2026-03-01T00:00:00Z",
        "time_zone=Asia/Tokyo": "2026-02-28T15:00:00Z",
        "time_zone=Asia/Kolkata&interval=hour": "2026-03-01T11:30:00Z",
        "interval=hour": "2026-03-01T12:00:00Z",
        "interval=hour&from=2026-03-01T12:00:00Z&to=2026-03-01T12:30:00Z": "2026-03-01T12:00:00Z",
        "interval=hour&from=1772366400&to=1772368200": "2026-03-01T12:00:00Z",
        "from=2026-03-01T13:00:00%2B01:00&to=2026-03-01T14:00:00%2B01:00": "2026-03-01T00:00:00Z",
    }.items():
        content = reader.get(f"/api/v1/summary?{query}").json
        assert content is not None
        assert [(point["at"], point["final"]) for point in content["series"]] == [(begins, 1)], query


def test_totals_do_not_depend_on_the_period_of_the_series(reader: FlaskClient, conn: Connection) -> None:
    receive(conn)
    content = reader.get("/api/v1/summary?from=2026-04-01T00:00:00Z&to=2026-04-02T00:00:00Z").json
    assert content is not None
    assert [point["final"] for point in content["series"]] == [0]
    assert (content["totals"]["rows"], content["totals"]["pending"], content["totals"]["final"]) == (2, 1, 1)


def test_filters_combine(reader: FlaskClient, conn: Connection) -> None:
    first = receive(conn, application_id=1, deployment_id=1, labels={"city": "K:ln", "team": "a"})
    receive(conn, 2, application_id=1, deployment_id=2)

    def finals(query: str) -> tuple[int, int]:
        content = reader.get(f"/api/v1/summary?{query}").json
        assert content is not None
        return content["totals"]["final"], sum(point["final"] for point in content["series"])

    assert finals("") == finals("application_id=1") == (3, 3)
    assert finals("application_id=1&deployment_id=2") == (2, 2)
    assert finals(f"batch_id={first}") == finals("deployment_id=1") == finals("label=city:K:ln") == (1, 1)
    assert finals("label=city:K") == finals("label=team:a&deployment_id=2") == (0, 0)
    assert faults_of(reader.get("/api/v1/summary?label=city")) == [("label", "invalid")]
    assert finals(f"batch_id={first}&deployment_id=2") == (0, 0)


def test_totals_balance_while_results_come_in(reader: FlaskClient, conn: Connection) -> None:
    numbers = [phone_number(index) for index in range(20)]
    batch_id = make_batch(conn, numbers)
    for done, number in enumerate(numbers, 1):
        deliver(conn, batch_id, result_body(number, "failed" if done % 2 else "completed"), b"nonsense")
        content = reader.get("/api/v1/summary").json
        assert content is not None
        totals = content["totals"]
        assert totals["rows"] == sum(totals[name] for name in COUNTS[1:]) == 20
        assert totals["final"] == sum(totals[name] for name in OUTCOMES) == done


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("interval=week", ("interval", "invalid")),
        ("time_zone=Mars/Olympus", ("time_zone", "invalid")),
        ("time_zone=%00", ("time_zone", "invalid")),
        ("time_zone=" + "x" * 101, ("time_zone", "invalid")),
        ("from=yesterday", ("from", "invalid")),
        ("to=2026-03-01", ("to", "invalid")),
        ("from_=0", ("from_", "unknown_field")),
        ("from=2026-03-01T12:00:00Z&to=2026-03-01T11:00:00Z", ("to", "out_of_order")),
        ("from=0001-01-01T00:00:00Z", ("from", "out_of_range")),
        ("from=0&to=2026-01-01T00:00:00Z&interval=hour", ("from", "range_too_long")),
        ("batch_id=0", ("batch_id", "out_of_range")),
    ],
)
def test_wrong_parameters_are_faults(reader: FlaskClient, query: str, fault: tuple[str, str]) -> None:
    assert faults_of(reader.get(f"/api/v1/summary?{query}")) == [fault]


def breakdown(reader: FlaskClient, query: str) -> dict[str | None, tuple[int, int, float | None]]:
    """(results, completed ones, their share) of the values that have results."""
    rows = reader.get(f"/api/v1/summary/breakdown?{query}").get_json()["rows"]
    assert all(row["final"] == sum(row[outcome] for outcome in OUTCOMES) for row in rows)
    return {row["value"]: (row["final"], row["completed"], row["completed_share"]) for row in rows if row["final"]}


@pytest.fixture
def broken_down(conn: Connection) -> int:
    """A batch: two calls at noon, one of them failed; one a day and an hour later; one of another country; and one that
    has not ended."""
    numbers: list[int | str] = [phone_number(0), phone_number(1), "+12125550100", "+442079460018", phone_number(4)]
    batch_id = make_batch(conn, numbers, labels={"team": "a"})
    results = [("completed", "1", NOON), ("failed", "3", NOON), ("completed", "1", NOON + timedelta(hours=25))]
    bodies = [
        make_callback(batch_id, result_body(number, status, attempts=attempts), received_at=at)
        for number, (status, attempts, at) in zip(
            numbers, [*results, ("rejected", None, NOON), ("dialing", "1", NOON)], strict=True
        )
    ]
    journal(conn, *bodies)
    settle_all(conn)
    return batch_id


def test_breakdown_by_hour_weekday_attempt_and_area(reader: FlaskClient, broken_down: int) -> None:
    assert breakdown(reader, "by=hour_of_day") == {"12": (3, 1, 0.3333), "13": (1, 1, 1.0)}
    assert breakdown(reader, "by=hour_of_day&time_zone=Asia/Kolkata") == {"17": (3, 1, 0.3333), "18": (1, 1, 1.0)}
    assert breakdown(reader, "by=weekday") == {"sun": (3, 1, 0.3333), "mon": (1, 1, 1.0)}
    assert breakdown(reader, "by=weekday&time_zone=Pacific/Auckland") == {"mon": (3, 1, 0.3333), "tue": (1, 1, 1.0)}
    assert breakdown(reader, "by=attempt") == {"1": (2, 2, 1.0), "3": (1, 0, 0.0), None: (1, 0, 0.0)}
    areas = {"+1212": (1, 1, 1.0), "+1617": (2, 1, 0.5), "+44": (1, 0, 0.0)}
    assert breakdown(reader, "by=area") == areas
    values = [
        [row["value"] for row in reader.get(f"/api/v1/summary/breakdown?by={by}").get_json()["rows"]]
        for by in ("hour_of_day", "weekday", "attempt")
    ]
    assert values == [
        [f"{hour:02}" for hour in range(24)],
        ["mon", "tue", "wed", "thu", "fri", "sat", "sun"],
        ["1", "3", None],
    ]


def test_breakdown_takes_the_filters_of_the_summary(reader: FlaskClient, conn: Connection, broken_down: int) -> None:
    receive(conn, application_id=9)
    for by in ("hour_of_day", "weekday", "attempt", "area"):
        for query, results in {
            "": 5,
            "label=team:a": 4,
            "application_id=9": 1,
            f"batch_id={broken_down}": 4,
            # Whole quarter hours, as in the series.
            "from=2026-03-01T12:14:59Z": 5,
            "from=2026-03-01T12:15:00Z": 1,
            "to=2026-03-01T12:00:00Z": 0,
            "to=2026-03-01T12:00:01Z": 4,
            "from=2026-03-02T13:00:00Z&to=2026-03-02T13:15:00Z": 1,
        }.items():
            found = breakdown(reader, f"by={by}&{query}")
            assert sum(final for final, *_ in found.values()) == results, (by, query)
    assert faults_of(reader.get("/api/v1/summary/breakdown")) == [("by", "required")]
    assert faults_of(reader.get("/api/v1/summary/breakdown?by=area&interval=day")) == [("interval", "unknown_field")]


def test_breakdown_leaves_out_a_batch_that_is_being_purged(
    reader: FlaskClient, conn: Connection, broken_down: int
) -> None:
    next(iter(purge_batch(conn, broken_down, by="test", force=True)))  # its results are deleted later
    conn.commit()
    assert conn.execute("select count(*) from result").fetchone() == (5,)
    for by in ("hour_of_day", "weekday", "attempt", "area"):
        assert breakdown(reader, f"by={by}") == {}, by


def test_area_of_results_that_an_earlier_release_wrote_and_of_erased_numbers(
    reader: FlaskClient, conn: Connection, broken_down: int
) -> None:
    before = breakdown(reader, "by=area")
    conn.execute("update result set area = null")  # earlier releases do not write it
    conn.commit()
    assert breakdown(reader, "by=area") == before
    conn.execute("update result set area = 1617 where row = 1")
    conn.commit()
    for _ in erase(conn, phone_number(0), by="test"):
        conn.commit()
    assert breakdown(reader, "by=area") == before | {"+1617": (1, 0, 0.0), None: (1, 1, 1.0)}
