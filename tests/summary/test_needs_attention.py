"""What needs a person: counted over many batches as it is over each."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from receiver.database.pool import Connection
from receiver.summary.batches import BatchFilter, get_batch, list_batches
from receiver.summary.needs_attention import Attention, get_attention
from receiver.summary.verify import verify
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    make_batch,
    make_overdue,
    phone_number,
    purge_batch,
    result_body,
)

NUMBERS = [phone_number(index) for index in range(4)]


def ids(conn: Connection, **wanted: object) -> list[int]:
    return [batch.id for batch in list_batches(conn, BatchFilter(**wanted), 100)]  # type: ignore[arg-type]


def test_nothing_needs_attention_if_nothing_was_queued(conn: Connection) -> None:
    attention = get_attention(conn, BatchFilter())
    assert not attention.is_needed
    assert set(attention.totals.values()) == {0}


def test_everything_that_needs_attention_is_counted(conn: Connection) -> None:
    overdue = make_batch(conn, NUMBERS, past_due=True)
    deliver(conn, overdue, result_body(NUMBERS[0]))
    unknown = make_batch(conn, NUMBERS[:3], send=False, submission_rows=2)
    answer_submissions(conn, lambda outgoing: UNKNOWN if outgoing.submission_no == 1 else ACCEPTED)
    refused = make_batch(conn, NUMBERS, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    asked = make_batch(conn, NUMBERS)
    deliver(conn, asked, b"nothing of use", b"neither", result_body(phone_number(99)))
    deliver(conn, asked, result_body(NUMBERS[0], last_event=60), result_body(NUMBERS[0], "failed", last_event=50))
    attention = get_attention(conn, BatchFilter())
    assert attention == Attention(
        totals=attention.totals,
        overdue_calls=3,
        overdue_batches=1,
        unknown_submissions=1,
        unknown_calls=2,
        refused_submissions=1,
        refused_calls=4,
        unreadable=2,
        unmatched=1,
        conflict=1,
        waiting_batches=0,
        waiting_calls=0,
        simulated_batches=0,
        simulated=dict.fromkeys(attention.totals, 0),
    )
    assert attention.is_needed
    batches = [get_batch(conn, batch_id) for batch_id in (overdue, unknown, refused, asked)]
    assert attention.totals == {name: sum(batch.counts[name] for batch in batches) for name in batches[0].counts}
    assert ids(conn, overdue=True) == [overdue]
    assert ids(conn, submission_state="unknown") == [unknown]
    assert ids(conn, submission_state="refused") == [refused]
    assert ids(conn, running=True) == [asked, unknown]
    assert ids(conn, running=True, submission_state="unknown", name="") == [unknown]
    conn.rollback()
    assert list(verify(conn)) == []


def test_batch_runs_while_it_is_queueing_or_has_pending_calls(conn: Connection) -> None:
    queueing, late = make_batch(conn, NUMBERS, send=False), make_batch(conn, NUMBERS, send=False)
    assert ids(conn, running=True) == [late, queueing]
    answer_submissions(conn)
    make_overdue(conn, late)
    assert ids(conn, running=True) == [queueing]
    deliver(conn, queueing, *map(result_body, NUMBERS))
    assert ids(conn, running=True) == []


def test_filters_select_batches(conn: Connection) -> None:
    for application_id, deployment_id in ((1, 1), (1, 2), (2, 1)):
        make_batch(conn, NUMBERS, past_due=True, application_id=application_id, deployment_id=deployment_id)
    old = make_batch(conn, NUMBERS, past_due=True, application_id=3)
    conn.execute("update batch set created_at = now() - interval '3 days' where batch_id = %s", (old,))
    conn.commit()
    day_ago = datetime.now(UTC) - timedelta(days=1)
    for wanted, batches in (
        (BatchFilter(), 4),
        (BatchFilter(application_id=1), 2),
        (BatchFilter(application_id=1, deployment_id=2), 1),
        (BatchFilter(deployment_id=9), 0),
        (BatchFilter(created_from=day_ago), 3),
        (BatchFilter(created_to=day_ago), 1),
        (BatchFilter(application_id=3, created_from=day_ago), 0),
    ):
        attention = get_attention(conn, wanted)
        assert (attention.overdue_batches, attention.overdue_calls) == (batches, 4 * batches), wanted
        assert attention.totals["rows"] == 4 * batches


def test_callback_for_a_purged_batch_needs_attention(conn: Connection) -> None:
    purged = make_batch(conn, NUMBERS)
    purge_batch(conn, purged)
    conn.execute("delete from batch where batch_id = %s", (purged,))
    conn.commit()
    deliver(conn, purged, result_body(NUMBERS[0]))
    attention = get_attention(conn, BatchFilter())
    assert attention.unmatched == 1
    assert set(attention.totals.values()) == {0}


def test_waiting_batch_for_the_other_kind_of_provider_needs_attention(conn: Connection) -> None:
    real = make_batch(conn, NUMBERS, send=False)
    simulated = make_batch(conn, NUMBERS[:3], send=False, simulated=True)
    with_provider, with_simulator = (
        get_attention(conn, BatchFilter()),
        get_attention(conn, BatchFilter(), simulated=True),
    )
    assert (with_provider.waiting_batches, with_provider.waiting_calls) == (1, 3)
    assert (with_simulator.waiting_batches, with_simulator.waiting_calls) == (1, 4)
    assert with_provider.is_needed and with_simulator.is_needed
    assert ids(conn, not_sent_by=False) == [simulated]
    assert ids(conn, not_sent_by=True) == [real]
    answer_submissions(conn, simulated=True)
    assert get_attention(conn, BatchFilter()).waiting_batches == 0


def test_figures_of_simulated_batches_are_shown_separately(conn: Connection) -> None:
    make_batch(conn, NUMBERS)
    simulated = make_batch(conn, NUMBERS[:3], simulated=True)
    deliver(conn, simulated, result_body(NUMBERS[0]))
    attention = get_attention(conn, BatchFilter())
    assert attention.totals["rows"] == 7
    assert attention.simulated_batches == 1
    assert {name: count for name, count in attention.simulated.items() if count} == {
        "rows": 3, "pending": 2, "final": 1, "completed": 1,
    }  # fmt: skip
