"""Numbers that must not be called. Whoever queues or releases calls asks here."""

from __future__ import annotations

import hmac
from collections.abc import Sequence

from receiver.database.pool import Connection


def find_suppressed(conn: Connection, phone_numbers: Sequence[int]) -> set[int]:
    """Those of the numbers that are suppressed, erased entries included."""
    if not phone_numbers:
        return set()
    found = conn.execute(
        "select phone_number from suppression where phone_number = any(%s)", (list(phone_numbers),), prepare=True
    ).fetchall()
    suppressed = {number for (number,) in found}
    erased = {digest for (digest,) in conn.execute("select digest from suppression where phone_number is null")}
    if erased:
        key = get_key(conn)
        suppressed.update(number for number in phone_numbers if digest_of(key, number) in erased)
    return suppressed


def get_key(conn: Connection) -> bytes:
    """What numbers are hashed with. It never changes."""
    row = conn.execute("select key from suppression_key").fetchone()
    assert row is not None  # noqa: S101 the migration makes it
    key: bytes = row[0]
    return key


def digest_of(key: bytes, phone_number: int) -> bytes:
    """What is kept of an erased number."""
    return hmac.digest(key, str(phone_number).encode(), "sha256")
