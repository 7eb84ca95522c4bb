"""Follow-ups: which calls are called again, each at most once, and what a late answer does to them."""

from __future__ import annotations

import io
import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from psycopg.errors import LockNotAvailable

from receiver.database.pool import Connection, connect
from receiver.errors import InvalidInput, NotFound
from receiver.queueing.acceptance import Limits, accept, preview_follow_up
from receiver.queueing.follow_ups import LEFT_OUT, ChosenCalls, FollowUp, NothingToFollowUp, follow_up_parameters
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.suppressions import suppress
from receiver.release.control import cancel_batch, pause_batch, resume_batch
from receiver.release.sender import csv_blocks
from receiver.results.erasure import erase
from receiver.results.retention import purge_batch
from receiver.summary.batches import Batch
from receiver.summary.calls import get_call
from receiver.summary.lineage import Lineage, get_lineage
from tests.factories import (
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    differences,
    make_batch,
    make_overdue,
    phone_number,
    present,
    purge_old,
    read_batch,
    result_body,
)
from tests.waiting import eventually

NUMBERS = [phone_number(index) for index in range(10)]
LIMITS = Limits(10_000, 3600)


def follow(
    conn: Connection, batch_id: int, given: Mapping[str, Any] | None = None, *, send: bool = True, **wanted: Any
) -> int:
    parameters = follow_up_parameters(conn, batch_id, given or {})
    followed = accept(conn, FollowUp(batch_id, **wanted), parameters, LIMITS).batch_id
    conn.commit()
    if send:
        answer_submissions(conn)
    return followed


def left_out(conn: Connection, batch_id: int, given: Mapping[str, Any] | None = None, **wanted: Any) -> dict[str, int]:
    """The choice of a dry run, which balances."""
    parameters = follow_up_parameters(conn, batch_id, given or {})
    seen, chosen = preview_follow_up(conn, FollowUp(batch_id, **wanted), parameters, LIMITS)
    conn.rollback()
    assert tuple(chosen.left_out) == LEFT_OUT
    assert seen.rows == chosen.chosen
    assert chosen.chosen + sum(chosen.left_out.values()) == read_batch(conn, batch_id).counts["rows"]
    return present({"chosen": chosen.chosen} | chosen.left_out)


def calls(conn: Connection, batch_id: int) -> list[tuple[str, str | None, str | None]]:
    counts = read_batch(conn, batch_id).counts
    found = [get_call(conn, batch_id, row) for row in range(1, counts["rows"] + 1)]
    conn.rollback()
    return [(call.state, call.outcome, call.withdrawn_reason) for call in found]


def lineage(conn: Connection, batch_id: int) -> Lineage:
    found = get_lineage(conn, batch_id)
    conn.rollback()
    if found.latest is not None:
        counts = found.latest
        assert counts["rows"] == sum(
            counts[name] for name in ("skipped", "refused", "withdrawn", "pending", "overdue", "final")
        )
        assert min(counts.values()) >= 0
    return found


def latest(conn: Connection, batch_id: int) -> dict[str, int]:
    found = lineage(conn, batch_id).latest
    assert found is not None
    return present(found)


def made_of(*statuses: str | None, conn: Connection, **parameters: Any) -> int:
    """A batch with a call for each status of the provider; None: it has no result."""
    batch_id = make_batch(conn, NUMBERS[: len(statuses)], **parameters)
    bodies = [result_body(number, status) for number, status in zip(NUMBERS, statuses, strict=False) if status]
    deliver(conn, batch_id, *bodies)
    return batch_id


