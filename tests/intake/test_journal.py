from __future__ import annotations

import threading
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import pytest

from receiver.database.pool import Connection, connect
from receiver.intake.journal import BODY_BYTES, Callback, Group, forget_writers, write_group
from receiver.intake.packing import unpack
from receiver.model import SubmissionKey
from tests.factories import (
    deliver,
    differences,
    journal,
    make_batch,
    make_callback,
    phone_number,
    purge_batch,
    read_batch,
    result_body,
    settle_all,
)
from tests.waiting import eventually, waits_for_lock


def bodies(conn: Connection) -> list[bytes]:
    found = conn.execute(
        "select packing, body from callback join waiting using (callback_id) order by callback_id"
    ).fetchall()
    conn.commit()
    return [unpack(*row) for row in found]


def group(sequence: int = 1, *texts: bytes, writer: Group | None = None) -> Group:
    writer_id = writer.writer_id if writer else uuid4()
    return Group(writer_id, sequence, tuple(make_callback(1, text) for text in texts))


def test_callback_is_stored_byte_for_byte(conn: Connection) -> None:
    body = bytes(range(256)) * (BODY_BYTES // 256)
    received_at = datetime(2026, 3, 1, 12, 0, 0, 123456, tzinfo=UTC)
    write_group(conn, Group(uuid4(), 1, (Callback(SubmissionKey(10**18 - 1, 10**9 - 1), received_at, "a", "b", body),)))
    kept = conn.execute(
        "select batch_id, submission_no, received_at, content_type, content_encoding, polled, packing, body"
        " from callback"
    ).fetchone()
    assert kept is not None
    *fields, packing, packed = kept
    assert fields == [10**18 - 1, 10**9 - 1, received_at, "a", "b", False]
    assert unpack(packing, packed) == body
    assert conn.execute("select batch_id, received_at from waiting").fetchall() == [(10**18 - 1, received_at)]


def test_group_of_five_hundred_keeps_its_order_and_waits_completely(conn: Connection) -> None:
    texts = [b"%d" % number for number in range(500)]
    write_group(conn, group(1, *texts))
    assert bodies(conn) == texts


def test_empty_group_stores_only_its_sequence(conn: Connection) -> None:
    empty = group(1)
    write_group(conn, empty)
    write_group(conn, group(1, b"too late", writer=empty))
    assert bodies(conn) == []
    assert conn.execute("select writer_id, last_sequence from journal_writer").fetchall() == [(empty.writer_id, 1)]


def test_group_written_again_is_stored_once(conn: Connection) -> None:
    first = group(1, b"a", b"b")
    for _ in range(3):
        write_group(conn, first)
    write_group(conn, group(2, b"c", writer=first))
    write_group(conn, first)
    assert bodies(conn) == [b"a", b"b", b"c"]


def test_same_sequence_of_another_writer_is_another_group(conn: Connection) -> None:
    write_group(conn, group(1, b"a"))
    write_group(conn, group(1, b"a"))
    assert bodies(conn) == [b"a", b"a"]


def test_group_after_a_later_one_of_its_writer_is_not_stored(conn: Connection) -> None:
    """So callers must write the groups of a writer in the order of their sequence."""
    later = group(2, b"later")
    write_group(conn, later)
    write_group(conn, group(1, b"earlier", writer=later))
    assert bodies(conn) == [b"later"]


@pytest.mark.parametrize("commits", [True, False])
@pytest.mark.parametrize("known", [True, False])
def test_second_attempt_waits_for_the_running_first_one(
    conn: Connection, database_url: str, commits: bool, known: bool
) -> None:
    before = group(1, b"before")
    write_group(conn, before)
    conn.commit()
    hanging = group(2, b"a", writer=before if known else None)
    with (
        closing(connect(database_url, name="first try")) as first,
        closing(connect(database_url, name="again")) as again,
    ):
        write_group(first, hanging)
        second_try = threading.Thread(target=write_group, args=(again, hanging))
        second_try.start()
        eventually(lambda: waits_for_lock(conn, "again"))
        if commits:
            first.commit()
        else:
            first.rollback()
        second_try.join(60)
        again.commit()
    assert bodies(conn) == [b"before", b"a"]


@pytest.mark.parametrize(
    "header",
    ["", "é", "\u2028", "🦄", "'; drop table callback; --", "{null,\"a\"}", "\\N", "%s %(body)s", "a\r\nb\t", "x" * 255,
     "multipart/form-data; boundary=\"\\\"\"", "\x01\x7f\xff"],
)  # fmt: skip
def test_hostile_content_type_is_stored_unchanged(conn: Connection, header: str) -> None:
    callbacks = [make_callback(1, b"x"), Callback(SubmissionKey(1, 1), datetime.now(UTC), header, header, b"x")]
    write_group(conn, Group(uuid4(), 1, tuple(callbacks)))
    kept = conn.execute("select content_type, content_encoding from callback order by callback_id").fetchall()
    assert kept == [("application/json", ""), (header, header)]


def test_callback_of_a_purged_batch_does_not_fail_its_neighbours(conn: Connection) -> None:
    purged, kept = make_batch(conn), make_batch(conn)
    deliver(conn, purged, result_body(phone_number(0)))
    purge_batch(conn, purged)
    body = result_body(phone_number(0))
    journal(conn, make_callback(purged, body), make_callback(kept, body), make_callback(999_999, body))
    assert settle_all(conn) == 3
    assert read_batch(conn, kept).counts["completed"] == 1
    assert differences(conn) == []


def test_group_that_cannot_be_stored_leaves_nothing_and_can_be_written_again(conn: Connection) -> None:
    conn.execute("alter table waiting add constraint broken check (batch_id <> 13) not valid")
    conn.commit()
    writer_id = uuid4()
    bad = Group(writer_id, 1, (make_callback(1, b"good"), make_callback(13, b"bad")))
    with pytest.raises(Exception, match="broken"):
        write_group(conn, bad)
    conn.rollback()
    assert bodies(conn) == []
    conn.execute("alter table waiting drop constraint broken")
    write_group(conn, bad)
    assert bodies(conn) == [b"good", b"bad"]


def test_only_writers_not_seen_for_long_are_deleted(conn: Connection) -> None:
    old, new = group(1), group(1)
    write_group(conn, old)
    write_group(conn, new)
    conn.execute(
        "update journal_writer set seen_at = now() - interval '91 days' where writer_id = %s", (old.writer_id,)
    )
    assert forget_writers(conn, 90) == 1
    assert conn.execute("select writer_id from journal_writer").fetchall() == [(new.writer_id,)]


def test_writing_again_updates_when_a_writer_was_seen(conn: Connection) -> None:
    writer = group(1)
    write_group(conn, writer)
    conn.execute("update journal_writer set seen_at = now() - interval '91 days'")
    write_group(conn, group(2, b"a", writer=writer))
    assert forget_writers(conn, 90) == 0
