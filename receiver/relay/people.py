"""Notify people (`NOTIFY_URLS`): one message for each type of event and hour, through apprise.

The row of `endpoint` without a url is their queue. So their events are owed, recorded and counted as those of an
endpoint, and failures are retried by the same schedule. No message contains a phone number.
"""

from __future__ import annotations

import json
import logging
import re
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from urllib.parse import unquote, urlsplit

from psycopg.rows import class_row

from receiver.config import Config
from receiver.database.pool import Connection, Pool, connection, reading
from receiver.database.worker_metrics import Measurements
from receiver.errors import NotFound
from receiver.logs import about, mask_digits
from receiver.model import EVENT_TYPES
from receiver.relay.endpoints import get_endpoint
from receiver.relay.queue import Outcome, Owed, record_outcomes
from receiver.relay.sending import SPEED, Attempt, next_wait
from receiver.release.answer import printable_line
from receiver.summary.batches import get_batch

log = logging.getLogger(__name__)

HOUR = timedelta(hours=1) / SPEED
GATHER = timedelta(seconds=10) / SPEED
"""Wait after the first event: one cause often has several."""

SENDING = timedelta(minutes=10)
"""While a worker sends a message, no other worker sends one of this type."""

CHECK_SECONDS = 2.0

ALL_BUT_RESULTS = tuple(event for event in EVENT_TYPES if event != "call.result")
"""The default of NOTIFY_EVENTS."""

AT_ONCE = 100_000
LINES = 20

_TITLES = {
    "call.result": "Results arrived",
    "batch.ended": "Batches ended",
    "batch.overdue": "Results are overdue",
    "batch.refused": "Batches were refused",
    "batch.canceled": "Batches were canceled",
    "submission.unknown": "Submissions may or may not be queued, and need a decision",
    "submission.refused": "Submissions were refused or not sent",
    "callback.unreadable": "Callbacks could not be read",
    "endpoint.disabled": "Endpoints were disabled",
}


def set_people(conn: Connection, events: Sequence[str]) -> None:
    """Make or change their queue. Without events it is removed, with what is owed to it."""
    if events:
        conn.execute(
            "insert into endpoint (events, secret) values (%s, '')"
            " on conflict ((true)) where url is null do update set events = excluded.events",
            (list(events),),
        )
    else:
        conn.execute(
            "with gone as (delete from endpoint where url is null returning endpoint_id)"
            " delete from endpoint_count using gone where endpoint_count.endpoint_id = gone.endpoint_id"
        )


def send(url: str, title: str, body: str) -> str | None:
    """Send a message to one Apprise address; returns why it failed, without any part of the address."""
    from apprise import Apprise, LogCapture  # it is slow to import

    address = Apprise()
    with LogCapture(level=logging.WARNING, fmt="%(message)s") as said:  # type: ignore[no-untyped-call]
        if address.add(url) and address.notify(body=body, title=title, body_format="text"):
            return None
    rest = url.partition(":")[2]
    parts = [part for part in re.split(r"[^\w.-]+", f"{rest} {unquote(rest)}") if len(part) > 3]
    return printable_line(said.getvalue(), [url, *parts]) or "no reason was given"


@dataclass(slots=True)
class _Told:
    """Events that one address was told, but that are not recorded yet, and until when it gets no other message."""

    ids: set[int] = field(default_factory=set)
    quiet_until: float = 0.0


