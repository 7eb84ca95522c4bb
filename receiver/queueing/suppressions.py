"""Numbers that must not be called. Whoever queues or releases calls asks here.

Each number is stored together with a keyed hash of it. An erasure removes the number and keeps the hash, so that the
number is still not called. All writers insert in the order of the numbers, so that they never wait for each other.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from psycopg.rows import class_row

from receiver.changes.audit import record_change
from receiver.database.arrays import bigints, digests
from receiver.database.conditions import all_given
from receiver.database.pool import Connection
from receiver.errors import NotFound
from receiver.model import masked

REASON_CHARACTERS = 200

_COLUMNS = "suppression_id as id, phone_number, reason, note, created_by, created_at"


@dataclass(frozen=True, slots=True)
class Suppression:
    """An entry. `phone_number` is None once the number is erased. `created_by`: an actor of the audit trail."""

    id: int
    phone_number: int | None
    reason: str | None
    note: str | None
    created_by: str
    created_at: datetime


def find_suppressed(conn: Connection, phone_numbers: Sequence[int]) -> set[int]:
    """Those of the numbers that are suppressed, erased entries included."""
    if not phone_numbers:
        return set()
    found = conn.execute(
        "select phone_number from suppression where phone_number = any(%b)", (bigints(phone_numbers),), prepare=True
    ).fetchall()
    suppressed = {number for (number,) in found}
    if conn.execute("select from suppression where phone_number is null limit 1", prepare=True).fetchone() is not None:
        number_of = dict(zip(_digests_of(get_key(conn), phone_numbers), phone_numbers, strict=True))
        erased = conn.execute(
            "select digest from suppression where phone_number is null and digest = any(%b)", (digests(number_of),)
        )
        suppressed.update(number_of[bytes(digest)] for (digest,) in erased)
    return suppressed


def get_key(conn: Connection) -> bytes:
    """What numbers are hashed with. It never changes."""
    key: bytes = conn.execute("select key from suppression_key").fetchall()[0][0]
    return key


def digest_of(key: bytes, phone_number: int) -> bytes:
    """What is kept of an erased number."""
    return hmac.digest(key, str(phone_number).encode(), "sha256")


def _digests_of(key: bytes, phone_numbers: Iterable[int]) -> list[bytes]:
    """`digest_of` each, in half the time: HMAC (RFC 2104) with the key hashed only once."""
    padded = key.ljust(64, b"\0")
    inner, outer = (hashlib.sha256(bytes(byte ^ pad for byte in padded)) for pad in (0x36, 0x5C))
    found = []
    for phone_number in phone_numbers:
        hashed, around = inner.copy(), outer.copy()
        hashed.update(b"%d" % phone_number)
        around.update(hashed.digest())
        found.append(around.digest())
    return found


def suppress(
    conn: Connection, phone_number: int, *, by: str, reason: str | None = None, note: str | None = None
) -> tuple[Suppression, bool]:
    """Suppress a number; returns its entry, and whether that is new. An entry that was there stays as it is."""
    digest = digest_of(get_key(conn), phone_number)
    while True:
        added = _insert(conn, {phone_number: reason}, by, note)
        if added:
            record_change(conn, by, "suppress", details=_about(phone_number, reason), note=note)
        with conn.cursor(row_factory=class_row(Suppression)) as cursor:
            found = cursor.execute(f"select {_COLUMNS} from suppression where digest = %s", (digest,)).fetchone()
        if found is not None:  # nobody removed it in between
            return found, bool(added)


def suppress_all(conn: Connection, reasons: Mapping[int, str | None], *, by: str, note: str | None = None) -> int:
    """Suppress many numbers, each with its reason; returns how many were not suppressed before."""
    added = len(_insert(conn, reasons, by, note))
    record_change(conn, by, "suppress", details={"added": added, "present": len(reasons) - added}, note=note)
    return added


def suppress_results(conn: Connection, statuses: Mapping[int, tuple[str, int]], by: str) -> None:
    """Suppress numbers because of their results: of each number, the provider's status and the batch."""
    for number in sorted(_insert(conn, {number: status for number, (status, _) in statuses.items()}, by)):
        status, batch_id = statuses[number]
        record_change(conn, by, "suppress", batch_id=batch_id, details=_about(number, status))


def _about(phone_number: int, reason: str | None) -> dict[str, str | None]:
    return {"phone_number": masked(phone_number), "reason": reason}


def _insert(conn: Connection, reasons: Mapping[int, str | None], by: str, note: str | None = None) -> list[int]:
    """Insert those that are not there, in the order of the numbers; returns them."""
    key = get_key(conn)
    numbers = sorted(reasons)
    added = conn.execute(
        "insert into suppression (phone_number, digest, reason, note, created_by)"
        " select phone_number, digest, reason, %s, %s"
        " from unnest(%b::bigint[], %b::bytea[], %s::text[]) as g (phone_number, digest, reason)"
        " on conflict do nothing returning phone_number",
        (note, by, bigints(numbers), digests(_digests_of(key, numbers)), [reasons[number] for number in numbers]),
        prepare=True,
    )
    return [number for (number,) in added]


def list_suppressions(
    conn: Connection,
    limit: int,
    *,
    phone_numbers: Iterable[int] | None = None,
    reason: str | None = None,
    before: int | None = None,
) -> list[Suppression]:
    """Entries, newest first, those with an id below `before`. `phone_numbers`: of these only, also if erased."""
    wanted = None if phone_numbers is None else digests(_digests_of(get_key(conn), phone_numbers))
    where, values = all_given({"digest = any(%b)": wanted, "reason = %s": reason, "suppression_id < %s": before})
    with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        return cursor.execute(
            f"select {_COLUMNS} from suppression where {where} order by suppression_id desc limit %s", [*values, limit]
        ).fetchall()


def get_suppression(conn: Connection, suppression_id: int) -> Suppression:
    """One entry. Raises NotFound."""
    with conn.cursor(row_factory=class_row(Suppression)) as cursor:
        found = cursor.execute(
            f"select {_COLUMNS} from suppression where suppression_id = %s", (suppression_id,)
        ).fetchone()
    if found is None:
        raise NotFound(f"Suppression {suppression_id} does not exist.")
    return found


def delete_suppression(conn: Connection, suppression_id: int, *, by: str) -> None:
    """Let a number be called again. Raises NotFound."""
    _delete(conn, "suppression_id = %s", suppression_id, by)


def unsuppress(conn: Connection, phone_number: int, *, by: str) -> None:
    """Let a number be called again, also if its entry is erased. Raises NotFound."""
    _delete(conn, "digest = %s", digest_of(get_key(conn), phone_number), by)


def _delete(conn: Connection, which: str, value: object, by: str) -> None:
    row = conn.execute(
        f"delete from suppression where {which} returning phone_number, suppression_id", (value,)
    ).fetchone()
    if row is None:
        raise NotFound("This suppression does not exist.")
    phone_number, suppression_id = row
    details = {"suppression_id": suppression_id}
    if phone_number is not None:
        details["phone_number"] = masked(phone_number)
    record_change(conn, by, "unsuppress", details=details)


def erase_suppression(conn: Connection, phone_number: int) -> int:
    """Remove the number and the note from its entry. Its hash and its reason stay. Returns how many entries it had."""
    return conn.execute(
        "update suppression set phone_number = null, note = null where phone_number = %s", (phone_number,)
    ).rowcount
