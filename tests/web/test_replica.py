"""A read replica, a real streaming standby: which reads it answers, its lag, and when it is not used."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from receiver.config import Config
from receiver.counts import READS
from receiver.database.api_keys import create_key
from receiver.database.pool import PROVEN_SECONDS, Connection
from receiver.database.replica import CONNECTION_WAIT_SECONDS, Replica, Source
from receiver.queueing import stored_rows
from receiver.web.services import Services
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ask
from tests.changes.owed import make_endpoint
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.replication import (
    LONG,
    await_fit,
    catch_up,
    patient_replica,
    resume_replay,
    stop_replay,
)
from tests.waiting import eventually
from tests.web.browsing import visitor
from tests.web.conftest import patient_app
from tests.web.gunicorn import gunicorn_process
from tests.web.test_metrics import Samples
from tests.web.test_metrics import ask as ask_metrics

pytestmark = pytest.mark.long


@pytest.fixture
def database_url(primary: Postgres) -> str:
    """Its own server, because no standby can stream from the test run's server."""
    return primary.url


@dataclass(frozen=True, slots=True)
class Serving:
    """The app with both databases, and a client that may read everything."""

    app: Flask
    client: FlaskClient

    @property
    def replica(self) -> Replica:
        services: Services = self.app.extensions["receiver"]
        assert services.replica is not None
        return services.replica

    def get(self, path: str, **headers: str) -> TestResponse:
        given = {name.replace("_", "-"): text for name, text in headers.items()}
        answer = self.client.get(path, headers=given, buffered=True)
        assert answer.status_code in (200, 304, 404), (path, answer.text)
        return answer

    def read_from(self, path: str = "/api/v1/batches") -> str | None:
        return self.get(path).headers.get("Read-From")

    def await_replica(self) -> None:
        await_fit(self.replica)

    def lose_patience(self) -> None:
        """Before the standby stops: use the normal time-out for connections to it."""
        self.replica.pool.timeout = CONNECTION_WAIT_SECONDS

    def metrics(self) -> Samples:
        return ask_metrics(self.app.test_client())


@contextmanager
def serving(
    config: Config, conn: Connection, replica_url: str | None, max_lag_seconds: int = LONG, *, patient: bool = True
) -> Iterator[Serving]:
    """`patient`: a working standby is not given up when the machine is busy."""
    database_url = config.database_url
    assert database_url is not None
    config = replace(config, database_replica_url=replica_url, replica_max_lag_seconds=max_lag_seconds)
    with patient_replica() if patient else nullcontext():
        with patient_app(config, database_url) as app:
            key = create_key(conn, f"reader of {config.data_dir}", "admin")
            conn.commit()
            client = app.test_client()
            client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
            held = Serving(app, client)
            if replica_url is not None:
                held.await_replica()
            yield held


def with_results(conn: Connection, name: str = "before") -> int:
    """A batch of two calls, of which one has ended."""
    batch_id = make_batch(conn, [phone_number(0), phone_number(1)], name=name)
    deliver(conn, batch_id, result_body(phone_number(0)))
    return batch_id


def listed(answer: TestResponse) -> set[int]:
    return {batch["id"] for batch in answer.json["batches"]}  # type: ignore[index]


