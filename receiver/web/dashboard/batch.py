"""One batch: its balance in sentences and charts, what needs attention, and its calls.

One region of the page has everything that changes during the calls. htmx polls it every two seconds while the page is
visible (static/app.js), until the answer is 286. static/live.js merges the region into the page node by node, so that
scroll position, focus, selection and opened details stay. A poll without changes costs one read of counters and is
answered 204. The answer also contains the list of calls, read in the same snapshot. Otherwise the list could contradict
the figures above it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from flask import Response, make_response, render_template, request
from markupsafe import Markup

from receiver.database.pool import Connection
from receiver.model import OUTCOMES, SubmissionState
from receiver.release.resolution import list_resolutions
from receiver.summary.attempts import count_by_attempts
from receiver.summary.batches import Batch, get_batch
from receiver.summary.series import Interval, SummaryFilter, get_series
from receiver.summary.submissions import (
    SubmissionProgress,
    count_submissions,
    list_submissions,
    list_submissions_in_doubt,
)
from receiver.web.dashboard.batch_calls import CallsPage, read_calls
from receiver.web.dashboard.charts import split_bar, stacked_series
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import time_zone
from receiver.web.reading import reader

POLL_SECONDS = 2
NO_MORE_POLLS = 286
"""The HTTP status that ends htmx' polling."""

MOST_IN_DOUBT = 3
"""Submissions that need attention on the batch's page. A separate page lists all."""

PAGE_SUBMISSIONS, PAGE_IN_DOUBT = 50, 20

LONGEST_HOURS = timedelta(days=2)
"""Results are shown by hour if they were received within this time, otherwise by day."""

FEW_CALLS = 20_000
"""Most ended calls whose attempts are counted here (4 ms). A page of its own counts more (0.15 s a million)."""


@dataclass(frozen=True, slots=True)
class Progress:
    """The content of the live region."""

    batch: Batch
    submissions: dict[SubmissionState, int]
    in_doubt: list[SubmissionProgress]
    series: list[dict[str, Any]]
    interval: Interval
    attempts: dict[int | None, int] | None
    """Number of calls by their attempts; None if counting them would take too long."""

    @property
    def is_live(self) -> bool:
        return _is_live(self.batch)

    @property
    def seen(self) -> str:
        return _digest(self.batch, self.submissions)

    @property
    def bar(self) -> Markup:
        return split_bar(self.batch.counts, key="progress", label=f"Batch {self.batch.id}: progress")

    @property
    def chart(self) -> Markup:
        return stacked_series(
            self.series,
            interval=self.interval,
            time_zone=time_zone(),
            key="results",
            title=f"Batch {self.batch.id}: results by {self.interval}",
        )


@page("/batches/<int:batch_id>", scope="read")
def batch(batch_id: int) -> str:
    """One batch."""

    def read(conn: Connection) -> tuple[Progress, CallsPage]:
        found = get_batch(conn, batch_id, with_submissions=False)
        return _progress(conn, found, count_submissions(conn, batch_id)), read_calls(conn, batch_id)

    progress, calls = reader().read_at_one_moment(read)
    return render_template("batch.html", **_shown(progress), calls=calls)


@page("/batches/<int:batch_id>/live", scope="read")
def batch_live(batch_id: int) -> Response:
    """The live region of a batch's page, and the calls that the query selects."""

    def read(conn: Connection) -> tuple[Progress, CallsPage] | None:
        found = get_batch(conn, batch_id, with_submissions=False)
        submissions = count_submissions(conn, batch_id)
        if _is_live(found) and request.args.get("seen") == _digest(found, submissions):
            return None
        return _progress(conn, found, submissions), read_calls(conn, batch_id)

    found = reader().read_at_one_moment(read)
    if found is None:
        return Response(status=204)
    progress, calls = found
    shown = _shown(progress)
    content = render_template("batch_live.html", **shown) + render_template(
        "batch_calls_list.html", **shown, calls=calls
    )
    return make_response(content, 200 if progress.is_live else NO_MORE_POLLS)


@page("/batches/<int:batch_id>/attempts", scope="read")
def batch_attempts(batch_id: int) -> str:
    """The number of calls by their attempts."""

    def read(conn: Connection) -> tuple[Batch, dict[int | None, int]]:
        return get_batch(conn, batch_id, with_submissions=False), count_by_attempts(conn, batch_id)

    found, attempts = reader().read_at_one_moment(read)
    return render_template("batch_attempts.html", batch=found, attempts=attempts)


@page("/batches/<int:batch_id>/submissions", scope="read")
def batch_submissions(batch_id: int) -> str:
    """All submissions of a batch, those that need attention first."""
    after = min(max(request.args.get("after", default=0, type=int), 0), 2**31 - 1)

    def read(conn: Connection) -> dict[str, Any]:
        submissions = list_submissions(conn, batch_id, PAGE_SUBMISSIONS + 1, after)
        return {
            "batch": get_batch(conn, batch_id, with_submissions=False),
            "counted": count_submissions(conn, batch_id),
            "in_doubt": [] if after else list_submissions_in_doubt(conn, batch_id, PAGE_IN_DOUBT),
            "submissions": submissions[:PAGE_SUBMISSIONS],
            "more": len(submissions) > PAGE_SUBMISSIONS,
            "resolutions": [] if after else list_resolutions(conn, batch_id),
        }

    return render_template("batch_submissions.html", **reader().read_at_one_moment(read), after=after)


def _progress(conn: Connection, found: Batch, submissions: dict[SubmissionState, int]) -> Progress:
    interval = _interval(found.first_result_at, found.last_result_at)
    wanted = SummaryFilter(batch_id=found.id, interval=interval, time_zone=time_zone())
    return Progress(
        batch=found,
        submissions=submissions,
        in_doubt=list_submissions_in_doubt(conn, found.id, MOST_IN_DOUBT),
        series=get_series(conn, wanted) if found.counts["final"] else [],
        interval=interval,
        attempts=count_by_attempts(conn, found.id) if found.counts["final"] <= FEW_CALLS else None,
    )


def _shown(progress: Progress) -> dict[str, Any]:
    return {
        "batch": progress.batch,
        "progress": progress,
        "attempts": progress.attempts,
        "outcomes": OUTCOMES,
        "poll_seconds": POLL_SECONDS,
    }


def _is_live(found: Batch) -> bool:
    """Whether something may change soon: it is being queued, calls are pending, or callbacks wait."""
    return found.state == "queueing" or found.counts["pending"] > 0 or found.callbacks["waiting"] > 0


def _digest(found: Batch, submissions: dict[SubmissionState, int]) -> str:
    """Changes whenever the content of the live region changes."""
    shown = (found.state, found.counts, found.callbacks, found.attempts, found.duration_seconds, submissions)
    return hashlib.sha256(repr((shown, time_zone())).encode()).hexdigest()[:16]


def _interval(first: datetime | None, last: datetime | None) -> Interval:
    return "day" if first is not None and last is not None and last - first > LONGEST_HOURS else "hour"
