"""Long work that was requested over the API, with its progress, so that every web process can answer how far it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from psycopg.rows import class_row
from psycopg.types.json import Jsonb

from receiver.database.pool import Connection
from receiver.errors import NotFound

JobKind = Literal["erasure", "purge"]

SEEN_SECONDS = 60
"""Interval between two signs of life after which the process that did the work has ended."""

MOST_JOBS = 8
"""Jobs that run at a time, in all processes: each has two threads and a connection."""

_SEEN = f"seen_at >= now() - interval '{SEEN_SECONDS} seconds'"


@dataclass(frozen=True, slots=True)
class Job:
    """`content`: what was asked, and what was done so far. `state`: `running`, `done`, `failed`, or `interrupted` if
    its process has ended."""

    id: int
    state: str
    requested_by: str
    requested_at: datetime
    ended_at: datetime | None
    error_code: str | None
    error: str | None
    content: dict[str, Any]


def insert_job(conn: Connection, kind: JobKind, by: str, content: Mapping[str, Any]) -> int | None:
    """Insert a job, and delete those that ended more than 30 days ago. None: MOST_JOBS are running."""
    conn.execute("delete from job where ended_at < now() - interval '30 days'")
    row = conn.execute(
        "insert into job (kind, requested_by, content) select %s, %s, %s where"
        f" (select count(*) from job where ended_at is null and {_SEEN}) < %s returning job_id",
        (kind, by, Jsonb(content), MOST_JOBS),
    ).fetchone()
    return None if row is None else int(row[0])


def record_progress(conn: Connection, job_id: int, content: Mapping[str, Any] = {}) -> None:
    """Show that a job is alive, and how far it is."""
    conn.execute("update job set seen_at = now(), content = content || %s where job_id = %s", (Jsonb(content), job_id))


def end_job(conn: Connection, job_id: int, error_code: str | None = None, error: str | None = None) -> None:
    conn.execute(
        "update job set ended_at = now(), error_code = %s, error = %s where job_id = %s", (error_code, error, job_id)
    )


def get_job(conn: Connection, job_id: int, kind: JobKind) -> Job:
    """Raises NotFound."""
    with conn.cursor(row_factory=class_row(Job)) as cursor:
        found = cursor.execute(
            "select job_id as id, case when error_code is not null then 'failed' when ended_at is not null then 'done'"
            f" when {_SEEN} then 'running' else 'interrupted' end as state,"
            " requested_by, requested_at, ended_at, error_code, error, content from job"
            " where job_id = %s and kind = %s",
            (job_id, kind),
        ).fetchone()
    if found is None:
        raise NotFound(f"There is no {kind} {job_id}.")
    return found
