"""The worker: sends submissions, settles callbacks, runs maintenance, and finishes what dead workers left.

Each of these is a thread with a loop that survives everything but the end of the process: an error is
logged and the step is done again after a pause, because every step is a transaction of its own.
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
from receiver.release.answer import printable_line
from receiver.release.claim import Outgoing, claim_submission
from receiver.release.deployment_cancel import abandon_cancels, claim_cancel, record_cancel
from receiver.release.presence import find_gone, hold_worker_lock, register_worker, see_worker
from receiver.release.provider import Answer, Provider, QueueRequest, bulk_queue, cancel_deployment
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
"""Submissions sent at a time: a provider that is slow to answer one must not hold up the others."""

HEARTBEAT_SECONDS = 5.0
PRESENCE_SECONDS = 1.0
"""Between two looks at the connection that holds our lock: a lost one must be back before others have looked twice."""
CANCEL_CHECK_SECONDS = 1.0
SEND_CHECK_SECONDS = 0.2
"""Between two looks for submissions to send."""
GATHER_SECONDS = 0.05
"""How long callbacks are let gather once all that waited are settled: a group of 200 takes half the work of five groups
of 40."""
IDLE_SECONDS = 0.2
"""The longest pause, while none come."""
ERROR_PAUSE_SECONDS = 1.0
WRITER_DAYS = 90

log = logging.getLogger(__name__)


class Worker:
    """One worker process. `database_url` is where it works, `provider` whom it sends to."""

    def __init__(self, config: Config, database_url: str, provider: Provider) -> None:
        self._config = config
        self._database_url = database_url
        self._provider = provider
        self._tokens = ResultTokens(config.secret_keys)
        self._signing_key = fingerprint(config.secret_keys[0])
        self._stop = threading.Event()
        self._worker_id = 0
        self._measurements = Measurements()
        self._gone: set[int] = set()
        """Workers that the last look found gone. Dead are those that the next one finds gone, too: when Postgres starts
        again, the living lose their locks with their connections and have them back in a moment."""
        self._under_way: set[Taken] = set()
        """What a sender took and has not recorded the answer for."""

    def stop(self) -> None:
        """End after the steps under way; a request to the provider is waited for as long as `run` allows."""
        self._stop.set()

    def run(self, grace_seconds: float = 5.0) -> None:
        """Work until `stop`. Raises DatabaseUnavailable if the database cannot be reached at the start."""
        presence = self._connect("receiver worker")
        self._worker_id = register_worker(presence, socket.gethostname(), os.getpid(), self._signing_key)
        pool = open_pool(self._database_url, max_size=SENDERS + POLLERS + 5, name="receiver worker")
        log.info("worker %d started", self._worker_id, extra=about("worker_started", worker_id=self._worker_id))
        # One thread settles: two take turns at Python's lock, which costs them what they gain by not waiting together.
        steps: list[tuple[str, Callable[[], float]]] = [
            ("settle", _Settling(Settler(pool, self._measurements, self._config.suppress_statuses)).step)
        ]
        steps += [(f"send-{number}", lambda: self._send(pool)) for number in range(1, SENDERS + 1)]
        steps.append(("mark", MarkRaiser(pool).step))
        steps.append(("cancel", lambda: self._cancel_deployment(pool)))
        steps += Maintenance(pool, self._provider, self._config, self._stop).steps()
        spare_long_lived()
        threads = [threading.Thread(target=self._repeat, args=step, name=step[0], daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        try:
            presence = self._look_after(pool, presence)
        finally:
            self._stop.set()
            deadline = time.monotonic() + grace_seconds
            for thread in threads:
                thread.join(max(0.0, deadline - time.monotonic()))
            with contextlib.suppress(ReceiverError, psycopg.Error):
                self._write_measurements(pool)
            pool.close(timeout=1)
            # Last: with this connection ends the lock that says we live.
            presence.close()
        log.info("worker %d stopped", self._worker_id, extra=about("worker_stopped", worker_id=self._worker_id))

    def _connect(self, name: str) -> Connection:
        return connect(self._database_url, name=name, autocommit=True, patience_seconds=STATEMENT_SECONDS)

    def _repeat(self, name: str, step: Callable[[], float]) -> None:
        """Do a step again and again, each time after the pause it returned."""
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
        log.info(
            "submission sent: batch %d, submission %d, try %d: %s, provider status %s",
            outgoing.batch_id, outgoing.submission_no, outgoing.tries, answer.state, answer.provider_status,
            extra=about("submission_sent", batch_id=outgoing.batch_id, submission=outgoing.submission_no,
                        result=answer.state, provider_status=answer.provider_status, seconds=round(seconds, 3)),
        )  # fmt: skip
        # Nobody else knows the answer, so it is worth waiting for the database as long as we live.
        while True:
            try:
                with connection(pool) as conn:
                    state = record_answer(conn, outgoing, answer)
                if state is None:
                    log.warning(
                        "batch %d, submission %d: resolved before the answer to try %d arrived; see its resolution",
                        outgoing.batch_id, outgoing.submission_no, outgoing.tries,
                    )  # fmt: skip
                self._under_way.discard(_taken(outgoing))
                return 0.0
            except (DatabaseUnavailable, psycopg.Error, OSError) as error:
                log.warning("the provider's answer is not recorded yet: %s", error, extra=about("answer_not_recorded"))
                if self._stop.wait(ERROR_PAUSE_SECONDS):
                    raise

    def _cancel_deployment(self, pool: Pool) -> float:
        """Ask the provider to cancel a deployment, if a person wants that; at most once, as for `_send`."""
        with connection(pool) as conn:
            request = claim_cancel(conn, self._worker_id)
        if request is None:
            return CANCEL_CHECK_SECONDS
        answer = cancel_deployment(self._provider, request.application_id, request.deployment_id)
        log.warning(
            "application %d, deployment %d: asked the provider to cancel all of its calls: %s, provider status %s",
            request.application_id, request.deployment_id, answer.state, answer.provider_status,
            extra=about("deployment_canceled", application_id=request.application_id,
                        deployment_id=request.deployment_id, result=answer.state),
        )  # fmt: skip
        with connection(pool) as conn:
            record_cancel(conn, request, answer)
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
                    # Before the commit: `_release_untold` takes for lost what is committed and not under way.
                    self._under_way.add(_taken(outgoing))
        except BaseException:
            if outgoing is not None:
                self._under_way.discard(_taken(outgoing))
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
            # `bulk_queue` raises what reading the contacts raised, and only while nothing has been sent.
            return Answer("not_sent", error=printable_line(f"The contacts could not be read: {error}"))
        except Exception as error:
            log.exception("sending failed with an unexpected error", extra=about("sending_failed"))
            return Answer("unknown", error=f"Sending failed: {type(error).__name__}")
        finally:
            # Nothing that closing says may stand in for the answer.
            with contextlib.suppress(psycopg.Error, OSError):
                conn.close()

    def _look_after(self, pool: Pool, presence: Connection) -> Connection:
        """Be seen alive, and find what dead workers left. Returns the connection that holds our lock."""
        next_look = time.monotonic()
        while not self._stop.is_set():
            try:
                presence = self._keep_present(presence)
                if time.monotonic() >= next_look:
                    next_look = time.monotonic() + HEARTBEAT_SECONDS
                    self._look(pool)
            except Exception as error:
                log.warning("health check failed: %s", error, extra=about("looking_failed"))
                self._gone = set()
            self._stop.wait(min(PRESENCE_SECONDS, HEARTBEAT_SECONDS))
        return presence

    def _keep_present(self, presence: Connection) -> Connection:
        """The connection that holds our lock: a new one where its own server says nothing more."""
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
            fresh.close()  # the server has not noticed yet that the lost one is gone
        return fresh

    def _look(self, pool: Pool) -> None:
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
        self._release_untold(pool)
        with connection(pool) as conn:
            gone = find_gone(conn, self._worker_id)
            abandoned = abandon_submissions(conn, self._worker_id, among=self._gone)
            abandon_cancels(conn, gone & self._gone)
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

    def _release_untold(self, pool: Pool) -> None:
        with connection(pool) as conn:
            # First the database, then our memory: what was taken in between is in the latter only.
            taken = list_taken(conn, self._worker_id)
            release_untold(conn, self._worker_id, [each for each in taken if each not in self._under_way])


class _Settling:
    """Settles group after group, and looks more rarely the longer none comes."""

    def __init__(self, settler: Settler) -> None:
        self._settler = settler
        self._pause = GATHER_SECONDS

    def step(self) -> float:
        settled = self._settler.settle_group()
        if self._settler.behind:
            return 0.0
        self._pause = GATHER_SECONDS if settled else min(self._pause * 1.5, IDLE_SECONDS)
        return self._pause


def _taken(outgoing: Outgoing) -> Taken:
    return Taken(outgoing.batch_id, outgoing.submission_no, outgoing.tries)
