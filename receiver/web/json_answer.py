"""JSON answers, of which a part may be JSON already: written by Postgres, or line by line as in an export."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from itertools import chain, zip_longest
from typing import Any

from flask import current_app
from flask.json.provider import DefaultJSONProvider


@dataclass(frozen=True, slots=True)
class ReadyJson:
    """JSON text that stands in an answer as it is."""

    text: str


def json_text(value: Any) -> str:
    """A part of an answer of this app, as text that `ReadyJson` takes."""
    return current_app.json.dumps(value, separators=(",", ":"))


class JSONProvider(DefaultJSONProvider):
    """Flask's own, with members in the order that people read them, letters as they are, and `ReadyJson` in place."""

    ensure_ascii = False
    sort_keys = False

    _PLACE = secrets.token_urlsafe(24)
    """Where ready text goes. Nobody who is answered knows it, so nothing that they sent can hold it."""

    def dumps(self, obj: Any, **options: Any) -> str:
        texts: list[str] = []

        def default(value: Any) -> Any:
            if not isinstance(value, ReadyJson):
                return DefaultJSONProvider.default(value)
            texts.append(value.text)
            return self._PLACE

        around = super().dumps(obj, default=default, **options)
        if not texts:
            return around
        return "".join(chain.from_iterable(zip_longest(around.split(f'"{self._PLACE}"'), texts, fillvalue="")))
