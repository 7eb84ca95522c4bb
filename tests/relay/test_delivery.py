"""Deliveries by a worker: what is sent, sent again, given up, and counted."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from ipaddress import ip_network
from typing import Any

import pytest

from receiver.changes.events import Events
from receiver.database.pool import Connection, Pool, connect, open_pool
from receiver.database.worker_metrics import Measurements
from receiver.model import EventType
from receiver.relay import bodies, delivery, sending
from receiver.relay import endpoints as endpoints_module
from receiver.relay.deliveries import Delivery, DeliveryFilter, list_deliveries, retry_deliveries
from receiver.relay.delivery import Relay
from receiver.relay.endpoints import Endpoint, change_endpoint, create_endpoint, delete_endpoint, get_endpoint
from receiver.relay.queue import Owed, list_targets
from receiver.summary.call_json import batch_json, call_json
from receiver.summary.calls import get_call
from receiver.web.schemas import Batch, Submission
from tests.factories import deliver, make_batch, phone_number, purge_batch, read_batch, result_body
from tests.relay.endpoint_server import EndpointServer, Request, receiving
from tests.waiting import eventually

LOCAL = (ip_network("127.0.0.0/8"),)


@pytest.fixture(autouse=True)
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """All waits between attempts are over at once."""
    monkeypatch.setattr(sending, "SCHEDULE", (timedelta(milliseconds=1),) * 9)
    monkeypatch.setattr(delivery, "ERROR_SECONDS", 0.01)


@contextlib.contextmanager
def relaying(database_url: str, relays: int = 1) -> Iterator[list[Relay]]:
    """Relays as in so many workers, until the end of the block."""
    stop, made, threads = threading.Event(), list[Relay](), list[threading.Thread]()
    pools: list[Pool] = []
    for _ in range(relays):
        pools.append(open_pool(database_url, max_size=4, name="test relay", wait_seconds=60))

        def lock_connection() -> Connection:
            return connect(database_url, name="test relay", autocommit=True)

        made.append(Relay(pools[-1], lock_connection, LOCAL, Measurements(), stop))
        threads.append(threading.Thread(target=made[-1].run))
        threads[-1].start()
    try:
        yield made
    finally:
        stop.set()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()
        for pool in pools:
            pool.close()


def endpoint(conn: Connection, server: EndpointServer, **values: Any) -> tuple[int, str]:
    """An endpoint at this server: its id and its secret."""
    made, secret = create_endpoint(conn, {"url": server.url, **values}, LOCAL, by="test")
    conn.commit()
    return made.id, secret


def owe(conn: Connection, event: EventType, *subjects: tuple[int, int | None]) -> None:
    events = Events()
    for batch_id, subject in subjects:
        events.add(event, batch_id, subject)
    events.write(conn)
    conn.commit()


def owe_results(conn: Connection, calls: int) -> int:
    """A batch of so many calls, each with an event. Returns its id."""
    batch_id = make_batch(conn, map(phone_number, range(calls)))
    owe(conn, "call.result", *((batch_id, row) for row in range(1, calls + 1)))
    return batch_id


def read(conn: Connection, endpoint_id: int) -> Endpoint:
    found = get_endpoint(conn, endpoint_id)
    conn.commit()
    return found


def deliveries(conn: Connection, endpoint_id: int) -> list[Delivery]:
    found = list_deliveries(conn, endpoint_id, 1000, DeliveryFilter())
    conn.commit()
    return found


def settled(conn: Connection, endpoint_id: int) -> None:
    """Wait until nothing waits."""
    eventually(lambda: read(conn, endpoint_id).waiting == 0, otherwise=lambda: read(conn, endpoint_id))


def test_every_event_is_delivered_signed_and_counted(conn: Connection, database_url: str) -> None:
    with receiving() as server, relaying(database_url):
        endpoint_id, secret = endpoint(conn, server)
        batch_id = owe_results(conn, 100)
        settled(conn, endpoint_id)
    assert sorted(request.verified(secret)["data"]["row"] for request in server.requests) == list(range(1, 101))
    assert len(set(server.ids)) == 100
    assert read(conn, endpoint_id).events_owed == {"delivered": 100, "waiting": 0, "given_up": 0}
    [newest, *_] = deliveries(conn, endpoint_id)
    assert (newest.state, newest.batch_id, newest.row) == ("delivered", batch_id, 100)
    assert [(each["status"], each["error"]) for each in newest.attempts] == [(200, None)]


def test_bodies_show_what_the_api_shows_now(conn: Connection, database_url: str) -> None:
    numbers = [phone_number(0), phone_number(1)]
    batch_id = make_batch(conn, numbers, external_id="crm-7", labels={"submissions_json": "null", "a": "ü"})
    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        owe(conn, "call.result", (batch_id, 1), (batch_id, 2))
        deliver(conn, batch_id, result_body(numbers[0]))
        [unreadable] = deliver(conn, batch_id, b"{}")
        owe(conn, "batch.overdue", (batch_id, None))
        owe(conn, "submission.unknown", (batch_id, 1))
        owe(conn, "callback.unreadable", (batch_id, unreadable))
        with relaying(database_url):
            settled(conn, endpoint_id)
    got = {(each.json["type"], each.json["data"].get("row")): each.json for each in server.requests}
    for row in (1, 2):
        assert got["call.result", row]["data"] == json.loads(call_json(get_call(conn, batch_id, row)))
    assert got["call.result", 1]["data"]["outcome"] == "completed"
    batch = read_batch(conn, batch_id)
    assert got["batch.overdue", None]["data"] == json.loads(batch_json(batch))
    submission = {**json.loads(batch.submissions_json)[0], "batch_id": batch_id}
    assert got["submission.unknown", None]["data"] == submission
    callback = got["callback.unreadable", None]["data"]
    assert (callback["id"], callback["state"], callback["batch_id"]) == (unreadable, "unreadable", batch_id)
    assert all(set(each) == {"type", "timestamp", "data"} and each["timestamp"].endswith("Z") for each in got.values())


def test_batch_is_written_with_the_members_of_its_schema(conn: Connection) -> None:
    for labels in ({}, {"submissions_json": "null", "name": '"submissions_json":null'}):
        batch_id = make_batch(conn, ["6175550000"] * 3, name="Décembre", labels=labels, end_timestamp=None)
        written = json.loads(batch_json(read_batch(conn, batch_id)))
        assert list(written) == list(Batch().fields)
        assert (written["name"], written["labels"]) == ("Décembre", labels)
        assert [list(each) for each in written["submissions"]] == [list(Submission().fields)] * 3


def test_failed_event_is_sent_again_with_the_same_id(conn: Connection, database_url: str) -> None:
    seen = dict[str, int]()

    def twice(request: Request) -> tuple[int, dict[str, str], bytes]:
        seen[request.id] = seen.get(request.id, 0) + 1
        return (500, {}, b"down") if seen[request.id] < 3 else (204, {}, b"")

    with receiving(twice) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 5)
        settled(conn, endpoint_id)
    assert list(seen.values()) == [3] * 5
    for each in deliveries(conn, endpoint_id):
        assert [attempt["status"] for attempt in each.attempts] == [500, 500, 204]
        assert [attempt["error"] for attempt in each.attempts] == ["down", "down", None]
    assert read(conn, endpoint_id).failing_since is None


def test_event_is_given_up_after_ten_attempts_and_can_be_retried(conn: Connection, database_url: str) -> None:
    with receiving(lambda _: (500, {}, b"")) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 2)
        settled(conn, endpoint_id)
        assert read(conn, endpoint_id).events_owed == {"delivered": 0, "waiting": 0, "given_up": 2}
        assert {len(each.attempts) for each in deliveries(conn, endpoint_id)} == {10}
        assert len(server.requests) == 20 and read(conn, endpoint_id).failing_since is not None
        server.answer = lambda _: (200, {}, b"") if len(server.requests) > 24 else (500, {}, b"")
        assert retry_deliveries(conn, endpoint_id, by="test", state="given_up") == 2
        conn.commit()
        settled(conn, endpoint_id)
    assert read(conn, endpoint_id).events_owed == {"delivered": 2, "waiting": 0, "given_up": 0}
    assert len(set(server.ids)) == 2


def test_many_events_are_retried_in_several_transactions(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    made, _ = create_endpoint(conn, {"url": "https://93.184.215.14/"}, (), by="test")
    owe_results(conn, 12)
    conn.execute("update owed_event set next_try_at = now() + interval '1 day' where event_id % 2 = 0")
    waiting = [each.id for each in deliveries(conn, made.id) if each.id % 2]
    for event_id in waiting:
        conn.execute(
            "with gone as (delete from owed_event where event_id = %s returning *) insert into delivery (endpoint_id,"
            " event_id, slot, event, batch_id, subject, owed_at, state) select endpoint_id, event_id, slot, event,"
            " batch_id, subject, owed_at, 'given_up' from gone",
            (event_id,),
        )
    conn.execute("update endpoint_count set given_up = %s", (len(waiting),))
    conn.commit()
    monkeypatch.setattr(endpoints_module, "AT_ONCE", 4)
    assert retry_deliveries(conn, made.id, by="test", since=datetime(2026, 1, 1, tzinfo=UTC)) == 12
    assert read(conn, made.id).events_owed == {"delivered": 0, "waiting": 12, "given_up": 0}
    assert retry_deliveries(conn, made.id, by="test", state="waiting") == 0


def test_enabled_endpoint_gets_what_waits_in_several_transactions(
    conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, _ = create_endpoint(conn, {"url": "https://93.184.215.14/"}, (), by="test")
    owe_results(conn, 12)
    change_endpoint(conn, made.id, {"enabled": False}, (), by="test")
    conn.execute("update owed_event set next_try_at = now() + interval '1 day'")
    conn.commit()
    monkeypatch.setattr(endpoints_module, "AT_ONCE", 5)
    assert change_endpoint(conn, made.id, {"enabled": True}, (), by="test").enabled
    conn.commit()
    counted = "select count(distinct xmin::text), count(*) from owed_event where next_try_at <= now()"
    assert conn.execute(counted).fetchall() == [(3, 12)]


def test_delivered_event_that_is_sent_again_has_all_its_attempts(conn: Connection, database_url: str) -> None:
    with receiving() as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 1)
        settled(conn, endpoint_id)
        server.answer = lambda _: (500, {}, b"")
        assert retry_deliveries(conn, endpoint_id, by="test", ids=[deliveries(conn, endpoint_id)[0].id]) == 1
        conn.commit()
        settled(conn, endpoint_id)
    [given_up] = deliveries(conn, endpoint_id)
    assert [attempt["status"] for attempt in given_up.attempts] == [200] + [500] * 10


def test_endpoint_that_waits_longest_is_the_first(conn: Connection) -> None:
    ids = [create_endpoint(conn, {"url": "https://93.184.215.14/"}, (), by="test")[0].id for _ in range(4)]
    owe_results(conn, 2)
    ordered = [ids[place] for place in (2, 0, 3, 1)]
    for place, endpoint_id in enumerate(ordered):
        conn.execute(
            "update owed_event set next_try_at = now() - interval '1 day' + make_interval(mins => %s)"
            " where endpoint_id = %s",
            (place, endpoint_id),
        )
    assert list_targets(conn) == ordered


def test_retry_after_is_obeyed(conn: Connection, database_url: str) -> None:
    with receiving(lambda _: (503, {"Retry-After": "3600"}, b"")) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 1)
        eventually(lambda: bool(deliveries(conn, endpoint_id)[0].attempts))
    [waiting] = deliveries(conn, endpoint_id)
    assert waiting.state == "waiting" and waiting.next_try_at is not None
    assert waiting.next_try_at - waiting.owed_at >= timedelta(hours=1) and len(server.requests) == 1


def test_410_disables_the_endpoint_and_people_are_notified(conn: Connection, database_url: str) -> None:
    conn.execute("insert into endpoint (events, secret) values ('{endpoint.disabled}', '')")
    with receiving(lambda _: (410, {}, b"")) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 1)
        eventually(lambda: not read(conn, endpoint_id).enabled)
        assert read(conn, endpoint_id).disabled_reason == "gone"
        owe_results(conn, 3)
        server.answer = lambda _: (200, {}, b"")
        assert read(conn, endpoint_id).waiting == 4
        change_endpoint(conn, endpoint_id, {"enabled": True}, LOCAL, by="test")
        conn.commit()
        settled(conn, endpoint_id)
    assert read(conn, endpoint_id).events_owed == {"delivered": 4, "waiting": 0, "given_up": 0}
    owed = conn.execute("select event, subject from owed_event").fetchall()
    assert owed == [("endpoint.disabled", endpoint_id)]


def test_nothing_more_is_sent_after_410(conn: Connection, database_url: str) -> None:
    with receiving(lambda _: (410, {}, b"")) as server:
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 100)
        with relaying(database_url):
            eventually(lambda: not read(conn, endpoint_id).enabled)
    assert len(server.requests) <= delivery.IN_PROGRESS
    assert read(conn, endpoint_id).waiting == 100


def test_week_of_only_failures_disables_the_endpoint(conn: Connection, database_url: str) -> None:
    with receiving(lambda _: (500, {}, b"")) as server:
        endpoint_id, _ = endpoint(conn, server)
        conn.execute("update endpoint set failing_since = now() - interval '6 days 23 hours'")
        owe_results(conn, 1)
        with relaying(database_url):
            settled(conn, endpoint_id)
        assert read(conn, endpoint_id).enabled
        conn.execute("update endpoint set failing_since = now() - interval '7 days 1 hour'")
        owe_results(conn, 1)
        with relaying(database_url):
            eventually(lambda: not read(conn, endpoint_id).enabled)
    assert read(conn, endpoint_id).disabled_reason == "failing"


def test_success_ends_the_week_of_failures(conn: Connection, database_url: str) -> None:
    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        conn.execute("update endpoint set failing_since = now() - interval '8 days'")
        owe_results(conn, 1)
        with relaying(database_url):
            settled(conn, endpoint_id)
    found = read(conn, endpoint_id)
    assert found.enabled and found.failing_since is None


def test_events_of_a_purged_batch_are_given_up(conn: Connection, database_url: str) -> None:
    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        purged, kept = owe_results(conn, 3), owe_results(conn, 2)
        owe(conn, "batch.ended", (purged, None))
        owe(conn, "submission.refused", (purged, 1))
        purge_batch(conn, purged)
        with relaying(database_url):
            settled(conn, endpoint_id)
    assert read(conn, endpoint_id).events_owed == {"delivered": 2, "waiting": 0, "given_up": 5}
    assert {request.json["data"]["batch_id"] for request in server.requests} == {kept}
    errors = {each.attempts[-1]["error"] for each in list_deliveries(conn, endpoint_id, 9, DeliveryFilter("given_up"))}
    assert errors == {"It was not sent: its batch was purged, or the event is older than 30 days."}
    assert retry_deliveries(conn, endpoint_id, by="Ana", state="given_up") == 0


def test_events_of_more_than_30_days_ago_are_given_up(conn: Connection, database_url: str) -> None:
    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 3)
        conn.execute("update owed_event set owed_at = now() - interval '31 days' where subject = 2")
        conn.commit()
        with relaying(database_url):
            settled(conn, endpoint_id)
    assert read(conn, endpoint_id).events_owed == {"delivered": 2, "waiting": 0, "given_up": 1}
    assert sorted(request.json["data"]["row"] for request in server.requests) == [1, 3]


def test_event_whose_body_cannot_be_made_stops_no_other(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = make_batch(conn)

    def break_one(batch: Any) -> str:
        if batch.id == broken:
            raise ValueError("a batch that cannot be written")
        return batch_json(batch)

    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        owe(conn, "batch.overdue", (broken, None))
        owe_results(conn, 5)
        with monkeypatch.context() as patched:
            patched.setattr(bodies, "batch_json", break_one)
            with relaying(database_url):
                eventually(lambda: read(conn, endpoint_id).delivered == 5)
        assert read(conn, endpoint_id).events_owed == {"delivered": 5, "waiting": 1, "given_up": 0}
        with relaying(database_url):
            settled(conn, endpoint_id)
    assert read(conn, endpoint_id).delivered == 6


def test_step_that_fails_is_counted_and_repeated(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> dict[int, str | None]:
        raise ValueError("a fault of ours")

    with receiving() as server:
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 1)
        with monkeypatch.context() as patched, relaying(database_url) as [relay]:
            patched.setattr(delivery, "make_bodies", fail)
            eventually(lambda: relay.measurements.take()["failure", "relay"] > 0)
            patched.undo()
            settled(conn, endpoint_id)


def test_id_of_an_event_stays_the_same_after_an_upgrade() -> None:
    owed = Owed(7, 0, "call.result", 1, 1, datetime(2026, 11, 30, 6, 41, 2, 345678, tzinfo=UTC), "[]")
    assert owed.message_id == "msg_7_1796020862345678"


def test_slow_endpoint_delays_no_other(conn: Connection, database_url: str) -> None:
    over = threading.Event()

    def hold(_: Request) -> tuple[int, dict[str, str], bytes]:
        over.wait(60)
        return 200, {}, b""

    with receiving(hold) as slow, receiving() as fast, relaying(database_url):
        slow_id, _ = endpoint(conn, slow)
        fast_id, _ = endpoint(conn, fast)
        owe_results(conn, 100)
        settled(conn, fast_id)
        eventually(lambda: len(slow.requests) == 16)
        owe_results(conn, 10)
        settled(conn, fast_id)
        assert len(slow.requests) == 16, "at most 16 are in progress"
        over.set()
        settled(conn, slow_id)
    assert len(set(slow.ids)) == 110 and read(conn, slow_id).delivered == 110


def test_workers_share_endpoints_but_never_serve_one_together(conn: Connection, database_url: str) -> None:
    lock, busy, most = threading.Lock(), dict[int, int](), dict[int, int]()
    pause = threading.Event()

    def count(port: int) -> Any:
        def answer(_: Request) -> tuple[int, dict[str, str], bytes]:
            with lock:
                busy[port] = busy.get(port, 0) + 1
                most[port] = max(most.get(port, 0), busy[port])
            pause.wait(0.01)
            with lock:
                busy[port] -= 1
            return 200, {}, b""

        return answer

    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(receiving(count(number))) for number in range(4)]
        ids = [endpoint(conn, server)[0] for server in servers]
        owe_results(conn, 300)
        with relaying(database_url, relays=3):
            for endpoint_id in ids:
                settled(conn, endpoint_id)
    assert [len(server.ids) for server in servers] == [300] * 4, "nothing was sent twice"
    assert max(most.values()) <= 16


def test_endpoint_that_is_deleted_meanwhile_ends_quietly(conn: Connection, database_url: str) -> None:
    over = threading.Event()

    def hold(_: Request) -> tuple[int, dict[str, str], bytes]:
        over.wait(60)
        return 200, {}, b""

    with receiving(hold) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 40)
        eventually(lambda: len(server.requests) == 16)
        delete_endpoint(conn, endpoint_id, by="test")
        conn.commit()
        over.set()
    assert conn.execute("select from endpoint_count").fetchall() == []


def test_changed_address_gets_the_rest(conn: Connection, database_url: str) -> None:
    with receiving(lambda _: (500, {}, b"")) as old, receiving() as new, relaying(database_url):
        endpoint_id, _ = endpoint(conn, old)
        owe_results(conn, 3)
        eventually(lambda: len(old.requests) >= 3)
        change_endpoint(conn, endpoint_id, {"url": new.url}, LOCAL, by="test")
        conn.commit()
        settled(conn, endpoint_id)
    assert len(set(new.ids)) == 3


def test_outage_of_the_database_loses_no_outcome(conn: Connection, database_url: str) -> None:
    held, go = threading.Event(), threading.Event()

    def hold(_: Request) -> tuple[int, dict[str, str], bytes]:
        held.set()
        go.wait(60)
        return 200, {}, b""

    with receiving(hold) as server, relaying(database_url):
        endpoint_id, _ = endpoint(conn, server)
        owe_results(conn, 1)
        assert held.wait(60)
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'test relay' and state = 'idle' and query not like '%advisory%'"
            " and pid not in (select pid from pg_locks where locktype = 'advisory')"
        )
        conn.commit()
        go.set()
        settled(conn, endpoint_id)
    assert read(conn, endpoint_id).delivered == 1 and len(server.requests) == 1