def test_calls_are_chosen_by_outcome_and_sent_as_they_were_handed_in(conn: Connection) -> None:
    csv = "Destination;Row;name;phone_number\n(617) 555-0000;=1+1;  Björn ;\n617.555.0001;;;y\n+16175550002;1;2;3\n"
    csv = csv.replace(";", ",")
    batch_id = accept(conn, io.BytesIO(csv.encode()), BatchParameters(7, 3), LIMITS).batch_id
    conn.commit()
    answer_submissions(conn)
    deliver(
        conn, batch_id, result_body(NUMBERS[0], "failed"), result_body(NUMBERS[1]), result_body(NUMBERS[2], "rejected")
    )
    followed = follow(conn, batch_id, send=False)
    (outgoing,) = answer_submissions(conn)
    assert b"".join(csv_blocks(conn, outgoing)).decode().splitlines() == [
        "destination,Row,name,phone_number",
        "(617) 555-0000,=1+1,  Björn ,",
        "+16175550002,1,2,3",
    ]
    call = get_call(conn, followed, 2)
    assert call.follows == {"batch_id": batch_id, "row": 3}
    assert get_call(conn, batch_id, 3).followed_by == {"batch_id": followed, "row": 2}
    assert (get_call(conn, batch_id, 2).followed_by, call.followed_by) == (None, None)
    first, second = read_batch(conn, batch_id), read_batch(conn, followed)
    assert (first.follows, first.follow_ups, second.follows, second.follow_ups) == (None, [followed], batch_id, [])
    assert differences(conn) == []


def test_each_row_is_left_out_for_the_first_reason_that_applies(conn: Connection) -> None:
    statuses = ("completed", "failed", "canceled", "odd", "rejected", "failed", None, "failed")
    batch_id = made_of(*statuses, conn=conn)
    assert left_out(conn, batch_id) == {"chosen": 4, "completed": 1, "pending": 1, "not_chosen": 2}
    suppress(conn, NUMBERS[1], by="Ana")
    conn.commit()
    list(erase(conn, NUMBERS[7], by="Ana"))
    conn.commit()
    follow(conn, batch_id, outcomes=["rejected"])
    follow(conn, batch_id, outcomes=["canceled"])
    suppress(conn, NUMBERS[2], by="Ana")
    conn.commit()
    assert left_out(conn, batch_id, outcomes=["failed", "rejected", "canceled", "other"]) == {
        "chosen": 2, "completed": 1, "pending": 1, "suppressed": 2, "followed_up": 1, "erased": 1,
    }  # fmt: skip


@pytest.mark.parametrize("include", [[], ["overdue"]])
def test_overdue_call_is_followed_up_only_on_request(conn: Connection, include: list[str]) -> None:
    batch_id = made_of("failed", None, None, conn=conn)
    make_overdue(conn, batch_id)
    expected = {"chosen": 3} if include else {"chosen": 1, "overdue": 2}
    assert left_out(conn, batch_id, include=include) == expected


def test_call_in_an_unknown_submission_is_never_followed_up(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:2], send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    assert left_out(conn, batch_id) == {"unknown": 2}
    make_overdue(conn, batch_id)
    assert left_out(conn, batch_id, include=["overdue"]) == {"unknown": 2}


def test_refused_and_withdrawn_calls_are_followed_up_only_on_request(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:3], submission_rows=1, send=False)
    answer_submissions(conn, lambda outgoing: REFUSED)
    assert left_out(conn, batch_id) == {"refused": 3}
    assert left_out(conn, batch_id, include=["refused"], outcomes=[]) == {"chosen": 3}
    canceled = make_batch(conn, NUMBERS[:3], send=False)
    cancel_batch(conn, canceled, by="Ana")
    conn.commit()
    assert left_out(conn, canceled, include=["refused"]) == {"withdrawn": 3}
    assert left_out(conn, canceled, include=["withdrawn"]) == {"chosen": 3}


def test_nothing_chosen_stores_nothing(conn: Connection) -> None:
    batch_id = made_of("completed", None, conn=conn)
    with pytest.raises(NothingToFollowUp) as caught:
        follow(conn, batch_id)
    conn.rollback()
    assert present(dict(caught.value.members["left_out"])) == {"completed": 1, "pending": 1}
    assert read_batch(conn, batch_id).follow_ups == []
    with pytest.raises(NotFound):
        follow(conn, batch_id + 100)


