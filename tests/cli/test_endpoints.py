"""`endpoints create`, `list`, `test`, `rotate`, `disable`, `enable`, `retry` and `delete`."""

from __future__ import annotations

import pytest

from receiver.changes.audit import ChangeFilter, list_changes
from receiver.database.pool import Connection
from receiver.relay.endpoints import ENDPOINT_EVENTS, get_endpoint, get_secrets, list_endpoints
from tests.cli.conftest import Run
from tests.factories import make_batch, phone_number
from tests.relay.endpoint_server import receiving
from tests.web.test_endpoints_api import PUBLIC, end, owe


@pytest.fixture(autouse=True)
def _private_networks(environment: pytest.MonkeyPatch) -> None:
    environment.setenv("RELAY_NETWORKS", "127.0.0.0/8")


def make(run: Run, conn: Connection, url: str = PUBLIC) -> str:
    """The id of a new endpoint."""
    assert run("endpoints", "create", url).status == 0
    [made, *_] = list_endpoints(conn)
    conn.rollback()
    return str(made.id)


def owe_calls(conn: Connection, count: int) -> None:
    batch_id = make_batch(conn, [phone_number(at) for at in range(count)])
    owe(conn, *((batch_id, row) for row in range(1, count + 1)))


def test_secret_is_the_last_line_and_signs(run: Run, conn: Connection) -> None:
    with receiving() as service:
        options = ("--description", "CRM", "--event", "call.result", "--event", "batch.ended", "--application", "7")
        ran = run("endpoints", "create", service.url, *options, "--deployment", "3", "--label", "team:north:west")
        assert (ran.status, ran.err) == (0, "")
        [made] = list_endpoints(conn)
        assert (made.url, made.description, made.events) == (service.url, "CRM", ["call.result", "batch.ended"])
        assert (made.application_id, made.deployment_id, made.label) == (7, 3, "team:north:west")
        tested = run("endpoints", "test", str(made.id))
        assert tested.status == 0 and tested.out.startswith("Delivered: status 200 after ")
        service.requests[0].verified(ran.lines[-1])
        service.answer = lambda _: (503, {}, b"It is closed.")
        tested = run("endpoints", "test", str(made.id))
        assert tested.status == 1 and tested.out.startswith("Not delivered: status 503 after ")
        assert tested.out.endswith(": It is closed.\n")


def test_refused_addresses_and_unusable_arguments_are_status_2(run: Run, conn: Connection) -> None:
    for url in ("https://10.0.0.1/", "hook", "ftp://a.example/"):
        ran = run("endpoints", "create", url)
        assert (ran.status, ran.out) == (2, "") and "url: It must be" in ran.err, url
    for wrong in (
        ("--application", "0"),
        ("--deployment", "x"),
        ("--label", "north"),
        ("--event", "endpoint.disabled"),
        ("--description", "a\nb"),
    ):
        assert run("endpoints", "create", PUBLIC, *wrong).status == 2, wrong
    for unusable in (
        ("create",),
        ("test", "x"),
        ("retry", "1", "--state", "delivered"),
        ("retry", "1", "--since", "x"),
    ):
        assert run("endpoints", *unusable).status == 2, unusable
    assert list_endpoints(conn) == []


def test_list_shows_states_and_balances_and_no_secret(run: Run, conn: Connection) -> None:
    [first, second] = [make(run, conn) for _ in range(2)]
    conn.execute("update endpoint set events = '{}' where endpoint_id = %s", (first,))
    owe_calls(conn, 3)
    end(conn, "delivered", 1)
    run("endpoints", "disable", first)
    ran = run("endpoints", "list")
    assert ran.status == 0 and "whsec_" not in ran.out
    assert [line.split() for line in ran.lines[1:]] == [
        [second, "enabled", "1", "2", "0", PUBLIC],
        [first, "disabled", "0", "0", "0", PUBLIC],
    ]


def test_endpoint_is_disabled_enabled_and_given_a_new_secret(run: Run, conn: Connection) -> None:
    made = make(run, conn)
    assert run("endpoints", "disable", made).out == f"Endpoint {made} is disabled; 0 events wait.\n"
    assert not get_endpoint(conn, int(made)).enabled
    conn.rollback()
    assert run("endpoints", "enable", made).out == f"Endpoint {made} is enabled; 0 events wait.\n"
    ran = run("endpoints", "rotate", made)
    assert ran.status == 0
    assert get_endpoint(conn, int(made)).enabled and get_secrets(conn, int(made))[0] == ran.lines[-1]


def test_events_are_sent_again(run: Run, conn: Connection) -> None:
    made = make(run, conn)
    owe_calls(conn, 6)
    end(conn, "delivered", 2)
    end(conn, "given_up", 3)
    conn.execute("update owed_event set next_try_at = now() + interval '1 hour'")
    ids = [str(row[0]) for row in conn.execute("select event_id from delivery order by 1").fetchall()]
    conn.commit()
    for arguments, count in (
        (("--id", ids[0], "--id", ids[2]), 2),
        (("--since", "2100-01-01T00:00:00Z"), 0),
        (("--state", "waiting"), 1),
        ((), 2),
    ):
        ran = run("endpoints", "retry", made, *arguments)
        assert (ran.status, ran.out) == (0, f"{count} events will be sent again now.\n"), arguments
    assert get_endpoint(conn, int(made)).events_owed == {"delivered": 1, "waiting": 5, "given_up": 0}
    conn.rollback()
    unknown = run("endpoints", "retry", made, "--id", "99")
    assert (unknown.status, unknown.out) == (1, "") and "has no event 99" in unknown.err
    run("endpoints", "disable", made)
    assert "once the endpoint is enabled" in run("endpoints", "retry", made).out


def test_endpoint_is_deleted_after_a_confirmation(run: Run, conn: Connection) -> None:
    made = make(run, conn)
    owe_calls(conn, 2)
    asked = run("endpoints", "delete", made)
    assert asked.status == 2 and "2 undelivered events are never sent" in asked.err and "--yes" in asked.err
    assert len(list_endpoints(conn)) == 1
    conn.rollback()
    assert run("endpoints", "delete", made, "--yes").out == f"Endpoint {made} is deleted.\n"
    assert list_endpoints(conn) == []
    conn.rollback()
    for action in ("test", "rotate", "disable", "enable", "retry", "delete"):
        ran = run("endpoints", action, made)
        assert (ran.status, ran.out) == (1, "") and f"Endpoint {made} does not exist." in ran.err, action
    changes = {each.action for each in list_changes(conn, ChangeFilter(actor="command line"), 10)}
    assert changes == {"create_endpoint", "delete_endpoint"}


def test_default_is_every_event(run: Run, conn: Connection) -> None:
    made = make(run, conn)
    assert get_endpoint(conn, int(made)).events == list(ENDPOINT_EVENTS)
