"""Canceling a deployment at the provider, which can only cancel all pending calls of a deployment at once.

Whoever asks for it writes a request, which holds back all releases of the deployment. A worker makes it, once nothing
of the deployment is being sent, and records the answer. What is lost is `unknown`, and never asked again by itself.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from psycopg.rows import class_row

from receiver.changes.audit import record_change
from receiver.changes.counters import own_counters
from receiver.changes.events import REMAINING, Events
from receiver.database.locks import lock_batches
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.release.answer import Answer
from receiver.release.calls import count_open
from receiver.release.claim import HELD
from receiver.release.control import cancel_locked

ABANDONED = "The worker that asked the provider did not record the answer."

WAITS_FOR_SENDING = timedelta(seconds=60)
"""How long a request waits for what is being sent, and for a worker. After that, it is given up."""

OTHER_KIND = {
    True: "The provider was not asked: these calls are real, and the worker's provider is a simulator.",
    False: "The provider was not asked: these calls are simulated, and the worker's provider is real.",
}
"""Why a worker did not ask, by whether its provider is a simulator."""

LEFT_TO_THEIR_KIND = timedelta(seconds=5)
"""How long a worker leaves a request to workers whose kind of provider has the calls. Then it ends the request."""

_SENDING = """select b.application_id, b.deployment_id from submission s join batch b using (batch_id)
    where s.state = 'sending'"""


@dataclass(frozen=True, slots=True)
class AffectedBatch:
    """A batch of the deployment with calls that a cancellation ends. `calls_pending`: they were sent and have no
    result yet. Simulated ones do not count while real ones are pending: only a real provider is asked then.
    `withdrawn`: calls that were, or would be, withdrawn because they are unreleased."""

    id: int
    name: str
    calls_pending: int
    withdrawn: int
    simulated: bool


@dataclass(frozen=True, slots=True)
class CancelRequest:
    """`state`: waiting, asking; sending (it was not asked: something was still being sent); accepted, refused, unknown
    (what the provider answered)."""

    cancel_id: int
    application_id: int
    deployment_id: int
    state: str
    requested_at: datetime
    provider_status: int | None
    error: str | None

    @property
    def is_over(self) -> bool:
        return self.state not in ("waiting", "asking")


def list_affected(
    conn: Connection, application_id: int, deployment_id: int, batch_id: int | None = None
) -> list[AffectedBatch]:
    """What canceling the deployment, or only one batch of it, would affect now: the dry run."""
    found = conn.execute(
        f"select b.batch_id, b.name, {REMAINING}, coalesce(s.pending, '{{}}'), coalesce(b.simulated, false)"
        " from batch b join batch_total c using (batch_id) cross join lateral ("
        " select array_agg(submission_no) as pending from submission s"
        " where s.batch_id = b.batch_id and s.state = 'pending') s"
        f" where (b.state = 'queueing' or {REMAINING} > 0)"
        " and b.application_id = %s and b.deployment_id = %s and b.batch_id = coalesce(%s, b.batch_id)"
        " order by b.batch_id",
        (application_id, deployment_id, batch_id),
    ).fetchall()
    affected = []
    for batch_id, name, calls, pending, simulated in found:
        withdrawn = count_open(conn, batch_id, pending) if pending else 0
        if calls or pending:
            affected.append(AffectedBatch(batch_id, name, calls - withdrawn, withdrawn, simulated))
    return _of_one_kind(affected)


def request_cancel(
    conn: Connection, application_id: int, deployment_id: int, *, by: str, note: str | None = None
) -> tuple[int, list[AffectedBatch]]:
    """Withdraw everything unreleased of the deployment, hold its releases, and have a worker ask the provider; returns
    the request's id and what is affected. The caller commits, and then waits for `get_cancel` to be over."""
    row = conn.execute(
        "insert into deployment_cancel (application_id, deployment_id, requested_by) values (%s, %s, %s)"
        " returning cancel_id",
        (application_id, deployment_id, by),
    ).fetchall()[0]
    details = {"application_id": application_id, "deployment_id": deployment_id, "cancel_id": row[0]}
    record_change(conn, by, "cancel_deployment", details=details, note=note)
    affected = list_affected(conn, application_id, deployment_id)
    lock_batches(conn, [batch.id for batch in affected])
    own_counters(conn, [batch.id for batch in affected])
    done, events = [], Events()
    for batch in affected:
        canceled = cancel_locked(conn, batch.id, events, by=by, note=note)
        done.append(replace(batch, calls_pending=canceled.at_provider, withdrawn=canceled.withdrawn))
    events.write(conn)
    return row[0], _of_one_kind(done)