def test_parameters_are_those_of_the_earlier_batch_but_its_window(conn: Connection) -> None:
    end = datetime.now(UTC).replace(microsecond=0) + timedelta(days=1)
    earlier = make_batch(
        conn, NUMBERS[:1], name="May", max_attempts=3, reattempt_wait=300, end_timestamp=end, calling_hours=(0, 1440),
        calling_days=127, time_zone="America/New_York", labels={"team": "a"}, external_id="crm-1", calls_per_minute=60,
        on_invalid="skip", on_recent="skip", recent_hours=5,
    )  # fmt: skip
    taken = follow_up_parameters(conn, earlier, {"name": "June", "labels": {"team": "b"}})
    assert taken == BatchParameters(
        7, 3, name="June", max_attempts=3, reattempt_wait=300, calling_hours=(0, 1440), calling_days=127,
        time_zone="America/New_York", labels={"team": "b"}, on_duplicate="keep", calls_per_minute=60,
        on_invalid="skip",
    )  # fmt: skip
    without = follow_up_parameters(conn, earlier, {"calling_hours": None, "calls_per_minute": None})
    assert without.gates == BatchParameters(7, 3).gates
    with pytest.raises(InvalidInput):
        follow_up_parameters(conn, earlier, {"max_attempts": 11})


def test_two_follow_ups_at_once_share_the_calls_between_them(conn: Connection, database_url: str) -> None:
    batch_id = made_of(*["failed"] * 6, conn=conn)
    parameters = follow_up_parameters(conn, batch_id, {})
    first = accept(conn, FollowUp(batch_id), parameters, LIMITS).batch_id
    found: list[object] = []

    def second() -> None:
        with connect(database_url, name="other") as other:
            try:
                found.append(accept(other, FollowUp(batch_id), parameters, LIMITS))
            except NothingToFollowUp as error:
                found.append(error)

    thread = threading.Thread(target=second)
    thread.start()
    with connect(database_url, name="watch") as watch:
        watch.autocommit = True
        eventually(lambda: watch.execute("select from pg_locks where not granted").rowcount > 0)
    conn.commit()
    thread.join()
    (error,) = found
    assert isinstance(error, NothingToFollowUp)
    assert error.members["left_out"]["followed_up"] == 6
    assert read_batch(conn, batch_id).follow_ups == [first]


