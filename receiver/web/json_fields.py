"""Fields of JSON bodies. Each takes what its JSON schema allows and nothing else: no number is written as a text."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

from receiver.queueing.form_fields import LARGEST_ID, Coded, Flag, Timestamp, WholeNumber, says

MOST_IDS = 1000


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


class Ids(fields.List[int]):
    """A list of ids. Any wrong id is reported as one fault of the whole list."""

    def __init__(self, description: str) -> None:
        ids = WholeNumber(validate=validate.Range(1, LARGEST_ID))
        super().__init__(ids, metadata=says(description, minItems=1, maxItems=MOST_IDS))

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> list[int | None]:
        if isinstance(value, list) and 1 <= len(value) <= MOST_IDS and all(map(_is_id, value)):
            return [int(item) for item in value]
        raise ValidationError(f"It must be a list of 1 to {MOST_IDS} ids, which are whole numbers.")


def _is_id(item: Any) -> bool:
    """Whether a JSON value is a valid id. 7.0 is the same as 7."""
    return type(item) in (int, float) and item == int(item) and 1 <= item <= LARGEST_ID


def exactly_one(*names: str) -> Any:
    """A rule of a schema: exactly one of these members is given. A member that is false counts as absent."""

    @validates_schema
    def check(_: Schema, values: dict[str, Any], **__: Any) -> None:
        if sum(values.get(name, False) is not False for name in names) != 1:
            message = f"Exactly one of {', '.join(names[:-1])} and {names[-1]} is required."
            raise ValidationError({names[0]: [Coded("required", message)]})

    return check
