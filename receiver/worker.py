"""The worker: sends submissions, settles callbacks, runs maintenance, and finishes the work of dead workers.

Each of these is a thread that repeats a step. If the step fails, the error is logged and the step is repeated after a
pause. This is safe because each step is a separate transaction.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from typing import TypeVar

import psycopg

from receiver.config import Config
from receiver.database.low_water_mark import MarkRaiser
from receiver.database.pool import (
    STATEMENT_SECONDS,
    Connection,
    DatabaseUnavailable,
    Pool,
    connect,
    connection,
    open_pool,
)
from receiver.database.worker_metrics import Measurements, add_measured
from receiver.errors import ReceiverError
from receiver.gc_tuning import spare_long_lived
from receiver.intake.journal import forget_writers
from receiver.intake.signing_keys import fingerprint
from receiver.intake.token import ResultTokens, result_url
from receiver.logs import about
from receiver.model import SubmissionKey
from receiver.queueing.drafts import forget_drafts
from receiver.relay.delivery import Relay
from receiver.relay.people import People
from receiver.release.answer import Answer, printable_line
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.deployment_cancel import abandon_cancels, claim_cancel, list_asking, record_cancel
from receiver.release.presence import find_gone, hold_worker_lock, register_worker, see_worker
from receiver.release.provider import Provider, QueueRequest, bulk_queue, cancel_deployment
from receiver.release.recording import record_answer
from receiver.release.sender import (
    Taken,
    abandon_submissions,
    accept_proven_lately,
    adopt_batches,
    csv_blocks,
    list_taken,
    note_waiting,
    release_untold,
)
from receiver.results.maintenance import POLLERS, Maintenance
from receiver.results.settler import Settler

SENDERS = 4
"""Submissions sent at the same time. A slow answer to one must not delay the others."""

RELAY_CONNECTIONS = 4
"""Connections for the endpoints that the worker serves. Each needs one for a few milliseconds at a time."""

HEARTBEAT_SECONDS = 5.0
PRESENCE_SECONDS = 1.0
"""Interval between two checks of the connection that holds the worker's lock. After a loss, it must hold the lock again
before the other workers have checked twice."""
CANCEL_CHECK_SECONDS = 1.0
SEND_CHECK_SECONDS = 0.2
"""Interval between two searches for submissions to send."""
GATHER_SECONDS = 0.05
"""Pause after all callbacks are settled, so that the next ones form a larger group. A group of 200 costs half as much
as five groups of 40."""
IDLE_SECONDS = 0.2
"""Longest pause while no callbacks arrive."""
ERROR_PAUSE_SECONDS = 1.0
WRITER_DAYS = 90

T = TypeVar("T")

log = logging.getLogger(__name__)


class Worker:
    """One worker process, which sends the submissions in the database to the provider."""

    def __init__(self, config: Config, database_url: str, provider: Provider) -> None:
        self._config = config
        self._database_url = database_url
        self._provider = provider
        self._tokens = ResultTokens(config.secret_keys)
        self._signing_key = fingerprint(config.secret_keys[0])
        self._stop = threading.Event()
        self._worker_id = 0
        self._measurements = Measurements()
        self._settle_pause = GATHER_SECONDS
        self._gone: set[int] = set()
        """Workers that did not hold their lock at the last heartbeat. A worker is dead if it is missing twice: when
        Postgres restarts, live workers lose their locks with their connections, and get them back in a moment."""
        self._in_progress: set[Taken] = set()
        """Submissions that a sender has claimed, and whose answer is not recorded yet."""
        self._asking: int | None = None
        """The request to cancel a deployment that this worker makes, until its answer is recorded."""

    def stop(self) -> None:
        """End after the current steps. `run` limits how long a request to the provider may still take."""
        self._stop.set()

    def run(self, grace_seconds: float = 5.0) -> None:
        """Work until `stop`, then wait for the current steps, at most `grace_seconds`.

        Raises DatabaseUnavailable if the database cannot be reached at the start.
        """
        presence = self._connect("receiver worker")
        self._worker_id = register_worker(presence, socket.gethostname(), os.getpid(), self._signing_key)
        pool = open_pool(self._database_url, max_size=SENDERS + POLLERS + RELAY_CONNECTIONS + 8, name="receiver worker")
        log.info("worker %d started", self._worker_id, extra=about("worker_started", worker_id=self._worker_id))
        settler = Settler(pool, self._measurements, self._config.suppress_statuses)
        # One thread settles. Two threads would not be faster: they would wait for Python's lock.
        steps: list[tuple[str, Callable[[], float]]] = [("settle", lambda: self._settle(settler))]
        steps += [(f"send-{number}", lambda: self._send(pool)) for number in range(1, SENDERS + 1)]
        steps.append(("mark", MarkRaiser(pool).step))
        connect_relay, networks = partial(self._connect, "receiver relay"), self._config.relay_networks
        steps.append(("relay", Relay(pool, connect_relay, networks, self._measurements, self._stop).run))
        steps.append(("notify", People(pool, self._config, self._measurements).step))
        steps.append(("cancel", lambda: self._cancel_deployment(pool)))
        steps += Maintenance(pool, self._provider, self._config, self._stop).steps()
        spare_long_lived()
        threads = [threading.Thread(target=self._repeat, args=step, name=step[0], daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        try:
            presence = self._stay_present(pool, presence)
        finally:
            self._stop.set()
            deadline = time.monotonic() + grace_seconds
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ReceiverError, psycopg.Error):
                self._write_measurements(pool)
            pool.close(timeout=1)
            # Last: this releases the lock that shows that the worker is alive.
            presence.close()
        log.info("worker %d stopped", self._worker_id, extra=about("worker_stopped", worker_id=self._worker_id))

    def _connect(self, name: str) -> Connection:
        return connect(self._database_url, name=name, autocommit=True, patience_seconds=STATEMENT_SECONDS)

    def _repeat(self, name: str, step: Callable[[], float]) -> None:
        """Repeat the step. It returns the pause until the next repetition, in seconds."""
        while not self._stop.is_set():
            try:
                pause = step()
            except DatabaseUnavailable as error:
                log.warning("%s: %s", name, error, extra=about("database_away", step=name))
                pause = ERROR_PAUSE_SECONDS
            except Exception:
                log.exception("%s failed; trying again", name, extra=about("step_failed", step=name))
                self._measurements.count("failure", name.partition("-")[0])
                pause = ERROR_PAUSE_SECONDS
            self._stop.wait(pause)

    def _settle(self, settler: Settler) -> float:
        """Settle a group. The pauses become longer while no callbacks arrive."""
        settled = settler.settle_group()
        if settler.behind:
            return 0.0
        self._settle_pause = GATHER_SECONDS if settled else min(self._settle_pause * 1.5, IDLE_SECONDS)
        return self._settle_pause

    def _send(self, pool: Pool) -> float:
        outgoing = self._claim(pool)
        if outgoing is None:
            with connection(pool) as conn:
                return 0.0 if adopt_batches(conn, self._provider.simulated) else SEND_CHECK_SECONDS
        began = time.monotonic()
        answer = self._ask_provider(outgoing)
        seconds = time.monotonic() - began
        self._measurements.count("send_result", answer.state)
        self._measurements.observe("send", [seconds])
        calls = outgoing.calls - outgoing.withdrawn_calls
        queued = calls if answer.calls_queued is None else answer.calls_queued
        log.log(
            logging.WARNING if queued < calls else logging.INFO,
            "submission sent: batch %d, submission %d, try %d: %s, provider status %s, calls_queued %s of %d",
            outgoing.batch_id, outgoing.submission_no, outgoing.tries, answer.state, answer.provider_status,
            answer.calls_queued, calls,
            extra=about("submission_sent", batch_id=outgoing.batch_id, submission=outgoing.submission_no,
                        result=answer.state, provider_status=answer.provider_status, seconds=round(seconds, 3)),
        )  # fmt: skip
        state = self._record(pool, lambda conn: record_answer(conn, outgoing, answer))
        if state is None:
            log.warning(
                "batch %d, submission %d: resolved before the answer to try %d arrived; see its resolution",
                outgoing.batch_id, outgoing.submission_no, outgoing.tries,
            )  # fmt: skip
        self._in_progress.discard(_taken(outgoing))
        return 0.0

    def _record(self, pool: Pool, record: Callable[[Connection], T]) -> T:
        """Record an answer. Only this thread knows it, so it waits for the database until the worker stops."""
        while True:
            try:
                with connection(pool) as conn:
                    return record(conn)
            except (DatabaseUnavailable, psycopg.Error, OSError) as error:
                log.warning("the provider's answer is not recorded yet: %s", error, extra=about("answer_not_recorded"))
                if self._stop.wait(ERROR_PAUSE_SECONDS):
                    raise

    def _cancel_deployment(self, pool: Pool) -> float:
        """Ask the provider to cancel a deployment, if a person wants that; at most once, as for `_send`."""
        with connection(pool) as conn:
            request = claim_cancel(conn, self._worker_id, simulated=self._provider.simulated)
            # Before the commit, as in `_claim`.
            self._asking = None if request is None else request.cancel_id
        if request is None:
            return CANCEL_CHECK_SECONDS
        answer = cancel_deployment(self._provider, request.application_id, request.deployment_id)
        log.warning(
            "application %d, deployment %d: asked the provider to cancel all of its calls: %s, provider status %s",
            request.application_id, request.deployment_id, answer.state, answer.provider_status,
            extra=about("deployment_canceled", application_id=request.application_id,
                        deployment_id=request.deployment_id, result=answer.state),
        )  # fmt: skip
        self._record(pool, lambda conn: record_cancel(conn, request.cancel_id, answer))
        self._asking = None
        return 0.0

    def _claim(self, pool: Pool) -> Outgoing | None:
        outgoing = None
        try:
            with connection(pool) as conn:
                outgoing = claim_submission(
                    conn,
                    self._worker_id,
                    simulated=self._provider.simulated,
                    signing_key=self._signing_key,
                    grace=timedelta(seconds=self._config.result_grace_seconds),
                )
                if outgoing is not None:
                    # Before the commit: `_release_lost_claims` releases claims that are committed and not in progress.
                    self._in_progress.add(_taken(outgoing))
        except BaseException:
            if outgoing is not None:
                self._in_progress.discard(_taken(outgoing))
            raise
        return outgoing

    def _ask_provider(self, outgoing: Outgoing) -> Answer:
        key = SubmissionKey(outgoing.batch_id, outgoing.submission_no)
        request = QueueRequest(
            application_id=outgoing.application_id,
            deployment_id=outgoing.deployment_id,
            result_url=result_url(self._config.public_url, self._tokens.sign(key)),
            start_timestamp=None if outgoing.start_at is None else int(outgoing.start_at.timestamp()),
            end_timestamp=None if outgoing.end_at is None else int(outgoing.end_at.timestamp()),
            max_attempts=outgoing.max_attempts,
            reattempt_wait=outgoing.reattempt_wait_seconds,
            is_pci=outgoing.is_pci,
        )
        try:
            conn = self._connect("receiver sender")
        except ReceiverError as error:
            return Answer("not_sent", error=printable_line(f"The contacts could not be read: {error}"))
        try:
            return bulk_queue(self._provider, request, csv_blocks(conn, outgoing), outgoing.csv_bytes)
        except (psycopg.Error, ReceiverError, OSError) as error:
            # Reading the contacts failed. `bulk_queue` raises this only if nothing has been sent.
            return Answer("not_sent", error=printable_line(f"The contacts could not be read: {error}"))
        except Exception as error:
            log.exception("sending failed with an unexpected error", extra=about("sending_failed"))
            return Answer("unknown", error=f"Sending failed: {type(error).__name__}")
        finally:
            # A failure to close must not replace the answer.
            with contextlib.suppress(psycopg.Error, OSError):
                conn.close()

    def _stay_present(self, pool: Pool, presence: Connection) -> Connection:
        """Hold the worker's lock, and send heartbeats, until `stop`. Returns the connection that holds the lock."""
        next_heartbeat = time.monotonic()
        while not self._stop.is_set():
            try:
                presence = self._hold_lock(presence)
                if time.monotonic() >= next_heartbeat:
                    next_heartbeat = time.monotonic() + HEARTBEAT_SECONDS
                    self._heartbeat(pool)
            except Exception as error:
                log.warning("health check failed: %s", error, extra=about("looking_failed"))
                self._gone = set()
            self._stop.wait(min(PRESENCE_SECONDS, HEARTBEAT_SECONDS))
        return presence

    def _hold_lock(self, presence: Connection) -> Connection:
        """The connection that holds the worker's lock. Opens a new one if the old one does not answer."""
        if not presence.closed:
            try:
                presence.execute("select")
                return presence
            except (psycopg.Error, OSError):
                presence.close()
        fresh = self._connect("receiver worker")
        try:
            held = hold_worker_lock(fresh, self._worker_id)
        except BaseException:
            fresh.close()
            raise
        if not held:
            fresh.close()  # the server has not noticed yet that the old connection is lost
        return fresh

    def _heartbeat(self, pool: Pool) -> None:
        """Show that this worker is alive, do small regular tasks, and finish the work of dead workers."""
        with connection(pool) as conn:
            see_worker(conn, self._worker_id)
        self._write_measurements(pool)
        with connection(pool) as conn:
            forget_writers(conn, WRITER_DAYS)
            forget_drafts(conn)
        with connection(pool) as conn:
            adopt_batches(conn, self._provider.simulated)
        with connection(pool) as conn:
            note_waiting(conn, self._provider.simulated)
        self._release_lost_claims(pool)
        with connection(pool) as conn:
            gone = find_gone(conn, self._worker_id)
            abandoned = abandon_submissions(conn, self._worker_id, among=self._gone)
            abandon_cancels(conn, list_asking(conn, gone & self._gone))
        self._gone = gone
        with connection(pool) as conn:
            accept_proven_lately(conn)
        for batch_id, submission_no in abandoned:
            log.warning(
                "batch %d, submission %d: its sender ended without an answer; unknown", batch_id, submission_no,
                extra=about("submission_abandoned", batch_id=batch_id, submission=submission_no),
            )  # fmt: skip

    def _write_measurements(self, pool: Pool) -> None:
        taken = self._measurements.take()
        try:
            with connection(pool) as conn:
                add_measured(conn, taken)
        except BaseException:
            self._measurements.back(taken)
            raise

    def _release_lost_claims(self, pool: Pool) -> None:
        """Release claims that are committed, although the connection broke before this worker learned of it. A request
        to cancel a deployment becomes `unknown` instead."""
        with connection(pool) as conn:
            # Read the database before `_in_progress`: a claim made in between is only in the latter.
            taken = list_taken(conn, self._worker_id)
            release_untold(conn, self._worker_id, [each for each in taken if each not in self._in_progress])
            asking = list_asking(conn, [self._worker_id])
            abandon_cancels(conn, [each for each in asking if each != self._asking])


def _taken(outgoing: Outgoing) -> Taken:
    return Taken(outgoing.batch_id, outgoing.submission_no, outgoing.tries)
