"""JSON answers. Parts of them may already be JSON text: written by Postgres, or by the code that also writes exports.

Parsing such a part and writing it again would make the answer slower: a batch can have a megabyte of submissions.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from flask import current_app
from flask.json.provider import DefaultJSONProvider
from marshmallow import Schema


@dataclass(frozen=True, slots=True)
class ReadyJson:
    """JSON text that becomes a part of an answer unchanged."""

    text: str


def json_writer(schema: Schema) -> Callable[[Any], str]:
    """Writes an item of a list as JSON text."""
    return lambda item: current_app.json.dumps(schema.dump(item), separators=(",", ":"))


class JSONProvider(DefaultJSONProvider):
    """Flask's provider, but members keep their order, text is not escaped to ASCII, and `ReadyJson` is inserted."""

    ensure_ascii = False
    sort_keys = False

    _PLACEHOLDER = secrets.token_urlsafe(24)
    """A placeholder for ready text while the rest is written. It is secret, so no text from outside can contain it."""

    def dumps(self, obj: Any, **options: Any) -> str:
        texts: list[str] = []

        def default(value: Any) -> Any:
            if not isinstance(value, ReadyJson):
                return DefaultJSONProvider.default(value)
            texts.append(value.text)
            return self._PLACEHOLDER

        around = super().dumps(obj, default=default, **options)
        if not texts:
            return around
        return "".join(chain.from_iterable(zip_longest(around.split(f'"{self._PLACEHOLDER}"'), texts, fillvalue="")))
