"""Calls over REST: those of a batch, those of a phone number, and one call with its callbacks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flask import Response

from receiver.database.pool import at_one_moment
from receiver.errors import invalid_parameter
from receiver.phone_numbers.destination import candidates
from receiver.summary import calls
from receiver.summary.call_json import call_json
from receiver.summary.callbacks import list_callbacks_of_call
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.cursors import answer_page
from receiver.web.json_answer import answer_json
from receiver.web.reading import reader
from receiver.web.services import services

blueprint = Blueprint("calls")


@blueprint.operation("GET /batches/<int:batch_id>/calls", "read", schemas.CallPage, query=schemas.CallsQuery)
def list_calls(query: dict[str, Any], batch_id: int) -> Response:
    """List a batch's calls, in the order of its rows"""
    wanted = call_filter(query)

    def read(limit: int, after: tuple[int, ...] | None) -> calls.CallPage:
        return reader().read(calls.list_calls, batch_id, wanted, limit, after[0] if after else 0)

    return answer_page(f"calls {batch_id}", query, read, lambda call: (call.row,), call_json, of="calls")


@blueprint.operation("GET /batches/<int:batch_id>/calls/<int:row>", "read", schemas.CallWithCallbacks)
def get_call(batch_id: int, row: int) -> Response:
    """One call with all its events and callbacks"""
    with at_one_moment(services().pool) as conn:
        call = calls.get_call(conn, batch_id, row)
        callbacks = list_callbacks_of_call(conn, batch_id, row)
    received = [{name: getattr(each, name) for name in ("id", "received_at", "state")} for each in callbacks]
    return answer_json(call_json(call, most_events=None, callbacks=received))


@blueprint.operation("GET /calls", "read", schemas.CallPage, query=schemas.NumberQuery)
def find_calls(query: dict[str, Any]) -> Response:
    """List all calls to a number, newest batch first"""
    numbers = _numbers(query["phone_number"])

    def read(limit: int, after: tuple[int, ...] | None) -> calls.CallPage:
        return reader().read(calls.list_calls_of_number, numbers, limit, (after[0], after[1]) if after else None)

    return answer_page("number", query, read, lambda call: (call.batch_id, call.row), call_json, length=2, of="calls")


def call_filter(query: Mapping[str, Any]) -> calls.CallFilter:
    """The filter of a query with the fields of `schemas.CallFilters`."""
    number = query.get("phone_number")
    return calls.CallFilter(query.get("state"), query.get("outcome"), None if number is None else _numbers(number))


def _numbers(text: str) -> tuple[int, ...]:
    """Every number that a search text can mean. Raises InvalidInput if there is none."""
    numbers = candidates(text, services().config.default_region)
    if not numbers:
        raise invalid_parameter("phone_number", "invalid", "This cannot be a phone number.")
    return numbers
