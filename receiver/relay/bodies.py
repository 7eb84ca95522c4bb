"""The bodies of events. They are made when they are sent, from what the API shows at that moment, and not kept."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import psycopg

from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.logs import about
from receiver.relay.sending import event_body
from receiver.summary.batches import Submission, get_batch
from receiver.summary.call_json import batch_json, encode
from receiver.summary.callbacks import get_callback
from receiver.summary.stored_calls import list_stored_calls
from receiver.summary.submissions import get_submission

if TYPE_CHECKING:
    from receiver.relay.queue import Owed

log = logging.getLogger(__name__)


def make_bodies(conn: Connection, owed: Sequence[Owed]) -> dict[int, str | None]:
    """The bodies by the event's id; None after an error. An event whose subject was purged has none."""
    try:
        return _make(conn, owed)
    except psycopg.Error:
        raise
    except Exception:
        if len(owed) > 1:
            return {event_id: body for each in owed for event_id, body in make_bodies(conn, [each]).items()}
        log.exception("the body of event %d could not be made", owed[0].id, extra=about("step_failed"))
        return {owed[0].id: None}


def _make(conn: Connection, owed: Sequence[Owed]) -> dict[int, str | None]:
    results = {each.id: (each.batch_id, each.subject or 0) for each in owed if each.event == "call.result"}
    calls = _read_calls(conn, list(results.values()))
    subjects = {event_id: calls[key] for event_id, key in results.items() if key in calls}
    batches: dict[int, str] = {}
    for each in owed:
        try:
            if each.event.startswith("batch."):
                if each.batch_id not in batches:
                    batches[each.batch_id] = batch_json(get_batch(conn, each.batch_id))
                subjects[each.id] = batches[each.batch_id]
            elif each.event.startswith("submission."):
                found = get_submission(conn, each.batch_id, each.subject or 0)
                members = {name: getattr(found, name) for name in Submission._fields}
                subjects[each.id] = encode({"batch_id": each.batch_id, **members})
            elif each.event.startswith("callback."):
                subjects[each.id] = encode(asdict(get_callback(conn, each.subject or 0).callback))
        except NotFound:
            continue
    return {each.id: event_body(each.event, each.owed_at, subjects[each.id]) for each in owed if each.id in subjects}


def _read_calls(conn: Connection, keys: Sequence[tuple[int, int]]) -> dict[tuple[int, int], str]:
    """The calls with these keys as JSON, except purged ones. A page ends early if its calls are large."""
    found: dict[tuple[int, int], str] = {}
    while keys:
        calls = list_stored_calls(conn, keys)
        found |= {key: call.json() for key, call in zip(keys, calls, strict=False) if call is not None}
        keys = keys[len(calls) :]
    return found
