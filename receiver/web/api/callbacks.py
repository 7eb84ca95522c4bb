"""Callbacks over REST: the journal, for looking at and for settling again."""

from __future__ import annotations

import base64
from dataclasses import fields
from typing import Any

from flask.views import MethodView

from receiver.database.pool import reading
from receiver.summary.callbacks import get_callback, list_callbacks
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import requires
from receiver.web.cursors import read_cursor, write_cursor
from receiver.web.reading import reader
from receiver.web.services import services

blueprint = Blueprint("callbacks", __name__, description="Callbacks: each POST to a result_url, byte for byte")


@blueprint.route("/callbacks")
class Callbacks(MethodView):
    @requires("read")
    @blueprint.arguments(schemas.CallbacksQuery, location="query")
    @blueprint.response(200, schemas.Callbacks)
    @blueprint.doc(operationId="list_callbacks")
    def get(self, query: dict[str, Any]) -> dict[str, Any]:
        """List callbacks, newest first"""
        limit = query["limit"]
        position = read_cursor("callbacks", query.get("cursor"), 1)
        found = reader().read(
            list_callbacks,
            limit + 1,
            state=query.get("state"),
            batch_id=query.get("batch_id"),
            before=position[0] if position else None,
        )
        more = len(found) > limit
        found = found[:limit]
        return {
            "callbacks": found,
            "next_cursor": write_cursor("callbacks", [found[-1].id]) if more else None,
        }


@blueprint.route("/callbacks/<int:callback_id>")
class OneCallback(MethodView):
    @requires("read")
    @blueprint.arguments(schemas.NoQuery, location="query", as_kwargs=True)
    @blueprint.response(200, schemas.CallbackWithBody)
    @blueprint.doc(operationId="get_callback")
    def get(self, callback_id: int) -> dict[str, Any]:
        """One callback with its body"""
        with reading(services().pool) as conn:
            found = get_callback(conn, callback_id)
        content = {field.name: getattr(found.callback, field.name) for field in fields(found.callback)}
        try:
            text = found.body.decode()
        except UnicodeDecodeError:
            return {**content, "body_base64": base64.b64encode(found.body).decode()}
        return {**content, "body": text}
