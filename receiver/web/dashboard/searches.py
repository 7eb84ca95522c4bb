"""Numbers that a viewer searched for. A number never stands in an address, which proxies and browsers write down: it is
POSTed, kept in the signed session under a name made up for it, and the address has that name.
"""

from __future__ import annotations

import secrets

from flask import session

MOST_SEARCHES = 5
"""Numbers a session remembers: as many tabs may show what was found for one."""

LONGEST_NUMBER = 100

_SEARCHES = "searches"


def remember_search(text: str) -> str | None:
    """The name under which the session keeps what was typed; None if that was nothing."""
    number = text.strip()[:LONGEST_NUMBER]
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