def test_lists_sums_files_and_pages_are_read_from_the_replica(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    old = with_results(conn)
    catch_up(primary, standby)
    with serving(config, conn, standby.url) as held:
        stop_replay(standby)
        new = make_batch(conn, [phone_number(1)], name="after")
        deliver(conn, old, result_body(phone_number(1)))
        person = visitor(held.app, conn, "read", f"person of {config.data_dir}")

        answer = held.get("/api/v1/batches")
        assert listed(answer) >= {old} and new not in listed(answer)
        assert answer.headers["Read-From"] == "replica"
        assert 0 <= float(answer.headers["Replica-Lag"]) < LONG
        calls = held.get(f"/api/v1/batches/{old}/calls")
        assert [call["state"] for call in calls.json["calls"]] == ["final", "pending"]  # type: ignore[index]
        assert held.get(f"/api/v1/batches/{old}/calls.csv").text.count(",final,") == 1

        for path in (
            "/api/v1/summary", "/api/v1/callbacks", "/api/v1/calls?phone_number=6175550001",
            f"/api/v1/batches/{old}/calls.ndjson", f"/api/v1/batches/{old}/skipped.csv",
        ):  # fmt: skip
            assert held.read_from(path) == "replica", path
        for path in (
            "/", "/batches", "/callbacks", f"/batches/{old}", f"/batches/{old}/live", f"/batches/{old}/attempts",
            f"/batches/{old}/submissions", f"/batches/{old}/calls.csv", f"/batches/{old}/calls.ndjson",
        ):  # fmt: skip
            shown = person.client.get(path)
            assert shown.status_code in (200, 286) and shown.headers["Read-From"] == "replica", path


def test_single_objects_are_read_from_the_primary(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    old = with_results(conn)
    catch_up(primary, standby)
    with serving(config, conn, standby.url) as held:
        stop_replay(standby)
        deliver(conn, old, result_body(phone_number(1)))
        batch = held.get(f"/api/v1/batches/{old}")
        assert batch.json["counts"]["final"] == 2 and "Read-From" not in batch.headers  # type: ignore[index]
        call = held.get(f"/api/v1/batches/{old}/calls/2")
        assert call.json["state"] == "final" and "Read-From" not in call.headers  # type: ignore[index]
        newest = call.json["callbacks"][0]["id"]  # type: ignore[index]
        assert held.get(f"/api/v1/callbacks/{newest}").status_code == 200


def test_object_missing_at_the_replica_is_read_from_the_primary(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    with serving(config, conn, standby.url) as held:
        stop_replay(standby)
        before = held.metrics()
        new = make_batch(conn, [phone_number(0)], name="just queued")
        for path in (f"/api/v1/batches/{new}/calls", f"/api/v1/batches/{new}/calls.csv"):
            answer = held.get(path)
            assert (answer.status_code, answer.headers["Read-From"]) == (200, "primary")
            assert "Replica-Lag" not in answer.headers
        nowhere = held.get("/api/v1/batches/999999999/calls")
        assert (nowhere.status_code, nowhere.headers["Read-From"]) == (404, "primary")
        grown = "receiver_web_replica_reads_total", "not_found"
        assert held.metrics()[grown] - before[grown] == 3


def test_lagging_replica_is_not_used_until_it_has_caught_up(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    with serving(config, conn, standby.url, max_lag_seconds=2) as held:
        eventually(lambda: held.read_from() == "replica")
        stop_replay(standby)
        new = make_batch(conn, [phone_number(0)], name="not shown yet")
        eventually(lambda: held.read_from() == "primary")
        assert new in listed(held.get("/api/v1/batches"))
        samples = held.metrics()
        assert samples["receiver_web_replica_usable", ""] == 0
        assert samples["receiver_web_replica_lag_seconds", ""] > 2
        assert samples["receiver_web_replica_reads_total", "behind"] > 0

        resume_replay(standby)
        eventually(lambda: held.read_from() == "replica")
        assert new in listed(held.get("/api/v1/batches"))
        eventually(lambda: held.metrics()["receiver_web_replica_usable", ""] == 1)


def test_export_is_complete_if_the_replica_dies_during_it(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored_rows, "BLOCK_ROWS", 500)
    batch_id = make_batch(conn, [phone_number(n) for n in range(1300)])
    catch_up(primary, standby)
    with serving(config, conn, standby.url) as held:
        before = held.metrics()
        answer = held.client.get(f"/api/v1/batches/{batch_id}/calls.ndjson", buffered=False)
        with closing(answer):
            assert answer.headers["Read-From"] == "replica"
            blocks = answer.iter_encoded()
            content = next(blocks)
            held.lose_patience()
            standby.stop("immediate")
            content += b"".join(blocks)
        rows = [line.partition(b'"row":')[2].partition(b",")[0] for line in content.splitlines()]
        assert rows == [str(row).encode() for row in range(1, 1301)]
        assert held.read_from() == "primary"
        samples = held.metrics()
        assert samples["receiver_web_replica_usable", ""] == 0
        grown = {
            label: number - before[name, label]
            for (name, label), number in samples.items()
            if name == "receiver_web_replica_reads_total" and number != before[name, label]
        }
        assert set(grown) <= {"interrupted", "unusable"} and sum(grown.values()) == 2
        standby.start()
        eventually(lambda: held.read_from() == "replica")


def test_hanging_replica_causes_no_wait(config: Config, conn: Connection, standby: Postgres) -> None:
    with serving(config, conn, standby.url, patient=False) as held:
        eventually(lambda: held.read_from() == "replica")
        time.sleep(2 * PROVEN_SECONDS)  # otherwise the next read would not test its connection, and wait a minute
        standby.freeze()
        try:
            eventually(lambda: held.read_from() == "primary")
            eventually(lambda: held.replica.lag_seconds is None)
        finally:
            standby.thaw()
        eventually(lambda: held.read_from() == "replica")


def test_promoted_replica_is_not_used(config: Config, conn: Connection, standby: Postgres) -> None:
    make_batch(conn, [phone_number(0)], name="here")
    with serving(config, conn, standby.url) as held:
        standby.promote()
        eventually(lambda: held.replica.fitness() == "unusable")
        standby.execute("update batch set name = 'somewhere else'")
        for _ in range(20):
            answer = held.get("/api/v1/batches")
            assert answer.headers["Read-From"] == "primary"
            assert "somewhere else" not in answer.text


def test_browser_sees_its_own_change_at_once(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    with serving(config, conn, standby.url) as held:
        changing = visitor(held.app, conn, "read", f"changing {config.data_dir}")
        looking = visitor(held.app, conn, "read", f"looking {config.data_dir}")
        assert changing.client.get("/batches").headers["Read-From"] == "replica"
        assert changing.post("/numbers", form_at="/batches", whole="1", next="/batches").status_code == 303
        assert changing.client.get("/batches").headers["Read-From"] == "primary"
        assert looking.client.get("/batches").headers["Read-From"] == "replica"


def test_etag_is_the_same_from_replica_and_primary(
    config: Config, conn: Connection, primary: Postgres, standby: Postgres
) -> None:
    with_results(conn)
    catch_up(primary, standby)
    with serving(config, conn, standby.url) as held:
        tags = {}
        for path in ("/api/v1/batches", "/api/v1/summary"):
            answer = held.get(path)
            assert answer.headers["Read-From"] == "replica"
            tags[path] = answer.headers["ETag"]
        held.lose_patience()
        standby.stop("immediate")
        for path, tag in tags.items():
            again = held.get(path, If_None_Match=tag)
            assert (again.status_code, again.headers["Read-From"]) == (304, "primary")
            assert again.headers["ETag"] == tag


def test_description_lists_the_answers_with_replica_headers(
    config: Config, conn: Connection, standby: Postgres
) -> None:
    batch_id, endpoint_id = with_results(conn), make_endpoint(conn)
    with serving(config, conn, standby.url) as held:
        callback_id = held.get(f"/api/v1/batches/{batch_id}/calls/1").json["callbacks"][0]["id"]  # type: ignore[index]
        ids = {"batch_id": batch_id, "row": 1, "callback_id": callback_id, "endpoint_id": endpoint_id, "job_id": 1}
        description: dict[str, Any] = held.get("/openapi.json").json or {}
        looked = 0
        for path, item in description["paths"].items():
            if not path.startswith("/api/") or "get" not in item:
                continue
            address = path.format_map(ids)
            required = {"/api/v1/calls": "?phone_number=6175550000", "/api/v1/summary/breakdown": "?by=attempt"}
            answer = held.get(address + required.get(address, ""))
            described = item["get"]["responses"]["200"].get("headers", {})
            assert ("Read-From" in answer.headers) == ("Read-From" in described) == ("Replica-Lag" in described), path
            looked += 1
        assert looked >= 11


def test_without_a_replica_no_header_is_added(app: Flask, reader: FlaskClient) -> None:
    answer = reader.get("/api/v1/batches")
    assert answer.status_code == 200
    assert {"Read-From", "Replica-Lag"} & {name for name, _ in answer.headers} == set()
    assert not [name for name, _ in ask_metrics(reader) if "replica" in name]


def test_gunicorn_reads_from_the_replica(
    primary: Postgres, standby: Postgres, conn: Connection, tmp_path: Path
) -> None:
    key = create_key(conn, "of gunicorn", "read")
    conn.commit()
    with gunicorn_process(tmp_path, primary.url, DATABASE_REPLICA_URL=standby.url) as (_, port):
        address = f"http://127.0.0.1:{port}/api/v1/batches"

        def read_from() -> str | None:
            answer = ask(address, headers={"Authorization": f"Bearer {key}"})
            assert answer.status == 200
            return answer.headers.get("Read-From")

        eventually(lambda: read_from() == "replica")
        standby.stop("immediate")
        eventually(lambda: read_from() == "primary")


def test_reads_are_counted_by_their_source() -> None:
    assert READS == get_args(Source)
