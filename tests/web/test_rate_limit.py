"""Rate limits by key, and by address for clients without a key."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from flask import Flask
from flask.testing import FlaskClient

from receiver.config import Config
from receiver.database.api_keys import create_key, revoke_key
from receiver.database.pool import Connection
from receiver.web import rate_limit
from receiver.web.rate_limit import RateLimits, TokenBuckets, client_address
from receiver.web.services import Services
from tests.web.asking import problem_of, results_path
from tests.web.browsing import visitor
from tests.web.conftest import patient_app

PER_MINUTE = 30
FAILURES = 3
PATH = "/api/v1/batches"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def app(config: Config, database_url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """An app that allows 30 requests per minute, with the test's clock."""
    monkeypatch.setattr(TokenBuckets.__init__, "__defaults__", (clock,))
    with patient_app(replace(config, rate_limit=PER_MINUTE), database_url) as app:
        yield app


def ask(client: FlaskClient, times: int, **headers: str) -> list[int]:
    return [client.get(PATH, headers=headers).status_code for _ in range(times)]


# Buckets ------------------------------------------------------------------------------------------


def test_bucket_is_refilled_evenly(clock: Clock) -> None:
    buckets = TokenBuckets(60, clock)
    assert [buckets.take("a") for _ in range(60)] == [0.0] * 60
    assert buckets.take("a") == pytest.approx(1.0)
    clock.now += 0.25
    assert buckets.take("a") == buckets.wait_seconds("a") == pytest.approx(0.75)
    clock.now += 0.75
    assert buckets.take("a") == 0.0
    assert buckets.take("a") == pytest.approx(1.0)
    clock.now += 3600
    assert [buckets.take("a") for _ in range(61)] == [0.0] * 60 + [pytest.approx(1.0)]


def test_buckets_are_separate_and_checking_takes_no_token(clock: Clock) -> None:
    buckets = TokenBuckets(1, clock)
    assert [buckets.wait_seconds("a") for _ in range(3)] == [0.0] * 3
    assert "a" not in buckets
    assert (buckets.take("a"), buckets.take("b")) == (0.0, 0.0)
    assert "a" in buckets
    assert buckets.take("a") == pytest.approx(60.0)


def test_refused_requests_take_no_token(clock: Clock) -> None:
    buckets = TokenBuckets(1, clock)
    for _ in range(100):
        buckets.take("a")
    clock.now += 60
    assert buckets.take("a") == 0.0


def test_memory_is_bounded(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rate_limit, "MOST_BUCKETS", 3)
    buckets = TokenBuckets(1, clock)
    for name in "abcad":
        buckets.take(name)
    assert [name in buckets for name in "abcd"] == [True, False, True, True]


def test_zero_means_no_limit(config: Config, database_url: str) -> None:
    assert {RateLimits.of(0).requests.take("a") for _ in range(100)} == {0.0}
    with patient_app(replace(config, rate_limit=0), database_url) as app:
        assert set(ask(app.test_client(), 50)) == {401}


# By key -------------------------------------------------------------------------------------------


def test_key_with_too_many_requests_is_429_until_it_has_waited(reader: FlaskClient, clock: Clock) -> None:
    assert ask(reader, PER_MINUTE) == [200] * PER_MINUTE
    refused = reader.get(PATH)
    assert "30 requests per minute" in problem_of(refused, 429, "rate_limited")["detail"]
    assert refused.headers["Retry-After"] == "2"
    clock.now += float(refused.headers["Retry-After"])
    assert ask(reader, 2) == [200, 429]


def test_each_key_has_its_own_limit(app: Flask, reader: FlaskClient, conn: Connection) -> None:
    other = create_key(conn, "other", "read")
    conn.commit()
    assert ask(reader, PER_MINUTE + 1)[-1] == 429
    assert ask(app.test_client(), 1, Authorization=f"Bearer {other}") == [200]


def test_requests_to_every_path_of_the_api_count(reader: FlaskClient) -> None:
    for number in range(PER_MINUTE):
        reader.get(("/api/v1/callbacks", "/api/v1/batches/99", "/api/v1/summary")[number % 3])
    assert ask(reader, 1) == [429]


