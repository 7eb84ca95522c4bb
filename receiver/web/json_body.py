"""Parse untrusted JSON. Values that the standard parser accepts but Postgres cannot store are refused, each with its
own code."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

from receiver.errors import Fault, InvalidInput

JSON_BYTES = 1 << 20
"""Longest body."""


def read_json(body: bytes) -> dict[str, Any]:
    """A JSON object. Raises InvalidInput with one of the codes `not_json`, `not_an_object`, `not_a_number`, `too_deep`,
    `repeated_field`, `unusable_text`.
    """
    try:
        content = json.loads(
            body.decode(), parse_constant=_refuse_number, parse_float=_number, object_pairs_hook=_object
        )
        text = json.dumps(content, ensure_ascii=False).encode()
    except RecursionError:
        _refuse("too_deep", "The JSON is nested too deeply.")
    except UnicodeEncodeError:
        _refuse("unusable_text", "A string contains a lone surrogate, which is half a character.")
    except ValueError as error:
        _refuse("not_json", f"It is not valid JSON: {error}.")
    if b"\\u0000" in text:
        _refuse("unusable_text", "A string contains a NUL character.")
    if not isinstance(content, dict):
        _refuse("not_an_object", "It must be a JSON object.")
    return content


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse("repeated_field", "A field name appears twice.")
    return found


def _number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        _refuse_number(text)
    return number


def _refuse_number(text: str) -> NoReturn:
    _refuse("not_a_number", f"{text[:40]} is not a number that can be stored.")


def _refuse(code: str, message: str) -> NoReturn:
    raise InvalidInput("The body is not valid.", [Fault("body", code, message)])
