"""Deliver events: one worker at a time serves an endpoint, with a window of requests in progress.

A worker holds an advisory lock for each endpoint that it serves. So the limit of requests in progress holds over all
workers, without claims or leases. If a worker dies, its locks are free at once, and what it had in progress is sent
again with the same id. The lock never decides what is recorded (`receiver.relay.queue`).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from queue import Empty, SimpleQueue

from receiver.config import Network
from receiver.database.pool import GAVE_WAY, Connection, DatabaseUnavailable, Pool, connection
from receiver.database.worker_metrics import Measurements
from receiver.logs import about
from receiver.relay.bodies import make_bodies
from receiver.relay.queue import Outcome, Owed, get_target, list_due, list_targets, record_outcomes
from receiver.relay.sending import Attempt, Sender

ENDPOINT_LOCK = 0x72656C61
"""The first half of the advisory lock of an endpoint. The second half is the endpoint's id."""

IN_PROGRESS = 16
"""Most requests to one endpoint at a time."""

AHEAD = 2 * IN_PROGRESS
"""Events that are ready when a request ends, so that nothing waits for the database."""

FRESH_SECONDS = 1.0
"""A body that waited longer is not sent, but made again."""

SERVED = 64
"""Most endpoints that a worker serves at a time. Each needs threads."""

KEPT = timedelta(days=30)
"""An event that is older is given up."""

TURN_SECONDS = 60.0
"""A worker serves an endpoint for so long; then any worker can have it."""

KEEP_SECONDS = 10.0
"""How long an endpoint is served without an event, to keep its connections."""

CHECK_SECONDS = 0.2
ERROR_SECONDS = 1.0

