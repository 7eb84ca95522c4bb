"""Callbacks over REST: the stored requests to `result_url`s."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

from flask import Response

from receiver.summary import callbacks
from receiver.summary.batches import get_batch
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.cursors import answer_list
from receiver.web.json_answer import json_writer
from receiver.web.reading import primary, reader

CALLBACKS_AT_ONCE = 100
"""Callbacks that one query reads: the bodies of those that were applied are read for their rows."""

blueprint = Blueprint("callbacks")


@blueprint.operation("GET /callbacks", "read", schemas.CallbackPage, query=schemas.CallbacksQuery)
def list_callbacks(query: dict[str, Any]) -> Response:
    """List callbacks, newest first"""
    state, batch_id = query.get("state"), query.get("batch_id")

    def read(limit: int, before: int | None) -> list[callbacks.Callback]:
        found = reader().read(callbacks.list_callbacks, limit, state=state, batch_id=batch_id, before=before)
        if batch_id is not None and before is None and not found:  # a batch that was purged can have later callbacks
            reader().read(get_batch, batch_id, with_submissions=False)
        return found

    return answer_list("callbacks", query, read, json_writer(schemas.Callback()), at_once=CALLBACKS_AT_ONCE)


@blueprint.operation("GET /callbacks/<int:callback_id>", "read", schemas.CallbackWithBody)
def get_callback(callback_id: int) -> dict[str, Any]:
    """One callback with its body"""
    found = primary().read(callbacks.get_callback, callback_id)
    content = {field.name: getattr(found.callback, field.name) for field in fields(found.callback)}
    try:
        text = found.body.decode()
    except UnicodeDecodeError:
        return {**content, "body_base64": base64.b64encode(found.body).decode()}
    return {**content, "body": text}