def test_batch_that_is_purged_while_it_is_followed_up_is_not_found(
    conn: Connection, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = made_of("failed", conn=conn)
    conn.commit()
    link = ChosenCalls.link

    def purged(chosen: ChosenCalls, next_batch_id: int) -> bool:
        with connect(database_url, name="purge") as other:
            for _ in purge_batch(other, batch_id, by="Ana"):
                other.commit()
        return link(chosen, next_batch_id)

    monkeypatch.setattr(ChosenCalls, "link", purged)
    with pytest.raises(NotFound):
        accept(conn, FollowUp(batch_id), BatchParameters(7, 3), LIMITS)
    conn.rollback()
    assert conn.execute("select from follow_up").rowcount == 0
    assert differences(conn) == []


def test_batch_cannot_be_purged_until_its_follow_up_is_stored(conn: Connection, database_url: str) -> None:
    batch_id = made_of("failed", conn=conn)
    conn.commit()
    accept(conn, FollowUp(batch_id), BatchParameters(7, 3), LIMITS)
    with connect(database_url, name="purge") as other, pytest.raises(LockNotAvailable):
        other.execute("select from batch where batch_id = %s for update nowait", (batch_id,))


# A late answer


def test_late_answer_withdraws_the_unreleased_follow_up(conn: Connection) -> None:
    batch_id = made_of("failed", "failed", "failed", conn=conn)
    followed = follow(conn, batch_id, send=False)
    pause_batch(conn, followed, by="Ana")
    conn.commit()
    deliver(conn, batch_id, result_body(NUMBERS[1], "completed", last_event=90))
    assert calls(conn, followed) == [
        ("pending", None, None), ("withdrawn", None, "answered"), ("pending", None, None),
    ]  # fmt: skip
    deliver(conn, batch_id, result_body(NUMBERS[1], "completed", last_event=95))  # it is withdrawn already
    assert latest(conn, batch_id) == {"rows": 3, "final": 1, "completed": 1, "pending": 2}
    assert differences(conn) == []
    resume_batch(conn, followed, by="Ana")
    conn.commit()
    (outgoing,) = answer_submissions(conn)
    sent = b"".join(csv_blocks(conn, outgoing))
    assert (len(sent), sent.count(b"\n")) == (outgoing.csv_bytes, 3)
    deliver(conn, batch_id, result_body(NUMBERS[0], "completed", last_event=90))
    assert calls(conn, followed)[0] == ("pending", None, None)
    assert differences(conn) == []


def test_follow_up_without_a_call_left_is_withdrawn_and_its_batch_ends(conn: Connection) -> None:
    batch_id = made_of("failed", "failed", conn=conn)
    followed = follow(conn, batch_id, send=False)
    late = [result_body(number, "completed", last_event=90) for number in NUMBERS[:2]]
    deliver(conn, batch_id, *late)
    batch = read_batch(conn, followed)
    assert (batch.state, batch.phase, present(batch.counts)) == ("canceled", "ended", {"rows": 2, "withdrawn": 2})
    assert answer_submissions(conn) == []
    assert latest(conn, batch_id) == {"rows": 2, "final": 2, "completed": 2}
    assert differences(conn) == []


def test_claim_withdraws_what_was_answered_while_it_could_not_be_withdrawn(conn: Connection) -> None:
    batch_id = made_of("failed", "failed", conn=conn)
    followed = follow(conn, batch_id, send=False)
    # As if the answer was settled by a worker of an earlier release.
    conn.execute("alter table follow_up rename to hidden")
    conn.execute("create view follow_up as select * from hidden where false")
    deliver(conn, batch_id, result_body(NUMBERS[1], "completed", last_event=90))
    conn.execute("drop view follow_up")
    conn.execute("alter table hidden rename to follow_up")
    conn.commit()
    assert calls(conn, followed)[1] == ("pending", None, None)
    answer_submissions(conn)
    assert calls(conn, followed) == [("pending", None, None), ("withdrawn", None, "answered")]
    assert differences(conn) == []


def test_nothing_is_sent_of_which_one_call_is_suppressed_and_the_other_answered(conn: Connection) -> None:
    batch_id = made_of("failed", "failed", conn=conn)
    followed = follow(conn, batch_id, send=False)
    suppress(conn, NUMBERS[0], by="Ana")
    conn.execute("update result set outcome = 'completed' where batch_id = %s and row = 2", (batch_id,))
    conn.commit()
    assert answer_submissions(conn) == []
    assert calls(conn, followed) == [("withdrawn", None, "suppressed"), ("withdrawn", None, "answered")]
    assert read_batch(conn, followed).state == "canceled"


def test_answer_of_the_first_call_withdraws_the_last_follow_up_of_its_chain(conn: Connection) -> None:
    first = made_of("failed", "failed", conn=conn)
    second = follow(conn, first)
    deliver(conn, second, result_body(NUMBERS[0], "failed"), result_body(NUMBERS[1], "failed"))
    third = follow(conn, second, send=False)
    deliver(conn, first, result_body(NUMBERS[0], "completed", last_event=90))
    assert calls(conn, third) == [("withdrawn", None, "answered"), ("pending", None, None)]
    # Reached by the first call: the second is not followed up either.
    cancel_batch(conn, third, by="Ana")
    conn.commit()
    assert left_out(conn, third, include=["withdrawn"]) == {"chosen": 1, "completed": 1}


def test_worker_of_an_earlier_release_does_not_send_a_follow_up(conn: Connection) -> None:
    followed = follow(conn, made_of("failed", conn=conn), send=False)
    sent = conn.execute(
        "update submission set state = 'sending', worker_id = 1, sent_at = now() where batch_id = %s", (followed,)
    )
    assert sent.rowcount == 0


# Lineage


def test_lineage_counts_the_first_rows_by_what_they_came_to(conn: Connection) -> None:
    first = made_of("completed", "failed", "failed", "rejected", "canceled", None, conn=conn)
    second = follow(conn, first)
    assert latest(conn, first) == {"rows": 6, "pending": 4, "final": 2, "completed": 1, "canceled": 1}
    bodies = [result_body(NUMBERS[1]), result_body(NUMBERS[2], "failed"), result_body(NUMBERS[3], "other odd")]
    deliver(conn, second, *bodies)
    third = follow(conn, second)
    expected = {"rows": 6, "pending": 2, "final": 4, "completed": 2, "canceled": 1, "other": 1}
    for each in (first, second, third):
        found = lineage(conn, each)
        assert [batch if isinstance(batch, int) else batch.id for batch in found.batches] == [first, second, third]
        assert found.latest is not None and present(found.latest) == expected
    deliver(conn, third, result_body(NUMBERS[2]))
    # The failed call of the second batch was completed after all: once is enough.
    deliver(conn, first, result_body(NUMBERS[2], "completed", last_event=90))
    assert latest(conn, first) == {**expected, "pending": 1, "final": 5, "completed": 3}
    assert differences(conn) == []


def test_lineage_names_purged_batches(conn: Connection) -> None:
    first = made_of("failed", "failed", conn=conn)
    second = follow(conn, first)
    deliver(conn, second, result_body(NUMBERS[0], "failed"), result_body(NUMBERS[1]))
    third = follow(conn, second)
    purge_old(conn, second)
    found = lineage(conn, third)
    assert [batch if isinstance(batch, int) else batch.id for batch in found.batches] == [first, second, third]
    assert found.batches[1] == second
    purge_old(conn, first)
    assert lineage(conn, third).latest is None
    assert conn.execute("select from follow_up").rowcount == 0
    assert differences(conn) == []


def test_follow_up_is_for_the_same_kind_of_provider(conn: Connection) -> None:
    """What a simulator made up must never lead to a real call."""
    batch_id = make_batch(conn, NUMBERS[:2])
    deliver(conn, batch_id, *(result_body(number, "failed") for number in NUMBERS[:2]))
    conn.execute("update batch set simulated = true where batch_id = %s", (batch_id,))
    conn.commit()
    assert read_batch(conn, follow(conn, batch_id, send=False)).simulated


def test_repeated_numbers_are_kept_whatever_is_said(conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:1])
    assert follow_up_parameters(conn, batch_id, {"on_duplicate": None}).on_duplicate == "keep"


