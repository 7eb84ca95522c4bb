"""Long work that is requested over the API. It runs in a thread of its own, and the request waits for it without one.

If it does not end in time, the answer is 202 with the progress, and the work continues.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from flask import Response, jsonify, request, url_for
from marshmallow import Schema

from receiver.database.jobs import MOST_JOBS, SEEN_SECONDS, Job, JobKind, end_job, get_job, insert_job, record_progress
from receiver.database.pool import Connection, DatabaseUnavailable, Pool, connect, connection, reading
from receiver.errors import ReceiverError
from receiver.web.auth import answer_later, current_key, waited_for
from receiver.web.problems import Problem
from receiver.web.reading import primary
from receiver.web.services import services
from receiver.web.waiting import preferred_wait

WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10, 60

SHOWN_SECONDS = 1.0
"""Interval between two updates of the progress."""

Work = Callable[[Connection], Iterator[Mapping[str, Any]]]
"""Does the work in steps. It commits each step, and yields what was done so far."""

log = logging.getLogger(__name__)


def run_job(kind: JobKind, asked: Mapping[str, Any], work: Work, schema: Schema) -> Response:
    """Begin the work and wait for its end, or answer a request that has waited. Raises Problem if the work failed, or
    if too many other jobs are running."""
    job_id: int | None = waited_for()
    if job_id is None:
        with connection(services().pool) as conn:
            job_id = insert_job(conn, kind, current_key().name, asked)
        if job_id is None:
            raise Problem(
                "rate_limited",
                f"{MOST_JOBS} erasures and purges are running. Send the request again when one has ended.",
                headers={"Retry-After": "10"},
            )
        url, pool = services().database_url, services().pool
        threading.Thread(target=_do, args=(url, pool, job_id, work), name=f"job-{job_id}", daemon=True).start()
        seconds = preferred_wait(request.headers.get("Prefer", ""), WAIT_SECONDS, LONGEST_WAIT_SECONDS)
        answer_later(job_id, partial(_is_over, pool, job_id, kind), seconds)
    job = primary().read(get_job, job_id, kind)
    if job.error_code is not None:
        raise Problem(job.error_code, job.error or "")
    answer = answer_job(job, schema)
    answer.status_code = 202 if job.state == "running" else 200
    answer.headers["Location"] = url_for(f"removals.get_{kind}", job_id=job_id)
    return answer


def answer_job(job: Job, schema: Schema) -> Response:
    members = {name: getattr(job, name) for name in job.__slots__ if name != "content"}
    return jsonify(schema.dump({**members, **job.content}))


def _is_over(pool: Pool, job_id: int, kind: JobKind) -> bool:
    try:
        with reading(pool) as conn:
            return get_job(conn, job_id, kind).state != "running"
    except DatabaseUnavailable:
        return False


def _do(url: str, pool: Pool, job_id: int, work: Work) -> None:
    """Do the work on a connection of its own: a step can take minutes, and the pool is small."""
    ended = threading.Event()
    threading.Thread(target=_stay_seen, args=(pool, job_id, ended), daemon=True).start()
    code: str | None = None
    message: str | None = None
    shown_at = 0.0
    done: Mapping[str, Any] = {}
    try:
        with connect(url, name="receiver job") as conn:
            for done in work(conn):
                if time.monotonic() - shown_at >= SHOWN_SECONDS:
                    record_progress(conn, job_id, done)
                    conn.commit()
                    shown_at = time.monotonic()
    except ReceiverError as error:
        code, message = error.code, str(error)
    except Exception:
        log.exception("job %d failed", job_id)
        code, message = "internal_error", "An unexpected error occurred. Its details are in the log."
    ended.set()
    with connection(pool) as conn:
        record_progress(conn, job_id, done)
        end_job(conn, job_id, code, message)


def _stay_seen(pool: Pool, job_id: int, ended: threading.Event) -> None:
    """Show that the job is alive while a step takes long."""
    while not ended.wait(SEEN_SECONDS / 4):
        try:
            with connection(pool) as conn:
                record_progress(conn, job_id)
        except DatabaseUnavailable:
            continue
