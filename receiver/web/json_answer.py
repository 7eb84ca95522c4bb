"""JSON answers. Postgres, or the code that also writes exports, may have written parts of them as JSON text already.

Parsing such a part and writing it again would make the answer slower: a batch can have a megabyte of submissions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from flask import Response, current_app
from flask.json.provider import DefaultJSONProvider
from marshmallow import Schema

from receiver.summary.batches import Batch
from receiver.summary.call_json import batch_json


def answer_json(text: str) -> Response:
    return Response(text + "\n", content_type="application/json")


def answer_batch(batch: Batch, **more: Any) -> Response:
    """A batch, and `more` members at the end."""
    return answer_json(batch_json(batch, **more))


def json_writer(schema: Schema) -> Callable[[Any], str]:
    """Writes an item of a list as JSON text."""
    return lambda item: current_app.json.dumps(schema.dump(item), separators=(",", ":"))


class JSONProvider(DefaultJSONProvider):
    """Flask's provider, but members keep their order, and text is not escaped to ASCII."""

    ensure_ascii = False
    sort_keys = False
