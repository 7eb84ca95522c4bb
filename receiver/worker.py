"""The worker: sends submissions, settles callbacks, and looks after what others left behind.

Each of these is a thread with a loop that survives everything but the end of the process: an error is
logged and the step is done again after a pause, because every step is a transaction of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import threading
from collections.abc import Callable

import psycopg

from receiver.config import Config
from receiver.database.pool import Connection, DatabaseUnavailable, Pool, connect, connection, open_pool
from receiver.errors import ReceiverError
from receiver.model import SubmissionKey
from receiver.queueing.answer import printable_line
from receiver.queueing.provider import Answer, Provider, QueueRequest, bulk_queue
from receiver.queueing.sender import (
    Outgoing,
    abandon_submissions,
    claim_submission,
    csv_blocks,
    hold_worker_lock,
    record_answer,
    register_worker,
    see_worker,
)
from receiver.results.journal import forget_writers
from receiver.results.settler import GROUP_CALLBACKS, Settler
from receiver.results.token import ResultTokens, result_url

SENDERS = 4
"""Submissions sent at a time: a provider that is slow to answer one must not hold up the others."""

HEARTBEAT_SECONDS = 5.0
SEND_CHECK_SECONDS = 0.2
"""Between two looks for submissions to send."""
SETTLE_CHECK_SECONDS = 0.03
"""Between two looks for callbacks to settle; longer, up to `IDLE_SECONDS`, while none come."""
IDLE_SECONDS = 0.2
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
        self._stop = threading.Event()
        self._worker_id = 0

    def stop(self) -> None:
        """End after the steps under way; a request to the provider is waited for as long as `run` allows."""
        self._stop.set()

    def run(self, grace_seconds: float = 5.0) -> None:
        """Work until `stop`. Raises DatabaseUnavailable if the database cannot be reached at the start."""
        presence = connect(self._database_url, name="receiver worker", autocommit=True)
        self._worker_id = register_worker(presence, socket.gethostname(), os.getpid())
        pool = open_pool(self._database_url, max_size=SENDERS + 3, name="receiver worker")
        log.info("worker %d started", self._worker_id)
        settler = Settler(pool)
        steps: list[tuple[str, Callable[[], float]]] = [("settle", lambda: self._settle(settler))]
        steps += [(f"send-{number}", lambda: self._send(pool)) for number in range(1, SENDERS + 1)]
        threads = [threading.Thread(target=self._repeat, args=step, name=step[0], daemon=True) for step in steps]
        for thread in threads:
            thread.start()
        try:
            presence = self._look_after(pool, presence)
        finally:
            self._stop.set()
            for thread in threads:
                thread.join(grace_seconds)
            pool.close(timeout=1)
            # Last: with this connection ends the lock that says we live.
            presence.close()
        log.info("worker %d stopped", self._worker_id)

    def _repeat(self, name: str, step: Callable[[], float]) -> None:
        """Do a step again and again, each time after the pause it returned."""
        while not self._stop.is_set():
            try:
                pause = step()
            except DatabaseUnavailable as error:
                log.warning("%s: %s", name, error)
                pause = ERROR_PAUSE_SECONDS
            except Exception:
                log.exception("%s failed; trying again", name)
                pause = ERROR_PAUSE_SECONDS
            self._stop.wait(pause)

    def _settle(self, settler: Settler) -> float:
        settled = settler.settle_group()
        if settled == GROUP_CALLBACKS:
            return 0.0
        self._idle = 0.0 if settled else min(self._idle + SETTLE_CHECK_SECONDS / 2, IDLE_SECONDS)
        return max(SETTLE_CHECK_SECONDS, self._idle)

    _idle = 0.0

    def _send(self, pool: Pool) -> float:
        with connection(pool) as conn:
            outgoing = claim_submission(conn, self._worker_id)
        if outgoing is None:
            return SEND_CHECK_SECONDS
        answer = self._ask_provider(outgoing)
        log.info(
            "submission sent: batch %d, submission %d, try %d: %s, provider status %s",
            outgoing.batch_id, outgoing.submission_no, outgoing.tries, answer.state, answer.provider_status,
        )  # fmt: skip
        # Nobody else knows the answer, so it is worth waiting for the database as long as we live.
        while True:
            try:
                with connection(pool) as conn:
                    record_answer(conn, outgoing, answer)
                return 0.0
            except (DatabaseUnavailable, OSError) as error:
                log.warning("the provider's answer is not recorded yet: %s", error)
                if self._stop.wait(ERROR_PAUSE_SECONDS):
                    raise

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
            conn = connect(self._database_url, name="receiver sender", autocommit=True)
        except ReceiverError as error:
            return Answer("not_sent", error=printable_line(f"The contacts could not be read: {error}"))
        try:
            return bulk_queue(self._provider, request, csv_blocks(conn, outgoing), outgoing.csv_bytes)
        except (psycopg.Error, ReceiverError, OSError) as error:
            # `bulk_queue` raises what reading the contacts raised, and only while nothing has been sent.
            return Answer("not_sent", error=printable_line(f"The contacts could not be read: {error}"))
        except Exception as error:
            log.exception("sending failed in a way nobody foresaw")
            return Answer("unknown", error=f"Sending failed: {type(error).__name__}")
        finally:
            # Nothing that closing says may stand in for the answer.
            with contextlib.suppress(psycopg.Error, OSError):
                conn.close()

    def _look_after(self, pool: Pool, presence: Connection) -> Connection:
        """Be seen alive, and find what dead workers left. Returns the connection that holds our lock."""
        while not self._stop.is_set():
            try:
                if presence.closed:
                    presence = connect(self._database_url, name="receiver worker", autocommit=True)
                    hold_worker_lock(presence, self._worker_id)
                see_worker(presence, self._worker_id)
                with connection(pool) as conn:
                    forget_writers(conn, WRITER_DAYS)
                    abandoned = abandon_submissions(conn, self._worker_id)
                for batch_id, submission_no in abandoned:
                    log.warning("batch %d, submission %d: its sender died; unknown", batch_id, submission_no)
            except Exception as error:
                log.warning("look after: %s", error)
                presence.close()
            self._stop.wait(HEARTBEAT_SECONDS)
        return presence
