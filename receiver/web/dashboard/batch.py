"""One batch: its balance in sentences and charts, what needs attention, and its calls.

One region of the page has everything that changes during the calls. htmx polls it every two seconds while the page is
visible (static/app.js), until the answer is 286. static/live.js merges the region into the page node by node, so that
scroll position, focus, selection and opened details stay. A poll without changes costs one read of counters and is
answered 204. The answer also contains the list of calls, read in the same snapshot. Otherwise the list could contradict
the figures above it.
"""

from __future__ import annotations

import hashlib
from datetime import timedelta
from typing import Any, Literal

from flask import Response, make_response, render_template, request

from receiver.database.pool import Connection
from receiver.model import CALL_STATES, OUTCOMES, SubmissionState
from receiver.release.deployment_cancel import is_held
from receiver.release.resolution import list_resolutions
from receiver.summary.attempts import count_by_attempts
from receiver.summary.batches import Batch, get_batch
from receiver.summary.lineage import get_lineage
from receiver.summary.series import SummaryFilter, get_quarter_hours, get_series
from receiver.summary.submissions import (
    Unseen,
    count_submissions,
    describe_missing,
    get_next_release,
    get_unseen,
    list_submissions,
    list_submissions_in_doubt,
)
from receiver.web.dashboard import wording
from receiver.web.dashboard.batch_calls import read_calls
from receiver.web.dashboard.charts import split_bar, stacked_series
from receiver.web.dashboard.intervals import ChartInterval
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import time_zone
from receiver.web.reading import reader

POLL_SECONDS, LATE_POLL_SECONDS = 2, 30
"""How often the page asks for changes; and if only results are missing that were due already."""

NO_MORE_POLLS = 286
"""The HTTP status that ends htmx' polling."""

MOST_IN_DOUBT = 3
"""Maximum number of submissions that need attention on the batch's page. A separate page lists all."""

PAGE_SUBMISSIONS, PAGE_IN_DOUBT = 50, 20

YOUNG, LONGEST_HOURS = timedelta(hours=12), timedelta(days=2)
"""Results are shown by quarter hour if they were received within the first of these times, by hour within the second,
otherwise by day."""

FEW_CALLS = 20_000
"""Up to this many ended calls, attempts are counted on this page (4 ms). For more, they are counted on a separate page
(0.15 s for a million)."""


FEW_FOLLOWED = 5_000
"""Up to this many followed-up rows, this page counts what became of them (0.1 s). For more, a separate page does."""


@page("/batches/<int:batch_id>", scope="read")
def batch(batch_id: int) -> str:
    """One batch."""

    def read(conn: Connection) -> dict[str, Any]:
        found = get_batch(conn, batch_id, with_submissions=False)
        lineage = get_lineage(conn, batch_id, FEW_FOLLOWED) if found.follows or found.follow_ups else None
        return {**_read_page(conn, found, count_submissions(conn, batch_id)), "lineage": lineage}

    return render_template("batch.html", **reader().read_at_one_moment(read))


@page("/batches/<int:batch_id>/live", scope="read")
def batch_live(batch_id: int) -> Response:
    """The live region of a batch's page, and the calls that the query selects."""

    def read(conn: Connection) -> dict[str, Any] | None:
        found = get_batch(conn, batch_id, with_submissions=False)
        submissions = count_submissions(conn, batch_id)
        shown = _digest(found, submissions, get_unseen(conn, batch_id), is_held(conn, batch_id))
        if _poll_seconds(found) and request.args.get("seen") == shown:
            return None
        return _read_page(conn, found, submissions)

    shown = reader().read_at_one_moment(read)
    if shown is None:
        return Response(status=204)
    content = render_template("batch_live.html", **shown) + render_template("batch_calls_list.html", **shown)
    return make_response(content, 200 if _poll_seconds(shown["batch"]) else NO_MORE_POLLS)


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
            "unseen": get_unseen(conn, batch_id),
            "submissions": submissions[:PAGE_SUBMISSIONS],
            "more": len(submissions) > PAGE_SUBMISSIONS,
            "resolutions": list_resolutions(conn, batch_id),
        }

    return render_template("batch_submissions.html", **reader().read_at_one_moment(read), after=after)


@page("/batches/<int:batch_id>/lineage", scope="read")
def batch_lineage(batch_id: int) -> str:
    """A batch with its follow-ups, and the latest results of its rows."""

    def read(conn: Connection) -> dict[str, Any]:
        return {
            "batch": get_batch(conn, batch_id, with_submissions=False),
            "lineage": get_lineage(conn, batch_id),
        }

    return render_template("batch_lineage.html", **reader().read_at_one_moment(read))


def _read_page(conn: Connection, found: Batch, submissions: dict[SubmissionState, int]) -> dict[str, Any]:
    """The values for the templates."""
    ended = found.counts["final"]
    interval, series = _read_series(conn, found)
    name = wording.title(found.name, found.id, found.phase, found.state, found.counts)
    held, unseen = is_held(conn, found.id), get_unseen(conn, found.id)
    return {
        "batch": found,
        "progress": {
            "poll_seconds": _poll_seconds(found),
            "seen": _digest(found, submissions, unseen, held),
            "unseen": unseen,
            "is_held": held,
            "submissions": submissions,
            "next_release_at": get_next_release(conn, found.id),
            "in_doubt": list_submissions_in_doubt(conn, found.id, MOST_IN_DOUBT),
            "missing": describe_missing(conn, found.id) if found.counts["pending"] + found.counts["overdue"] else None,
            "bar": split_bar(found.counts, key="progress", label=f"Batch {found.id}: progress"),
            "chart": stacked_series(
                series,
                interval=interval,
                time_zone=time_zone(),
                key="results",
                title=f"Batch {found.id}: results by {interval}",
            ),
            "title": name,
        },
        "attempts": count_by_attempts(conn, found.id) if ended <= FEW_CALLS else None,
        "calls": read_calls(conn, found.id),
        "call_states": CALL_STATES,
        "outcomes": OUTCOMES,
    }


def _poll_seconds(found: Batch) -> int | None:
    """How often something may change: soon if it is being queued, calls are pending, or callbacks wait. None: never."""
    if found.state == "queueing" or found.counts["pending"] or found.callbacks["waiting"]:
        return POLL_SECONDS
    return LATE_POLL_SECONDS if found.counts["overdue"] else None


def _digest(found: Batch, submissions: dict[SubmissionState, int], unseen: Unseen, held: bool) -> str:
    """Changes whenever the content of the live region changes."""
    shown = (found, submissions, unseen, held, time_zone())
    return hashlib.sha256(repr(shown).encode()).hexdigest()[:16]


def _read_series(conn: Connection, found: Batch) -> tuple[ChartInterval, list[dict[str, Any]]]:
    """The results by time, and the length of time of each point."""
    first, last = found.first_result_at, found.last_result_at
    if first is None or last is None or last - first < YOUNG:
        return "quarter hour", get_quarter_hours(conn, found.id)
    interval: Literal["hour", "day"] = "hour" if last - first <= LONGEST_HOURS else "day"
    return interval, get_series(conn, SummaryFilter(batch_id=found.id, interval=interval, time_zone=time_zone()))
