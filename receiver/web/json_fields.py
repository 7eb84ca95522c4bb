"""Fields of JSON bodies. Each takes what its JSON schema allows and nothing else: no number is written as a text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from receiver.queueing.form_fields import Flag, Timestamp, WholeNumber


class JsonFlag(Flag):
    """true, false, 1 or 0."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        if not isinstance(value, bool | int | float) or value not in (0, 1):
            raise self.make_error("invalid")
        return bool(value)


class JsonNumber(WholeNumber):
    """A whole number, which may be written as 7.0."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> int:
        if type(value) not in (int, float) or value != int(value):
            raise self.make_error("invalid", input=str(value)[:40])
        return super()._deserialize(int(value), attr, data, **kwargs)


class JsonTimestamp(Timestamp):
    """Unix seconds, which may be written as 7.0, or RFC 3339."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> datetime:
        is_whole = isinstance(value, float) and value.is_integer()
        return super()._deserialize(int(value) if is_whole else value, attr, data, **kwargs)
