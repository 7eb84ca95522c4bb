"""Optional conditions of a query."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def all_given(conditions: Mapping[str, Any]) -> tuple[str, list[Any]]:
    """SQL: those conditions whose value is not None, and the values. Each condition has one placeholder."""
    given = {condition: value for condition, value in conditions.items() if value is not None}
    return " and ".join(given) or "true", list(given.values())
