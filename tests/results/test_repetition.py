"""One call with very many callbacks: what a further one costs, and what becomes of it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from receiver.database.pool import Connection
from receiver.results import set_aside, settlement
from receiver.results.settlement import Stored, get_stored
from receiver.results.standing import OTHER_RESULT_STANDS, SAME_RESULT
from tests.factories import deliver, differences, make_batch, phone_number, read_batch, result_body, states

NUMBER = phone_number(0)


@pytest.fixture
def read_again(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of callbacks that settlement reads again."""
    ids: list[int] = []

    def noted(conn: Connection, batch_id: int, callback_ids: Sequence[int]) -> list[Stored]:
        ids.extend(callback_ids)
        return get_stored(conn, batch_id, callback_ids)

    monkeypatch.setattr(settlement, "get_stored", noted)
    return ids


def test_repetition_is_compared_with_the_result_and_not_with_every_repetition_before(
    conn: Connection, read_again: list[int]
) -> None:
    batch_id = make_batch(conn)
    first = deliver(conn, batch_id, result_body(NUMBER))
    deliver(conn, batch_id, *[result_body(NUMBER)] * 300)
    read_again.clear()
    last = deliver(conn, batch_id, result_body(NUMBER))
    assert read_again == first
    assert states(conn, last) == [("duplicate", SAME_RESULT)]
    assert read_batch(conn, batch_id).callbacks["duplicate"] == 301
    assert differences(conn) == []


def test_conflict_that_is_repeated_is_a_duplicate_of_the_first_that_said_so(conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, result_body(NUMBER, "failed", last_event=900), *[result_body(NUMBER)] * 3)
    last = deliver(conn, batch_id, result_body(NUMBER))
    assert states(conn, last) == [("duplicate", SAME_RESULT)]
    assert read_batch(conn, batch_id).callbacks["conflict"] == 1
    assert differences(conn) == []


def test_of_very_many_that_all_differ_only_so_many_are_read_again(
    conn: Connection, read_again: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_aside, "COMPARED", 5)
    batch_id = make_batch(conn)
    for attempts in range(1, 20):
        deliver(conn, batch_id, result_body(NUMBER, "failed", attempts=attempts, last_event=attempts))
    read_again.clear()
    last = deliver(conn, batch_id, result_body(NUMBER, "completed", last_event=1))
    assert len(read_again) == 6
    assert states(conn, last) == [("conflict", OTHER_RESULT_STANDS)]
    batch = read_batch(conn, batch_id)
    assert (batch.counts["failed"], batch.callbacks["conflict"], batch.attempts) == (1, 19, 19)
    assert differences(conn) == []