def test_sessions_count_as_requests_with_their_key(app: Flask, conn: Connection) -> None:
    browser = visitor(app, conn, "read", "Ana")
    client = app.test_client()
    client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {browser.key}"
    asked = [browser.client.get("/batches").status_code for _ in range(PER_MINUTE // 2)]
    asked += ask(client, PER_MINUTE - PER_MINUTE // 2)
    assert set(asked) == {200}
    assert ask(client, 1) == [429]
    refused = browser.client.get("/batches")
    assert refused.status_code == 429 and "30 requests per minute" in refused.text
    assert browser.client.get("/login").status_code in (303, 429)


# By address ---------------------------------------------------------------------------------------


def test_address_with_too_many_failures_is_429(stranger: FlaskClient, clock: Clock) -> None:
    guesses = [f"Bearer rr_abcdefgh_{number:043}" for number in range(FAILURES + 1)]
    answers = [stranger.get(PATH, headers={"Authorization": guess}) for guess in guesses]
    assert [answer.status_code for answer in answers] == [401] * FAILURES + [429]
    problem_of(answers[-1], 429, "rate_limited")
    assert answers[-1].headers["Retry-After"] == "20"
    assert ask(stranger, 1) == [429]  # also without a key
    clock.now += 20
    assert ask(stranger, 2) == [401, 429]


def test_blocked_address_causes_no_query(stranger: FlaskClient, app: Flask) -> None:
    ask(stranger, FAILURES)
    services: Services = app.extensions["receiver"]
    services.pool.close()
    assert ask(stranger, 1, Authorization="Bearer rr_abcdefgh_" + "A" * 43) == [429]


def test_recently_valid_key_is_not_blocked_by_others_at_its_address(
    stranger: FlaskClient, reader: FlaskClient, conn: Connection
) -> None:
    new = create_key(conn, "new", "read")
    conn.commit()
    assert ask(reader, 1) == [200]
    ask(stranger, FAILURES)
    assert ask(reader, 1) == [200]
    assert ask(stranger, 1, Authorization=f"Bearer {new}") == [429]


def test_revoked_key_counts_as_a_failure(reader: FlaskClient, conn: Connection) -> None:
    assert ask(reader, 1) == [200]
    revoke_key(conn, "read key")
    conn.commit()
    # It is still looked up, because it was valid recently. So an attacker learns nothing.
    assert ask(reader, FAILURES) == [401] * FAILURES


def test_addresses_behind_a_proxy_are_counted_separately(stranger: FlaskClient) -> None:
    def fail(times: int, forwarded: str) -> list[int]:
        return ask(stranger, times, **{"X-Forwarded-For": forwarded})

    assert fail(FAILURES + 1, "198.51.100.1")[-1] == 429
    assert fail(1, "198.51.100.2") == [401]
    # Only the last address is from the proxy. The client may have invented the others.
    assert fail(1, "203.0.113.9, 198.51.100.1") == [429]
    assert fail(FAILURES + 1, "2001:db8::1")[-1] == 429
    assert fail(1, "2001:db8::ffff") == [429]
    assert fail(1, "2001:db8:0:1::1") == [401]


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        ("203.0.113.5", "203.0.113.5"),
        ("::ffff:203.0.113.5", "203.0.113.5"),
        ("2001:db8:1:2:3::4", "2001:db8:1:2::/64"),
        ("unknown", "unknown"),
        ("", ""),
    ],
)
def test_ipv6_addresses_are_counted_by_network(app: Flask, peer: str, expected: str) -> None:
    with app.test_request_context(environ_base={"REMOTE_ADDR": peer}):
        assert client_address() == expected


def test_callbacks_are_never_limited(stranger: FlaskClient) -> None:
    ask(stranger, FAILURES + 1)
    answers = [stranger.post(results_path(), data=b"x").status_code for _ in range(PER_MINUTE * 2)]
    assert set(answers) == {200}
