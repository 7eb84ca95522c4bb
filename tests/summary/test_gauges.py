"""What monitoring reads: calls that wait for their gates are not stuck, and are not at the provider."""

from __future__ import annotations

from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.release.control import pause_batch
from receiver.summary.gauges import get_gauges
from tests.factories import make_batch, phone_number
from tests.feeding import change, give_all

NUMBERS = [phone_number(index) for index in range(3)]


def oldest_pending(conn: Connection) -> float:
    return get_gauges(conn).oldest_pending_submission_seconds or 0.0


def an_hour_later(conn: Connection, batch_id: int, *, pace_opens_in: int = 0) -> None:
    """Everything in the batch has been ready for an hour, its pace aside. `pace_opens_in`: seconds."""
    conn.execute(
        "update submission set next_try_at = now() - interval '1 hour' where batch_id = %s and state = 'pending'",
        (batch_id,),
    )
    conn.execute(
        "update batch set next_release_at = now() + make_interval(secs => %s) where batch_id = %s"
        " and calls_per_minute is not null",
        (pace_opens_in, batch_id),
    )


@pytest.mark.parametrize(
    ("parameters", "pace_opens_in", "waits"),
    [({"send": False}, 0, 3600), ({"calls_per_minute": 1}, 300, 0), ({"calls_per_minute": 1}, -1200, 1200)],
)
def test_submission_is_stuck_since_its_batch_s_pace_would_let_it_go(
    conn: Connection, parameters: dict[str, Any], pace_opens_in: int, waits: int
) -> None:
    batch_id = make_batch(conn, NUMBERS, **parameters)
    an_hour_later(conn, batch_id, pace_opens_in=pace_opens_in)
    assert waits <= oldest_pending(conn) < waits + 250


def test_paused_submission_is_not_stuck(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS, send=False)
    an_hour_later(conn, batch_id)
    pause_batch(conn, batch_id, by="Ana")
    assert oldest_pending(conn) == 0


def test_calls_that_were_not_sent_yet_are_a_part_of_the_pending_ones(conn: Connection) -> None:
    make_batch(conn, NUMBERS, calls_per_minute=1)
    gauges = get_gauges(conn)
    assert (gauges.calls["pending"], gauges.unreleased_calls) == (3, 2)


def test_changes_wait_until_they_are_in_the_feed(conn: Connection) -> None:
    assert (get_gauges(conn).unfed, get_gauges(conn).oldest_unfed_seconds) == (0, None)
    for row in (1, 2):
        change(conn, (make_batch(conn, NUMBERS), row))
        conn.commit()
    conn.execute("update changed_results set changed_at = changed_at - interval '1 hour' * change_id")
    gauges = get_gauges(conn)
    assert gauges.unfed == 2 and 3600 <= (gauges.oldest_unfed_seconds or 0) < 3900
    give_all(conn)
    assert (get_gauges(conn).unfed, get_gauges(conn).oldest_unfed_seconds) == (0, None)
