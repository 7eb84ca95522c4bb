"""People are notified through apprise: one message for each type of event and hour, never with a phone number."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from receiver.changes.events import Events
from receiver.config import Config
from receiver.database.pool import Connection, Pool, open_pool
from receiver.database.worker_metrics import Measurements
from receiver.model import EVENT_TYPES, EventType
from receiver.relay import people, sending
from receiver.relay.endpoints import create_endpoint, disable_endpoint
from receiver.relay.people import People, set_people
from tests.acceptance.service import DEFAULT_RUNNER, Service, run_command
from tests.factories import deliver, differences, make_batch, phone_number, purge_batch, result_body
from tests.relay.endpoint_server import EndpointServer, Request, receiving
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.web.asking import SECRET

URL = "https://calls.example.com"


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "GATHER", timedelta())


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with closing(open_pool(database_url, max_size=3, name="test", wait_seconds=PATIENCE_SECONDS)) as pool:
        yield pool


@pytest.fixture
def phone() -> Iterator[EndpointServer]:
    """What a person reads."""
    with receiving() as server:
        yield server


def address(server: EndpointServer) -> str:
    return f"json://127.0.0.1:{server.port}/"


def read(server: EndpointServer) -> list[tuple[str, str]]:
    """Title and text of all messages."""
    return [(request.json["title"], request.json["message"]) for request in server.requests]


def happen(conn: Connection, event: EventType, batch_id: int, *subjects: int | None) -> None:
    events = Events()
    for subject in subjects or (None,):
        events.add(event, batch_id, subject)
    events.write(conn)
    conn.commit()


def ask_people(conn: Connection) -> None:
    set_people(conn, EVENT_TYPES)
    conn.commit()


def notifier(pool: Pool, *addresses: str) -> People:
    """As in a worker that notifies of everything."""
    config = Config(Path(), URL, 8000, notify_urls=addresses, notify_events=EVENT_TYPES)
    return People(pool, config, Measurements())


def an_hour_later(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    conn.execute("update upkeep set next_at = next_at - interval '61 minutes'")
    conn.commit()


def run_all(reader: People) -> None:
    while reader.step() == 0.0:
        pass


def test_one_message_names_all_batches_that_ended_with_their_figures(
    conn: Connection, pool: Pool, phone: EndpointServer
) -> None:
    ask_people(conn)
    batches = [make_batch(conn, [phone_number(0), phone_number(1)], name=f"Batch {n}") for n in range(2)]
    for batch_id in batches:
        deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(1), "failed"))
    conn.execute("delete from owed_event where event = 'call.result'")
    conn.execute("update endpoint_count set owed = 2")
    conn.commit()
    run_all(notifier(pool, address(phone)))
    figures = "rows 2, final 2, completed 1, failed 1"
    lines = [f"Batch {batch_id} (Batch {n}): {figures}. {URL}/batches/{batch_id}" for n, batch_id in enumerate(batches)]
    assert read(phone) == [("Batches ended: 2", "\n".join(lines))]
    assert conn.execute("select state, count(*) from delivery group by 1").fetchall() == [("delivered", 2)]
    assert differences(conn) == []


def test_there_is_one_message_for_each_type_and_hour(
    conn: Connection, pool: Pool, phone: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask_people(conn)
    batch_id = make_batch(conn)
    workers = [notifier(pool, address(phone)) for _ in range(2)]
    for _ in range(3):
        happen(conn, "batch.overdue", batch_id)
        happen(conn, "callback.unreadable", batch_id, 5, 6)
        for worker in workers:
            run_all(worker)
    assert sorted(title for title, _ in read(phone)) == ["Callbacks could not be read: 2", "Results are overdue: 1"]
    an_hour_later(conn, monkeypatch)
    run_all(notifier(pool, address(phone)))
    assert sorted(title for title, _ in read(phone)[2:]) == ["Callbacks could not be read: 4", "Results are overdue: 2"]


@pytest.mark.parametrize("event", [each for each in EVENT_TYPES if each != "endpoint.disabled"])
def test_no_message_contains_a_phone_number(
    conn: Connection, pool: Pool, phone: EndpointServer, event: EventType
) -> None:
    ask_people(conn)
    batch_id = make_batch(conn, name="Call +1 (617) 555-1234 or 6175551299\nnow", simulated=False)
    happen(conn, event, batch_id, *range(1, 13))
    purged = make_batch(conn)
    happen(conn, event, purged, 1)
    purge_batch(conn, purged)
    run_all(notifier(pool, address(phone)))
    ((title, text),) = read(phone)
    assert title.endswith(": 13") and "which was purged" in text
    assert not re.search(r"\d[\d ().-]{5,}\d", text.replace(f"{URL}/batches/", ""))
    assert "1234" not in text and "1299" not in text


def test_disabled_endpoint_is_named_by_its_host(conn: Connection, pool: Pool, phone: EndpointServer) -> None:
    ask_people(conn)
    made, _ = create_endpoint(conn, {"url": "https://example.com/hook?key=secret"}, (), by="Ana")
    disable_endpoint(conn, made.id, "gone")
    conn.commit()
    run_all(notifier(pool, address(phone)))
    assert read(phone) == [
        (
            "Endpoints were disabled: 1",
            f"Endpoint {made.id} (example.com): it answered 410. Its events wait until it is enabled.",
        )
    ]


def test_many_batches_are_counted_beyond_the_first(conn: Connection, pool: Pool, phone: EndpointServer) -> None:
    ask_people(conn)
    for _ in range(people.LINES + 3):
        happen(conn, "batch.canceled", make_batch(conn))
    run_all(notifier(pool, address(phone)))
    lines = read(phone)[0][1].splitlines()
    assert (len(lines), lines[-1]) == (people.LINES + 1, "And 3 more.")


def test_only_the_address_that_failed_gets_the_message_again(
    conn: Connection, pool: Pool, phone: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SCHEDULE", (timedelta(),) * 9)
    ask_people(conn)
    batch_id = make_batch(conn)
    happen(conn, "batch.ended", batch_id)
    answers = iter([500, 500, 200])

    def answer(_: Request) -> tuple[int, dict[str, str], bytes]:
        return next(answers), {}, b""

    with receiving() as flaky:
        flaky.answer = answer
        run_all(notifier(pool, address(phone), address(flaky)))
        assert (len(phone.requests), len(flaky.requests)) == (1, 3)
    ((attempts, state),) = conn.execute("select attempts, state from delivery").fetchall()
    assert ([each["error"] for each in attempts], state) == (
        ["Address 2 of NOTIFY_URLS failed."] * 2 + [None],
        "delivered",
    )
    assert differences(conn) == []


def test_failure_is_logged_without_the_address(
    conn: Connection, pool: Pool, phone: EndpointServer, caplog: pytest.LogCaptureFixture
) -> None:
    ask_people(conn)
    phone.answer = lambda _: (401, {}, b"")
    happen(conn, "batch.ended", make_batch(conn))
    reader = notifier(pool, f"json://ana:password@127.0.0.1:{phone.port}/token")
    reader.step()
    reader.step()
    (logged,) = [each.getMessage() for each in caplog.records if each.name == "receiver.relay.people"]
    assert logged.startswith("address 1 of NOTIFY_URLS (json) failed: Failed to send JSON")
    assert not any(secret in logged for secret in ("ana:", "password", "token", "127.0.0.1"))
    assert reader._measurements.take()["failure", "notify"] == 1


def test_message_that_always_fails_is_given_up_and_the_next_one_is_sent(
    conn: Connection, pool: Pool, phone: EndpointServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sending, "SCHEDULE", (timedelta(),) * 9)
    ask_people(conn)
    phone.answer = lambda _: (503, {}, b"")
    happen(conn, "batch.ended", make_batch(conn))
    reader = notifier(pool, address(phone))
    run_all(reader)
    assert len(phone.requests) == 10
    assert conn.execute("select state from delivery").fetchall() == [("given_up",)]
    assert conn.execute("select disabled_at, failing_since from endpoint").fetchall() == [(None, None)]
    phone.answer = lambda _: (200, {}, b"")
    happen(conn, "batch.ended", make_batch(conn))
    an_hour_later(conn, monkeypatch)
    run_all(reader)
    assert read(phone)[-1][0] == "Batches ended: 1"
    assert differences(conn) == []


def test_worker_makes_and_removes_the_queue_of_people(conn: Connection, pool: Pool) -> None:
    for addresses, events in ((("json://127.0.0.1:1/",), set(EVENT_TYPES[1:])), ((), None)):
        config = Config(Path(), URL, 8000, notify_urls=addresses)
        assert People(pool, config, Measurements()).step() > 0
        found = conn.execute("select events from endpoint").fetchone()
        assert (None if found is None else set(found[0])) == events


def test_queue_of_people_is_made_changed_and_removed(conn: Connection) -> None:
    set_people(conn, ["batch.ended"])
    set_people(conn, ["batch.ended", "batch.overdue"])
    assert conn.execute("select events from endpoint").fetchall() == [(["batch.ended", "batch.overdue"],)]
    happen(conn, "batch.overdue", make_batch(conn))
    set_people(conn, ())
    set_people(conn, ())
    conn.commit()
    for table in ("endpoint", "endpoint_count"):
        assert conn.execute(f"select count(*) from {table}".encode()).fetchall() == [(0,)]  # noqa: S608 one of two
    assert differences(conn) == []


@pytest.mark.long
def test_service_notifies_people_of_a_batch_that_ended(
    server_dir: Path, database_url: str, phone: EndpointServer
) -> None:
    variables = {"NOTIFY_URLS": f"{address(phone)} json://127.0.0.1:1/?password=hush", "TEST_RELAY_SPEED": "100"}
    contacts = server_dir / "contacts.csv"
    contacts.write_text("destination\n6175551234\n")
    variables |= {"DATABASE_URL": database_url, "SECRET_KEY": SECRET, "WEB_CONCURRENCY": "1"}
    with Service(server_dir, runner=DEFAULT_RUNNER, **variables) as service:
        run_command(
            "queue", str(contacts), "--application", "7", "--deployment", "3", "--name", "Reminders", "--watch",
            environment=service.environment,
        )  # fmt: skip
        eventually(lambda: any("(Reminders): rows 1, final 1" in text for _, text in read(phone)))
        assert "hush" not in service.log.read_text()


def test_command_sends_a_test_message(tmp_path: Path, phone: EndpointServer) -> None:
    environment = {"DATA_DIR": str(tmp_path), "PATH": "/usr/bin:/bin", "NOTIFY_URLS": address(phone)}
    done = run_command("notify", "--test", environment=environment)
    assert (done.returncode, done.stdout) == (0, "Address 1 (json): sent\n")
    assert [title for title, _ in read(phone)] == ["Test"]
    phone.answer = lambda _: (500, {}, b"")
    failed = run_command("notify", "--test", environment=environment)
    assert failed.returncode == 1 and failed.stdout.startswith("Address 1 (json): FAILED: Failed to send JSON POST")
    missing = run_command("notify", "--test", environment={**environment, "NOTIFY_URLS": ""})
    assert missing.returncode == 2 and "NOTIFY_URLS" in missing.stderr
    wrong = run_command(
        "notify", "--test", environment={**environment, "NOTIFY_URLS": "json://u:hush@x/ nothing://hush"}
    )
    assert wrong.returncode == 2 and "number 2" in wrong.stderr and "hush" not in wrong.stderr + wrong.stdout
