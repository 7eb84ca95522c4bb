"""Fetches results that were not delivered, from the provider.

`GET {PLUM_URL}/api/outbound/{call_id}` answers with `call_details` (provider page: Queue one call, status, cancel). The
body is stored in the journal, marked as polled, and settled like a callback, in one transaction. So a callback that
arrives later is a duplicate, or a conflict that the usual rules decide.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar
from urllib.parse import quote

from receiver.changes.events import Events
from receiver.database.locks import share_results
from receiver.database.pool import GAVE_WAY, Connection, Pool, connection
from receiver.intake.journal import BODY_BYTES
from receiver.intake.packing import pack
from receiver.release.provider import Got, NoAnswer, Provider, get, read_error
from receiver.results.bodies import read_bodies
from receiver.results.polls import Poll, claim_poll, end_poll, pause_polls, put_off
from receiver.results.reading.call_details import read_call_details
from receiver.results.reading.field_values import storable
from receiver.results.reading.unreadable import UnreadableBody
from receiver.results.settlement import settle_read
from receiver.results.stored import get_stored

SHORTEST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)

_TRIES = 3

_T = TypeVar("_T")


Polled = Literal["result", "later", "never", "paused"]
"""How a request for a result ended. result: the call has ended, and its result is settled. later: not known yet; it is
requested again, up to MOST_TRIES times. never: the provider does not know this call, or it belongs to another user.
paused: all requests pause, because the credentials were refused, or there were too many requests."""


def poll_once(
    pool: Pool, provider: Provider, rate: float, suppress_statuses: Collection[str] = ()
) -> tuple[Poll, Polled, str] | None:
    """Request one result, if one is due at `rate` per second; returns the poll, how it ended, and the reason in words.

    `suppress_statuses`: as for `settle_read`.
    """
    with connection(pool) as conn:
        poll = claim_poll(conn, rate, simulated=provider.simulated)
    if poll is None:
        return None
    try:
        got = get(provider, f"/api/outbound/{quote(poll.call_id, safe='')}")
    except NoAnswer as unanswered:
        return _put_off(pool, poll, None, str(unanswered))
    if got.status == 200 and got.broke_off is None:
        return _settle_answer(pool, poll, got, suppress_statuses)
    error = read_error(provider, got) if got.broke_off is None else "the answer was incomplete"
    if got.status in (401, 429) or (got.status == 503 and got.retry_after):
        pause = _pause(got.retry_after)
        _in_transaction(pool, lambda conn: pause_polls(conn, poll, pause, got.status, error))
        return poll, "paused", error
    # 403: another user's call; 404: unknown. Other faults of our request would occur again.
    again = not 400 <= got.status < 500 or got.status in (408, 425)
    return _put_off(pool, poll, got.status, error, again=again)


def _settle_answer(pool: Pool, poll: Poll, got: Got, suppress_statuses: Collection[str]) -> tuple[Poll, Polled, str]:
    """Store and settle a body if it describes a call."""
    received_at = datetime.now(UTC)
    content_type = storable(got.content_type)
    if len(got.body) > BODY_BYTES:
        return _put_off(pool, poll, 200, "the answer is too long to be a call's details")
    try:
        read_call_details(got.body, content_type)
    except UnreadableBody as unreadable:
        # Not stored: the page of a gateway would be stored once for each try.
        return _put_off(pool, poll, 200, str(unreadable))

    def record(conn: Connection) -> tuple[Polled, str]:
        share_results(conn, [poll.batch_id])
        if not _exists(conn, poll):
            return "never", "the call was purged or erased"
        row = conn.execute(
            "insert into callback (batch_id, submission_no, received_at, polled, content_type, packing, body)"
            " values (%s, %s, %s, true, %s, %s, %s) returning callback_id",
            (poll.batch_id, poll.submission_no, received_at, content_type, *pack(got.body)),
        ).fetchall()[0]
        events = Events()
        settle_read(conn, read_bodies(get_stored(conn, [(poll.batch_id, row[0])])), events, suppress_statuses)
        ended = _end(conn, poll, row[0])
        events.write(conn)
        return ended

    polled, reason = _in_transaction(pool, record)
    return poll, polled, reason


def _end(conn: Connection, poll: Poll, callback_id: int) -> tuple[Polled, str]:
    """End a poll whose body is settled, or put it off."""
    if not _is_outstanding(conn, poll):
        end_poll(conn, poll)
        return "result", ""
    aside = conn.execute(
        "select state from set_aside where batch_id = %s and callback_id = %s", (poll.batch_id, callback_id)
    ).fetchone()
    if aside == ("unmatched",):
        put_off(conn, poll, 200, "the id belongs to another call", again=False)
        return "never", "the id belongs to another call"
    put_off(conn, poll, 200, "the call has not ended")
    return "later", "the call has not ended"


def _put_off(
    pool: Pool, poll: Poll, provider_status: int | None, error: str, *, again: bool = True
) -> tuple[Poll, Polled, str]:
    _in_transaction(pool, lambda conn: put_off(conn, poll, provider_status, error, again=again))
    return poll, "later" if again else "never", error


def _in_transaction(pool: Pool, record: Callable[[Connection], _T]) -> _T:
    """Record in a transaction, and retry if another worker blocked it. If this fails, the poll is repeated after its
    lease."""
    for _ in range(_TRIES - 1):
        try:
            with connection(pool) as conn:
                return record(conn)
        except GAVE_WAY:
            continue
    with connection(pool) as conn:
        return record(conn)


def _exists(conn: Connection, poll: Poll) -> bool:
    """Whether the poll still exists. We hold the shared results lock, so a purge or an erasure cannot delete it now."""
    exists = "select from poll p join batch b using (batch_id) where p.batch_id = %s and p.row = %s"
    return conn.execute(exists, (poll.batch_id, poll.row)).rowcount == 1


def _is_outstanding(conn: Connection, poll: Poll) -> bool:
    is_outstanding = "select from outstanding where batch_id = %s and not refused and row = %s"
    return conn.execute(is_outstanding, (poll.batch_id, poll.row)).rowcount == 1


def _pause(retry_after: str) -> timedelta:
    """The seconds of `Retry-After` (RFC 9110: 10.2.3), limited; five minutes for a date or no header."""
    text = retry_after.strip()
    seconds = int(text[:9]) if text.isascii() and text.isdigit() else 300
    return min(max(timedelta(seconds=seconds), SHORTEST_PAUSE), LONGEST_PAUSE)
