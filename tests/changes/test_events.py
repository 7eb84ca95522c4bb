"""Each event is owed once, by the transaction that causes it."""

from __future__ import annotations

import pytest

from receiver.database.pool import Connection
from receiver.results.settlement import settle
from tests.changes.owed import Owed
from tests.factories import claim_waiting, deliver, journal, make_batch, make_callback, phone_number, result_body

NUMBERS = [phone_number(index) for index in range(2)]
ENDED = ("batch.ended", 1, None)


@pytest.fixture
def owed(conn: Connection) -> Owed:
    return Owed(conn)


def test_result_is_owed_when_it_is_settled_or_changed(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0], "dialing"))
    assert owed.check() == []
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"))
    assert owed.check() == [("call.result", batch_id, 1)]
    deliver(conn, batch_id, result_body(NUMBERS[0], "failed"), result_body(NUMBERS[0], last_event=50))
    assert owed.check() == [], "the same result again, and one that does not win"
    deliver(conn, batch_id, result_body(NUMBERS[0], last_event=70), result_body(phone_number(5)))
    assert owed.check() == [("call.result", batch_id, 1)]
    (callback_id,) = deliver(conn, batch_id, b"?")
    assert owed.check() == [("callback.unreadable", batch_id, callback_id)]
    deliver(conn, batch_id, result_body(NUMBERS[1]))
    assert owed.check() == [ENDED, ("call.result", batch_id, 2)]


def test_settlement_that_is_rolled_back_owes_nothing(conn: Connection, owed: Owed) -> None:
    batch_id = make_batch(conn)
    journal(conn, make_callback(batch_id, result_body(NUMBERS[0])))
    settle(conn, claim_waiting(conn, 10))
    conn.rollback()
    assert owed.check() == []
    settle(conn, claim_waiting(conn, 10))
    conn.commit()
    assert owed.check() == [ENDED, ("call.result", batch_id, 1)]