def _of_one_kind(affected: list[AffectedBatch]) -> list[AffectedBatch]:
    if all(batch.simulated or not batch.calls_pending for batch in affected):
        return affected
    return [replace(batch, calls_pending=0) if batch.simulated else batch for batch in affected]


def get_cancel(conn: Connection, cancel_id: int) -> CancelRequest:
    """Raises NotFound."""
    with conn.cursor(row_factory=class_row(CancelRequest)) as cursor:
        found = cursor.execute(
            "select cancel_id, application_id, deployment_id, state, requested_at, provider_status, error"
            " from deployment_cancel where cancel_id = %s",
            (cancel_id,),
        ).fetchone()
    if found is None:
        raise NotFound(f"There is no request {cancel_id} to cancel a deployment.")
    return found


def is_held(conn: Connection, batch_id: int) -> bool:
    """Whether the batch's releases wait because its deployment is being canceled."""
    held = f"select from batch where batch_id = %s and (application_id, deployment_id) in ({HELD})"
    return conn.execute(held, (batch_id,)).rowcount == 1


def give_up_cancel(conn: Connection, cancel_id: int) -> CancelRequest:
    """Give the request up, unless a worker has begun to make it. Returns the request as it is then."""
    conn.execute(
        "update deployment_cancel set state = 'sending', answered_at = now()"
        " where cancel_id = %s and state = 'waiting'",
        (cancel_id,),
    )
    return get_cancel(conn, cancel_id)


def claim_cancel(conn: Connection, worker_id: int, *, simulated: bool = False) -> CancelRequest | None:
    """The next request that can be made now, marked `asking`. The caller commits before it asks the provider.

    `simulated`: the worker's provider is a simulator. It is not asked to cancel real calls, nor the reverse.
    """
    conn.execute(
        "update deployment_cancel set state = 'sending', answered_at = now()"
        " where state = 'waiting' and requested_at < now() - %s",
        (WAITS_FOR_SENDING,),
        prepare=True,
    )
    waiting = conn.execute(
        "select cancel_id, now() - requested_at, application_id, deployment_id from deployment_cancel"
        f" where state = 'waiting' and (application_id, deployment_id) not in ({_SENDING})"
        " order by cancel_id limit 1 for update skip locked",
        prepare=True,
    ).fetchone()
    if waiting is None:
        return None
    cancel_id, waited, *deployment = waiting
    # A claim that began before the request holds its batch's lock. After that, its submission is `sending`.
    queueing = conn.execute(
        "select batch_id from batch where state = 'queueing' and application_id = %s and deployment_id = %s", deployment
    ).fetchall()
    lock_batches(conn, [batch_id for (batch_id,) in queueing])
    sending = conn.execute(
        f"{_SENDING} and b.application_id = %s and b.deployment_id = %s limit 1", deployment
    ).fetchone()
    if sending is not None:
        return None
    if any(batch.calls_pending and batch.simulated != simulated for batch in list_affected(conn, *deployment)):
        if waited >= LEFT_TO_THEIR_KIND:
            record_cancel(conn, cancel_id, Answer("not_sent", error=OTHER_KIND[simulated]))
        return None
    conn.execute(
        "update deployment_cancel set state = 'asking', worker_id = %s where cancel_id = %s", (worker_id, cancel_id)
    )
    return get_cancel(conn, cancel_id)


def list_asking(conn: Connection, worker_ids: Collection[int]) -> list[int]:
    """The requests that these workers are making, according to the database."""
    asking = "select cancel_id from deployment_cancel where state = 'asking' and worker_id = any(%s)"
    return [cancel_id for (cancel_id,) in conn.execute(asking, (sorted(worker_ids),))]


def abandon_cancels(conn: Connection, cancel_ids: Collection[int]) -> None:
    """Mark requests that no worker is making any more as `unknown`: their answers were not recorded."""
    conn.execute(
        "update deployment_cancel set state = 'unknown', answered_at = now(), error = %s"
        " where state = 'asking' and cancel_id = any(%s)",
        (ABANDONED, list(cancel_ids)),
    )


def record_cancel(conn: Connection, cancel_id: int, answer: Answer) -> None:
    """Record what the provider answered. What was not sent was not asked: that counts as refused."""
    state = "refused" if answer.state == "not_sent" else answer.state
    conn.execute(
        "update deployment_cancel set state = %s, answered_at = now(), provider_status = %s, error = %s"
        " where cancel_id = %s and state in ('waiting', 'asking', 'unknown')",
        (state, answer.provider_status, answer.error, cancel_id),
    )
