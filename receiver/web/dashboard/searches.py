"""What a viewer searched for. An address never contains a phone number, because proxies and browsers store addresses:
the text is POSTed and kept in the signed session under a random name, and the address contains this name.
"""

from __future__ import annotations

import secrets

from flask import session

MOST_SEARCHES = 5
"""Searches that a session remembers: this many windows can show a result."""

LONGEST_SEARCH = 100

_SEARCHES = "searches"


def remember_search(text: str) -> str | None:
    """The name under which the session keeps what was typed; None if that was nothing."""
    number = text.strip()[:LONGEST_SEARCH]
    if not number:
        return None
    name = secrets.token_urlsafe(6)
    session[_SEARCHES] = [*_searches().items(), (name, number)][-MOST_SEARCHES:]
    return name


def find_search(name: str | None) -> str | None:
    """What was typed, if this session keeps it under that name."""
    return _searches().get(name) if name else None


def _searches() -> dict[str, str]:
    kept = session.get(_SEARCHES)
    return {name: number for name, number in kept} if isinstance(kept, list) else {}
