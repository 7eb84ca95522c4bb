"""API keys are created, found by their digest, and revoked at once."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import UTC, datetime, timedelta

import pytest

from receiver.database.api_keys import (
    SCOPES,
    ApiKey,
    KeyNameTaken,
    Scope,
    create_key,
    find_key,
    list_keys,
    revoke_key,
)
from receiver.database.pool import Connection, connect
from receiver.errors import InvalidInput, NotFound


def found(conn: Connection, key: str) -> ApiKey:
    key_found = find_key(conn, key)
    assert key_found is not None
    return key_found


def last_used(conn: Connection) -> datetime | None:
    """The last use of the only key, as the next transaction sees it."""
    conn.commit()
    (known,) = list_keys(conn)
    return known.last_used_at


def row_version(conn: Connection) -> str:
    """A value that changes with every write of the only key."""
    row = conn.execute("select ctid::text from api_key").fetchone()
    assert row is not None
    return str(row[0])


def test_key_is_found_and_only_its_digest_is_stored(conn: Connection) -> None:
    key = create_key(conn, "reports", "read")
    assert re.fullmatch(r"rr_[A-Za-z0-9]{8}_[A-Za-z0-9_-]{43}", key)
    known = found(conn, key)
    assert (known.name, known.scope, known.expires_at) == ("reports", "read", None)
    assert known.prefix == key[3:11]
    row = conn.execute("select api_key::text, digest from api_key").fetchone()
    assert row is not None
    assert row[1] == hashlib.sha256(key.encode()).digest()
    assert key[12:] not in row[0]


def test_keys_differ(conn: Connection) -> None:
    keys = {create_key(conn, f"key {number}", "read") for number in range(20)}
    assert len(keys) == len({key[12:] for key in keys}) == 20


@pytest.mark.parametrize(
    ("scope", "allowed"), [("read", {"read"}), ("queue", {"read", "queue"}), ("admin", {"read", "queue", "admin"})]
)
def test_scope_includes_the_scopes_before_it(conn: Connection, scope: Scope, allowed: set[str]) -> None:
    known = found(conn, create_key(conn, "key", scope))
    assert {other for other in SCOPES if known.allows(other)} == allowed


def test_almost_equal_key_is_not_found(conn: Connection) -> None:
    key = create_key(conn, "key", "admin")
    another = create_key(conn, "another", "admin")
    for text in ("", key[:-1], key + "A", key.swapcase(), key[3:], f" {key}", f"{key}\n", key[:12] + another[12:]):
        assert find_key(conn, text) is None, text
    for text in (key[:11] + "_" + "\u00e9" * 43, "rr_\0" + key[4:], "\ud800" * 55, "rr_" + "\u0663" * 8 + key[11:]):
        assert find_key(conn, text) is None
    assert find_key(conn, key) is not None


def test_digests_are_compared_in_constant_time(conn: Connection, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create_key(conn, "key", "read")
    compared: list[tuple[bytes, bytes]] = []
    really = hmac.compare_digest

    def compare(kept: bytes, given: bytes) -> bool:
        compared.append((kept, given))
        return really(kept, given)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    wrong = key[:-1] + ("A" if key[-1] != "A" else "B")
    assert find_key(conn, key) is not None and find_key(conn, wrong) is None
    digests = [hashlib.sha256(text.encode()).digest() for text in (key, wrong)]
    assert compared == [(digests[0], digest) for digest in digests]


def test_name_is_in_use_until_its_key_is_revoked(conn: Connection) -> None:
    first = create_key(conn, "reports", "read")
    with pytest.raises(KeyNameTaken, match="'reports'"):
        create_key(conn, "reports", "admin")
    revoke_key(conn, "reports")
    second = create_key(conn, "reports", "queue")
    assert find_key(conn, first) is None
    assert found(conn, second).scope == "queue"
    assert [key.scope for key in list_keys(conn)] == ["queue"]


def test_transaction_is_usable_after_a_name_in_use(conn: Connection) -> None:
    create_key(conn, "reports", "read")
    with pytest.raises(KeyNameTaken):
        create_key(conn, "reports", "read")
    create_key(conn, "others", "read")
    conn.commit()
    assert [key.name for key in list_keys(conn)] == ["others", "reports"]


def test_revoking_a_missing_or_revoked_key_is_not_found(conn: Connection) -> None:
    create_key(conn, "key", "read")
    revoke_key(conn, "key")
    for name in ("key", "nobody", ""):
        with pytest.raises(NotFound):
            revoke_key(conn, name)


@pytest.mark.parametrize("name", ["", "x" * 101, "a\nb", "\0", "\udcff", "\x1b[2J"])
def test_unprintable_name_is_refused(conn: Connection, name: str) -> None:
    with pytest.raises(InvalidInput):
        create_key(conn, name, "read")
    assert list_keys(conn) == []


def test_expired_key_is_not_found_but_still_listed(conn: Connection) -> None:
    now = datetime.now(UTC)
    past, future = now - timedelta(seconds=1), now + timedelta(hours=1)
    over, good = create_key(conn, "over", "read", past), create_key(conn, "still good", "read", future)
    assert find_key(conn, over) is None
    assert found(conn, good).expires_at == future
    assert [(key.name, key.expires_at) for key in list_keys(conn)] == [("over", past), ("still good", future)]


def test_use_is_recorded_to_the_minute_and_not_by_each_request(conn: Connection) -> None:
    key = create_key(conn, "key", "read")
    conn.commit()
    assert last_used(conn) is None
    assert find_key(conn, key) is not None
    first_use = last_used(conn)
    assert first_use is not None and abs(datetime.now(UTC) - first_use) < timedelta(seconds=60)
    version = row_version(conn)
    for _ in range(5):
        assert find_key(conn, key) is not None
        assert last_used(conn) == first_use
    assert row_version(conn) == version
    conn.execute("update api_key set last_used_at = now() - interval '61 seconds'")
    conn.commit()
    aged = last_used(conn)
    assert find_key(conn, key) is not None
    assert (last_used(conn) or first_use) > first_use > (aged or first_use)
    assert row_version(conn) != version


def test_recording_a_use_waits_for_no_other_request(conn: Connection, database_url: str) -> None:
    key = create_key(conn, "key", "read")
    conn.commit()
    assert find_key(conn, key) is not None  # this transaction now holds the lock on the row
    with connect(database_url, name="test") as other:
        other.execute("set lock_timeout = '2s'")
        assert find_key(other, key) is not None
