"""Submissions over REST: list those of a batch, and state what became of those whose answer was lost."""

from __future__ import annotations

from typing import Any

from flask import Response
from marshmallow import Schema, validate

from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.pool import connection
from receiver.queueing.form_fields import says
from receiver.release import resolution
from receiver.summary import submissions
from receiver.summary.batches import get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.cursors import answer_list
from receiver.web.json_answer import answer_batch, json_writer
from receiver.web.json_fields import JsonFlag
from receiver.web.reading import reader
from receiver.web.services import services

blueprint = Blueprint("submissions", tag="batches")


class Resolution(Schema):
    queued = JsonFlag(
        required=True,
        metadata=says("Whether the provider queued it. If false, it is sent again: then nobody must have been called."),
    )
    note = schemas.text(
        "How you know. It is stored with your key's name.",
        required=True,
        validate=[validate.Length(min=1), validate.Length(max=NOTE_CHARACTERS)],
    )


@blueprint.operation("GET /batches/<int:batch_id>/submissions", "read", schemas.SubmissionPage, query=schemas.PageQuery)
def list_submissions(query: dict[str, Any], batch_id: int) -> Response:
    """List all submissions of a batch, in the order of their numbers"""

    def read(limit: int, after: int | None) -> list[submissions.SubmissionProgress]:
        return reader().read(submissions.list_submissions, batch_id, limit, after or 0)

    return answer_list(f"submissions {batch_id}", query, read, json_writer(schemas.Submission()), of="submissions")


@blueprint.operation(
    "POST /batches/<int:batch_id>/submissions/<int:submission_no>/resolve",
    "queue",
    schemas.Batch,
    body=Resolution,
)
def resolve_submission(said: dict[str, Any], batch_id: int, submission_no: int) -> Response:
    """State whether an `unknown` submission was queued

    Check the provider's own pages first. If it was queued, it becomes `accepted`. If not, it becomes `pending` and
    is sent again when its gates are open, or `withdrawn` or `refused` if it can no longer be sent. If you say that
    it was not queued although it was, everybody in it is called twice.
    """
    with connection(services().pool) as conn:
        resolution.resolve_submission(conn, batch_id, submission_no, **said, by=current_key().name)
        return answer_batch(get_batch(conn, batch_id))


@blueprint.operation("POST /batches/<int:batch_id>/resolve", "queue", schemas.Batch, body=Resolution)
def resolve_batch(said: dict[str, Any], batch_id: int) -> Response:
    """State for all `unknown` submissions of a batch whether they were queued

    The same as for one submission. A submission that a callback proves to be queued is not sent again.
    """
    with connection(services().pool) as conn:
        resolution.resolve_batch(conn, batch_id, **said, by=current_key().name)
        return answer_batch(get_batch(conn, batch_id))