class People:
    """A step of a worker. It remembers which addresses were told: only those that failed get a message again."""

    def __init__(self, pool: Pool, config: Config, measurements: Measurements) -> None:
        self._pool = pool
        self._measurements = measurements
        self._urls = config.notify_urls
        self._events = config.notify_urls and (config.notify_events or ALL_BUT_RESULTS)
        self._public_url = config.public_url
        self._is_set = False
        self._told: defaultdict[tuple[str, str], _Told] = defaultdict(_Told)

    def step(self) -> float:
        """Send one message, if it is time for one. At first, make or remove the queue."""
        if not self._is_set:
            with connection(self._pool) as conn:
                set_people(conn, self._events)
            self._is_set = True
        if not self._urls:
            return HOUR.total_seconds()
        with connection(self._pool) as conn:
            found = conn.execute(_READY, {"events": list(EVENT_TYPES), "gather": GATHER}).fetchone()
            if found is None or not conn.execute(_CLAIM, (found[1], SENDING)).rowcount:
                return CHECK_SECONDS / SPEED
        people_id, event = found
        with connection(self._pool) as conn, conn.cursor(row_factory=class_row(Owed)) as cursor:
            owed = cursor.execute(_OWED, (people_id, event, AT_ONCE)).fetchall()
        outcomes, wait = self._send(event, owed)
        with connection(self._pool) as conn:
            record_outcomes(conn, people_id, outcomes)
            # They are not disabled, however long they fail.
            conn.execute("update endpoint set failing_since = null where endpoint_id = %s", (people_id,))
            conn.execute("update upkeep set next_at = now() + %s where task = 'notify ' || %s", (wait, event))
        for url in self._urls:
            self._told[url, event].ids -= {outcome.owed.id for outcome in outcomes if not _failed(outcome)}
        return 0.0

    def _send(self, event: str, owed: Sequence[Owed]) -> tuple[list[Outcome], timedelta]:
        """Tell each address what it does not know yet. Returns what is to be recorded, and when to look again."""
        at, began = datetime.now(UTC), time.monotonic()
        failed = dict[int, str]()
        for number, url in enumerate(self._urls, 1):
            told = self._told[url, event]
            news = [each for each in owed if each.id not in told.ids]
            if not news or time.monotonic() < told.quiet_until:
                continue
            with reading(self._pool) as conn:
                message = write_message(conn, event, news, self._public_url)
            if (fault := send(url, *message)) is None:
                told.ids.update(each.id for each in news)
                told.quiet_until = time.monotonic() + HOUR.total_seconds()
            else:
                log.warning(
                    "address %d of NOTIFY_URLS (%s) failed: %s", number, url.partition(":")[0], fault,
                    extra=about("notify_failed", type=event),
                )  # fmt: skip
                self._measurements.count("failure", "notify")
                failed |= dict.fromkeys((each.id for each in news), f"Address {number} of NOTIFY_URLS failed.")
        seconds = round(time.monotonic() - began)
        everywhere = set.intersection(*(self._told[url, event].ids for url in self._urls))
        ended = [each for each in owed if each.id in failed or each.id in everywhere]
        outcomes = [Outcome(each, Attempt(at, None, seconds, failed.get(each.id))) for each in ended]
        tries = max((len(json.loads(each.attempts)) + 1 for each in owed if each.id in failed), default=0)
        wait = next_wait(tries, timedelta()) if tries else None
        return outcomes, HOUR if wait is None else wait


def _failed(outcome: Outcome) -> bool:
    return outcome.attempt is not None and not outcome.attempt.delivered


def write_message(conn: Connection, event: str, owed: Sequence[Owed], public_url: str) -> tuple[str, str]:
    """Title and text of a message about events of one type: a line for each batch, with its figures."""
    subjects: defaultdict[int, list[int | None]] = defaultdict(list)
    for each in owed:
        subjects[each.batch_id].append(each.subject)
    if event == "endpoint.disabled":
        lines = [_endpoint_line(conn, endpoint_id or 0) for endpoint_id in dict.fromkeys(subjects[0])]
    else:
        lines = [_batch_line(conn, event, *each, public_url) for each in list(subjects.items())[:LINES]]
    count = max(len(subjects), len(lines))
    more = [f"And {count - LINES} more."] if count > LINES else []
    return f"{_TITLES[event]}: {len(owed)}", "\n".join([*lines[:LINES], *more])


def _batch_line(conn: Connection, event: str, batch_id: int, subjects: Sequence[int | None], public_url: str) -> str:
    try:
        batch = get_batch(conn, batch_id, with_submissions=False)
    except NotFound:
        return f"Batch {batch_id}, which was purged"
    numbers = ", ".join(map(str, subjects[:10])) + (", …" if len(subjects) > 10 else "")
    what = {"submission": f", submissions {numbers}", "callback": f", {len(subjects)} callbacks"}
    figures = ", ".join(f"{name} {number}" for name, number in batch.counts.items() if number)
    name = f" ({mask_digits(batch.name)})" if batch.name else ""
    said = f"Batch {batch_id}{name}{what.get(event.partition('.')[0], '')}: {figures}."
    return f"{said} {public_url}/batches/{batch_id}"


def _endpoint_line(conn: Connection, endpoint_id: int) -> str:
    try:
        endpoint = get_endpoint(conn, endpoint_id)
    except NotFound:
        return f"Endpoint {endpoint_id}, which was deleted"
    reason = "it answered 410" if endpoint.disabled_reason == "gone" else "all requests failed for a week"
    return f"Endpoint {endpoint_id} ({urlsplit(endpoint.url).hostname}): {reason}. Its events wait until it is enabled."


_READY = """
select p.endpoint_id, t.event from endpoint p cross join unnest(%(events)s::text[]) as t (event)
left join upkeep u on u.task = 'notify ' || t.event
where p.url is null and (u.next_at is null or u.next_at <= now()) and exists (select from owed_event o
    where o.endpoint_id = p.endpoint_id and o.event = t.event and o.owed_at <= now() - %(gather)s)
limit 1
"""

_CLAIM = """
insert into upkeep as u (task, next_at) values ('notify ' || %s, now() + %s)
on conflict (task) do update set next_at = excluded.next_at where u.next_at <= now()
"""

_OWED = """
select event_id as id, slot, event, batch_id, subject, owed_at, coalesce(attempts::text, '[]') as attempts
from owed_event where endpoint_id = %s and event = %s order by owed_at limit %s
"""
