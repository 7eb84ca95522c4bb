"""One batch: its balance in words and pictures, what needs a person, and its calls.

What changes while calls are out stands in one region of the page. htmx asks for it every two seconds as long as
somebody looks (static/app.js lets nobody ask for a page that is hidden), until a 286 says that no more will come. It
is merged into the page node by node (static/live.js), so that scroll, focus, selection and what was unfolded stay. A
poll that finds nothing new costs one read of counters and is answered 204. The answer also has the list of calls that
the page shows, read at the same moment: else calls would be pending below figures that say that all have ended.
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
from receiver.web.dashboard import wording
from receiver.web.dashboard.batch_calls import CallsPage, read_calls
from receiver.web.dashboard.charts import split_bar, stacked_series
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import time_zone
from receiver.web.reading import reader

POLL_SECONDS = 2
NO_MORE_POLLS = 286
"""The status that ends htmx' polling."""

MOST_IN_DOUBT = 3
"""Submissions that need a person, shown on the batch's own page; all are on a page of theirs."""

PAGE_SUBMISSIONS, PAGE_IN_DOUBT = 50, 20

LONGEST_HOURS = timedelta(days=2)
"""Results that came within this time are shown by the hour, others by the day."""

FEW_CALLS = 20_000
"""Up to so many ended calls, their attempts are counted along: 4 ms. For more, on their own page: 0.15 s a million."""


@dataclass(frozen=True, slots=True)
class Progress:
    """What the live region shows."""

    batch: Batch
    submissions: dict[SubmissionState, int]
    in_doubt: list[SubmissionProgress]
    series: list[dict[str, Any]]
    interval: Interval
    attempts: dict[int | None, int] | None
    """Attempts to the number of calls that took so many; None where counting them would take long."""

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

    def look(conn: Connection) -> tuple[Progress, CallsPage]:
        found = get_batch(conn, batch_id, with_submissions=False)
        return _progress(conn, found, count_submissions(conn, batch_id)), read_calls(conn, batch_id)

    progress, calls = reader().read_at_one_moment(look)
    return render_template("batch.html", **_shown(progress), calls=calls)


@page("/batches/<int:batch_id>/live", scope="read")
def batch_live(batch_id: int) -> Response:
    """What changes on a batch's page while calls are out: the live region, and the calls that the query asks for."""

    def look(conn: Connection) -> tuple[Progress, CallsPage] | None:
        found = get_batch(conn, batch_id, with_submissions=False)
        submissions = count_submissions(conn, batch_id)
        if _is_live(found) and request.args.get("seen") == _digest(found, submissions):
            return None
        return _progress(conn, found, submissions), read_calls(conn, batch_id)

    seen = reader().read_at_one_moment(look)
    if seen is None:
        return Response(status=204)
    progress, calls = seen
    content = render_template("batch_live.html", **_shown(progress)) + render_template(
        "batch_calls_list.html", **_shown(progress), calls=calls
    )
    return make_response(content, 200 if progress.is_live else NO_MORE_POLLS)


@page("/batches/<int:batch_id>/attempts", scope="read")
def batch_attempts(batch_id: int) -> str:
    """How many calls took one attempt, two, three …"""

    def look(conn: Connection) -> tuple[Batch, dict[int | None, int]]:
        return get_batch(conn, batch_id, with_submissions=False), count_by_attempts(conn, batch_id)

    found, attempts = reader().read_at_one_moment(look)
    return render_template("batch_attempts.html", batch=found, attempts=attempts, wording=wording)


@page("/batches/<int:batch_id>/submissions", scope="read")
def batch_submissions(batch_id: int) -> str:
    """All submissions of a batch, those that need a person first."""
    after = min(max(request.args.get("after", default=0, type=int), 0), 2**31 - 1)

    def look(conn: Connection) -> dict[str, Any]:
        submissions = list_submissions(conn, batch_id, PAGE_SUBMISSIONS + 1, after)
        return {
            "batch": get_batch(conn, batch_id, with_submissions=False),
            "counted": count_submissions(conn, batch_id),
            "in_doubt": [] if after else list_submissions_in_doubt(conn, batch_id, PAGE_IN_DOUBT),
            "submissions": submissions[:PAGE_SUBMISSIONS],
            "more": len(submissions) > PAGE_SUBMISSIONS,
            "resolutions": [] if after else list_resolutions(conn, batch_id),
        }

    shown = reader().read_at_one_moment(look)
    return render_template("batch_submissions.html", **shown, after=after, wording=wording)


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
        "wording": wording,
    }


def _is_live(found: Batch) -> bool:
    """Whether something may change soon: a submission is on its way, calls are out, or callbacks wait."""
    return found.state == "queueing" or found.counts["pending"] > 0 or found.callbacks["waiting"] > 0


def _digest(found: Batch, submissions: dict[SubmissionState, int]) -> str:
    """Changes with whatever the live region is made from."""
    shown = (found.state, found.counts, found.callbacks, found.attempts, found.duration_seconds, submissions)
    return hashlib.sha256(repr((shown, time_zone())).encode()).hexdigest()[:16]


def _interval(first: datetime | None, last: datetime | None) -> Interval:
    return "day" if first is not None and last is not None and last - first > LONGEST_HOURS else "hour"
