"""Fetching a result that nobody delivered: the provider is asked what became of the call.

`GET {PLUM_URL}/api/outbound/{call_id}` answers with `call_details` (provider page: Queue one call, status,
cancel). The body is journaled, marked as polled, and settled as any callback is, in one transaction; so a
callback that comes later all the same is a duplicate, or a conflict that the usual rule decides.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from enum import Enum
from typing import TypeVar
from urllib.parse import quote

from receiver.database.locks import share_results
from receiver.database.pool import GAVE_WAY, Connection, Pool, connection
from receiver.intake.journal import BODY_BYTES
from receiver.intake.packing import pack
from receiver.release.provider import Got, NoAnswer, Provider, get, read_error
from receiver.results.polls import Poll, claim_poll, end_poll, pause_polls, put_off
from receiver.results.reading.call_details import UnreadableBody, read_call_details
from receiver.results.reading.field_values import storable
from receiver.results.settlement import settle
from receiver.results.stored import get_stored

SHORTEST_PAUSE, LONGEST_PAUSE = timedelta(minutes=1), timedelta(hours=1)

_TRIES = 3

_T = TypeVar("_T")


class Polled(Enum):
    """What came of asking once."""

    RESULT = "result"
    """The call has ended, and its result is settled."""
    LATER = "later"
    """Not yet known; asked again, unless it was asked often enough."""
    NEVER = "never"
    """The provider does not know this call, or not as ours."""
    PAUSED = "paused"
    """Nobody is asked for a while: the credentials were refused, or we ask too often."""


def poll_once(pool: Pool, provider: Provider, rate: float) -> tuple[Poll, Polled, str] | None:
    """Ask about one call, if one is due at `rate` a second; returns it, what came of it, and why in words."""
    with connection(pool) as conn:
        poll = claim_poll(conn, rate, simulated=provider.simulated)
    if poll is None:
        return None
    try:
        got = get(provider, f"/api/outbound/{quote(poll.call_id, safe='')}")
    except NoAnswer as unanswered:
        return _put_off(pool, poll, None, str(unanswered))
    if got.status == 200 and got.broke_off is None:
        return _take(pool, poll, got)
    error = read_error(provider, got) if got.broke_off is None else "the answer was incomplete"
    if got.status in (401, 429) or (got.status == 503 and got.retry_after):
        pause = _pause(got.retry_after)
        _recorded(pool, lambda conn: pause_polls(conn, poll, pause, got.status, error))
        return poll, Polled.PAUSED, error
    # 403 another user's, 404 not known; whatever else is our request's fault will be so again.
    again = not 400 <= got.status < 500 or got.status in (408, 425)
    return _put_off(pool, poll, got.status, error, again=again)


def _take(pool: Pool, poll: Poll, got: Got) -> tuple[Poll, Polled, str]:
    """Journal and settle a body, provided it says something about a call of this submission."""
    received_at = datetime.now(UTC)
    content_type = storable(got.content_type)
    if len(got.body) > BODY_BYTES:
        return _put_off(pool, poll, 200, "the answer is too long to be a call's details")
    try:
        read_call_details(got.body, content_type)
    except UnreadableBody as unreadable:
        # It names nothing, so there is nothing to keep: a gateway's page would be stored once for each try.
        return _put_off(pool, poll, 200, str(unreadable))

    def record(conn: Connection) -> tuple[Polled, str]:
        share_results(conn)
        if not _exists(conn, poll):
            return Polled.NEVER, "the call was purged or erased"
        row = conn.execute(
            "insert into callback (batch_id, submission_no, received_at, polled, content_type, packing, body)"
            " values (%s, %s, %s, true, %s, %s, %s) returning callback_id",
            (poll.batch_id, poll.submission_no, received_at, content_type, *pack(got.body)),
        ).fetchone()
        assert row is not None  # noqa: S101 an insert without conflict clause returns its row
        settle(conn, get_stored(conn, [(poll.batch_id, row[0])]))
        if not _is_outstanding(conn, poll):
            end_poll(conn, poll)
            return Polled.RESULT, ""
        aside = conn.execute(
            "select state from set_aside where batch_id = %s and callback_id = %s", (poll.batch_id, row[0])
        ).fetchone()
        if aside == ("unmatched",):
            put_off(conn, poll, 200, "the id belongs to another call", again=False)
            return Polled.NEVER, "the id belongs to another call"
        put_off(conn, poll, 200, "the call has not ended")
        return Polled.LATER, "the call has not ended"

    polled, words = _recorded(pool, record)
    return poll, polled, words


def _put_off(
    pool: Pool, poll: Poll, provider_status: int | None, error: str, *, again: bool = True
) -> tuple[Poll, Polled, str]:
    _recorded(pool, lambda conn: put_off(conn, poll, provider_status, error, again=again))
    return poll, Polled.LATER if again else Polled.NEVER, error


def _recorded(pool: Pool, record: Callable[[Connection], _T]) -> _T:
    """Do it in a transaction; again where another worker was in the way. Otherwise the lease leads back here."""
    for _ in range(_TRIES - 1):
        try:
            with connection(pool) as conn:
                return record(conn)
        except GAVE_WAY:
            continue
    with connection(pool) as conn:
        return record(conn)


def _exists(conn: Connection, poll: Poll) -> bool:
    """Whether the call is still to be asked about. A purge and an erasure wait for the results lock, which we share."""
    row = conn.execute(
        "select from poll p join batch b using (batch_id) where p.batch_id = %s and p.row = %s",
        (poll.batch_id, poll.row),
    ).fetchone()
    return row is not None


def _is_outstanding(conn: Connection, poll: Poll) -> bool:
    row = conn.execute(
        "select from outstanding where batch_id = %s and not refused and row = %s", (poll.batch_id, poll.row)
    ).fetchone()
    return row is not None


def _pause(retry_after: str) -> timedelta:
    """The header's seconds (RFC 9110: 10.2.3) within bounds; a date, or nothing, is five minutes."""
    text = retry_after.strip()
    seconds = int(text[:9]) if text.isascii() and text.isdigit() else 300
    return min(max(timedelta(seconds=seconds), SHORTEST_PAUSE), LONGEST_PAUSE)
