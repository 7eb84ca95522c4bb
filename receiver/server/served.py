"""Which application gunicorn's worker serves."""

from __future__ import annotations

from typing import Any

EXTENSION = "asgi"
"""Where a Flask application has its ASGI form."""


def served(application: Any) -> Any:
    """An ASGI application as it is, and the ASGI form of a Flask application that has one."""
    return getattr(application, "extensions", {}).get(EXTENSION, application)