def test_late_answer_withdraws_a_follow_up_beyond_a_purged_batch(conn: Connection) -> None:
    first = make_batch(conn, NUMBERS[:2])
    deliver(conn, first, *(result_body(number, "failed") for number in NUMBERS[:2]))
    second = follow(conn, first)
    deliver(conn, second, *(result_body(number, "failed") for number in NUMBERS[:2]))
    third = follow(conn, second, send=False)
    purge_old(conn, second)
    assert [each if isinstance(each, int) else each.id for each in get_lineage(conn, first).batches] == [
        first, second, third,
    ]  # fmt: skip
    deliver(conn, first, result_body(NUMBERS[0], "completed", last_event=120))
    assert (get_call(conn, third, 1).withdrawn_reason, get_call(conn, third, 2).state) == ("answered", "pending")


def test_lineage_names_a_last_batch_that_was_purged(conn: Connection) -> None:
    first = make_batch(conn, NUMBERS[:1])
    deliver(conn, first, result_body(NUMBERS[0], "failed"))
    second = follow(conn, first)
    purge_old(conn, second)
    assert get_lineage(conn, first).batches[1] == second


def test_lineage_with_too_many_rows_is_not_counted(conn: Connection) -> None:
    first = make_batch(conn, NUMBERS[:2])
    deliver(conn, first, *(result_body(number, "failed") for number in NUMBERS[:2]))
    second = follow(conn, first)
    counted, listed = get_lineage(conn, first, 2), get_lineage(conn, first, 1)
    assert counted.latest is not None and listed.latest is None
    assert [each.id for each in listed.batches if isinstance(each, Batch)] == [first, second]