STRUGGLES_AFTER = 16
"""After so many failures in a row, an endpoint gets one small group a second: it is probably down."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Relay:
    """Delivers events in a worker. `connect` makes the connection that holds the locks."""

    pool: Pool
    connect: Callable[[], Connection]
    networks: Sequence[Network]
    measurements: Measurements
    stop: threading.Event

    def run(self) -> float:
        """Serve endpoints until the worker stops, or the connection that holds the locks breaks (an error)."""
        ended = threading.Event()
        serving: dict[int, threading.Thread] = {}
        with self.connect() as locks:
            try:
                while not self.stop.is_set():
                    over = {each for each, thread in serving.items() if not thread.is_alive()}
                    for endpoint_id in over:
                        del serving[endpoint_id]
                        locks.execute("select pg_advisory_unlock(%s, %s)", (ENDPOINT_LOCK, endpoint_id))
                    for endpoint_id in list_targets(locks):
                        if len(serving) >= SERVED:
                            break
                        if endpoint_id not in serving and endpoint_id not in over and _lock(locks, endpoint_id):
                            name, args = f"endpoint-{endpoint_id}", (endpoint_id, ended)
                            thread = threading.Thread(target=self._serve, args=args, name=name, daemon=True)
                            thread.start()
                            serving[endpoint_id] = thread
                    # The worker that serves the fewest is the first to see the next one.
                    self.stop.wait(min(CHECK_SECONDS * (1 + len(serving)), 1.0))
            finally:
                ended.set()
                for thread in serving.values():
                    thread.join()
        return 0.0

    def _serve(self, endpoint_id: int, ended: threading.Event) -> None:
        try:
            _Window(endpoint_id, self).run(ended)
        except DatabaseUnavailable as error:
            log.warning("endpoint %d: %s", endpoint_id, error, extra=about("database_away", step="relay"))
        except Exception:
            log.exception("endpoint %d: delivery failed; trying again", endpoint_id, extra=about("step_failed"))
            self.measurements.count("failure", "relay")
            ended.wait(ERROR_SECONDS)


class _Window:
    """The requests to one endpoint that are in progress, those that come next, and those that are not recorded."""

    def __init__(self, endpoint_id: int, relay: Relay) -> None:
        self._endpoint_id = endpoint_id
        self._relay = relay
        self._senders = ThreadPoolExecutor(IN_PROGRESS, f"send-{endpoint_id}")
        self._sender: Sender | None = None
        self._taken: set[int] = set()
        self._finished: SimpleQueue[tuple[Owed, Attempt | None]] = SimpleQueue()
        """Without an attempt: its body was too old, or the endpoint wants no more."""
        self._unmade: set[int] = set()
        """Events whose bodies could not be made. They wait until the next turn."""
        self._failures = 0

    def run(self, ended: threading.Event) -> None:
        """Deliver until nothing is due, the turn is over, or `ended`. Then finish and record what is in progress."""
        until, busy_at = time.monotonic() + TURN_SECONDS, time.monotonic()
        outcomes: list[Outcome] = []
        try:
            while True:
                now = time.monotonic()
                more = not ended.is_set() and now < min(until, busy_at + KEEP_SECONDS)
                try:
                    self._turn(outcomes, more=more)
                except (DatabaseUnavailable, *GAVE_WAY) as error:
                    log.warning(
                        "endpoint %d: %d outcomes are not recorded yet: %s", self._endpoint_id, len(outcomes), error,
                        extra=about("outcomes_not_recorded", endpoint_id=self._endpoint_id),
                    )  # fmt: skip
                    if ended.wait(ERROR_SECONDS):
                        return
                if self._taken:
                    busy_at = time.monotonic()
                elif not more:
                    return
                if self._struggles:
                    ended.wait(ERROR_SECONDS)
                outcomes += self._collect()
        finally:
            self._senders.shutdown(cancel_futures=True)
            if self._sender is not None:
                self._sender.close()

    @property
    def _struggles(self) -> bool:
        return self._failures >= STRUGGLES_AFTER

    def _turn(self, outcomes: list[Outcome], *, more: bool) -> None:
        """Record outcomes, remove them from the list, and send more events."""
        with connection(self._relay.pool) as conn:
            record_outcomes(conn, self._endpoint_id, outcomes)
            target = get_target(conn, self._endpoint_id)
            conn.commit()  # settlements wait for the counters, and making bodies takes time
            self._taken.difference_update(outcome.owed.id for outcome in outcomes)
            outcomes.clear()
            if self._sender is not None and (target is None or self._sender.url != target.url):
                self._sender.close()
                self._sender = None
            room = IN_PROGRESS + (0 if self._struggles else AHEAD) - len(self._taken)
            if target is None or not more or room <= 0:
                return
            due = list_due(conn, self._endpoint_id, room, self._taken | self._unmade)
            oldest = datetime.now(UTC) - KEPT
            bodies = make_bodies(conn, [owed for owed in due if owed.owed_at > oldest])
            self._unmade.update(event_id for event_id, body in bodies.items() if body is None)
            record_outcomes(conn, self._endpoint_id, [Outcome(owed, None) for owed in due if owed.id not in bodies])
        if self._sender is None:
            self._sender = Sender(target.url, self._relay.networks)
        made_at = time.monotonic()
        for owed in due:
            if body := bodies.get(owed.id):
                self._taken.add(owed.id)
                self._senders.submit(self._send, self._sender, owed, body, target.secrets, made_at)

    def _send(self, sender: Sender, owed: Owed, body: str, secrets: Sequence[str], made_at: float) -> None:
        attempt = None
        try:
            if time.monotonic() - made_at <= FRESH_SECONDS and not sender.closed:
                attempt = sender.send(owed.message_id, body, secrets)
                sender.closed = sender.closed or attempt.gone
        finally:
            self._finished.put((owed, attempt))

    def _collect(self) -> list[Outcome]:
        """Wait for something to record, for a short time; returns all that is there."""
        outcomes: list[Outcome] = []
        try:
            found = self._finished.get(timeout=CHECK_SECONDS)
            while True:
                owed, attempt = found
                if attempt is None:
                    self._taken.discard(owed.id)
                else:
                    self._failures = 0 if attempt.delivered else self._failures + 1
                    outcomes.append(Outcome(owed, attempt))
                    self._relay.measurements.count("delivery", "delivered" if attempt.delivered else "failed")
                found = self._finished.get_nowait()
        except Empty:
            return outcomes


def _lock(conn: Connection, endpoint_id: int) -> bool:
    return bool(conn.execute("select pg_try_advisory_lock(%s, %s)", (ENDPOINT_LOCK, endpoint_id)).fetchall()[0][0])
