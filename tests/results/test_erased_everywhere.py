"""After an erasure, the number is in no table and no file, wherever it was and however it was spelt."""

from __future__ import annotations

import contextlib
import gzip
import json
import re
import zlib
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from io import BytesIO
from pathlib import Path
from uuid import uuid4

import psycopg
import pytest
import zstandard

from receiver.changes.audit import record_change
from receiver.database.migrations import migrate
from receiver.database.pool import Connection, connect
from receiver.embedded_postgres.server import EmbeddedPostgres
from receiver.intake.journal import ERASED_BODY, Callback, Group, write_group
from receiver.intake.packing import ZSTANDARD_1, unpack
from receiver.intake.spool import Spool
from receiver.model import SubmissionKey
from receiver.queueing.acceptance import IdempotentRequest, Limits, accept
from receiver.queueing.drafts import insert_draft
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.suppressions import suppress
from receiver.release.answer import Answer
from receiver.release.claim import claim_submission
from receiver.release.presence import register_worker
from receiver.release.resolution import resolve_submission
from receiver.release.sender import csv_blocks
from receiver.results.replay import find_settled, replay
from receiver.results.stored_texts import CLEARS_STATISTICS, NOT_SEARCHED, renew_statistics
from receiver.summary.calls import get_call
from tests.conftest import HURRIED
from tests.factories import (
    answer_submissions,
    call_fields,
    deliver,
    differences,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle_all,
)
from tests.queueing.queueing import queue
from tests.results.test_erasure import erase_all
from tests.results.traces import list_tables, traces_in_files, traces_in_tables

NUMBER, OTHER, THIRD = (phone_number(index) for index in range(3))
DIGITS = str(NUMBER)[1:]

SPELLINGS = [
    DIGITS,
    "+1 (617) 555-0000",
    "617%2D555%2D0000",
    "\u0666\u0661\u0667\u0665\u0665\u0665\u0660\u0660\u0660\u0660",
    "\uff16\uff11\uff17-\uff15\uff15\uff15-\uff10\uff10\uff10\uff10",
]

BODIES = [
    *(result_body(OTHER, note=spelling) for spelling in SPELLINGS),
    result_body(OTHER, transferred_to=NUMBER),
    result_body(OTHER, note="x" * 500 + DIGITS),
    json.dumps({**call_fields(OTHER), DIGITS: "a name of a field"}).encode(),
    result_body(OTHER, f"completed by {NUMBER}"),
    result_body(OTHER, note=DIGITS).decode().encode("utf-16"),
    json.dumps({"phone_number": OTHER, "status": "failed", "note": "\u202a617\u200b5550000"}).encode(),
    result_body(OTHER).replace(b'"attempts"', b'"from": "\\u0036175550000", "attempts"'),
    result_body(OTHER).replace(b'"attempts"', b'"from": 6.175550000E9, "attempts"'),
    gzip.compress(result_body(OTHER, note=DIGITS)),
    f"phone_number={OTHER}&status=completed&from=617%2D555%2D0000".encode(),
    f"<call><phone_number>{OTHER}</phone_number><status>failed</status><from>&#54;175550000</from></call>".encode(),
    zlib.compress(result_body(OTHER, note=DIGITS))[:-4],
]


@pytest.mark.parametrize("body", BODIES, ids=range(len(BODIES)))
def test_body_of_another_call_loses_only_the_number(conn: Connection, body: bytes) -> None:
    batch_id = make_batch(conn, [NUMBER, OTHER])
    deliver(conn, batch_id, body)
    before, call = read_batch(conn, batch_id), get_call(conn, batch_id, 2)
    conn.commit()
    erased = erase_all(conn)
    assert erased.callbacks == 1
    assert traces_in_tables(conn, DIGITS) == []
    assert read_batch(conn, batch_id) == before
    left = get_call(conn, batch_id, 2)
    conn.commit()
    assert (left.outcome, left.attempts, left.ended_at) == (call.outcome, call.attempts, call.ended_at)
    assert differences(conn) == []


def test_body_of_another_call_can_still_be_replayed(conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER, OTHER])
    deliver(conn, batch_id, result_body(OTHER, note=f"ask {NUMBER}"), result_body(OTHER, "failed", from_=DIGITS))
    before = read_batch(conn, batch_id)
    call = get_call(conn, batch_id, 2)
    conn.commit()
    assert erase_all(conn).callbacks == 2
    assert replay(conn, find_settled(conn)) == []
    conn.commit()
    left = get_call(conn, batch_id, 2)
    conn.commit()
    assert read_batch(conn, batch_id) == before
    assert (replace(left, result_body=call.result_body), left.read_events()) == (call, call.read_events())
    bodies = conn.execute("select count(*) from callback where body = %s", (ERASED_BODY,)).fetchone()
    assert bodies == (0,)


def fill_every_table(conn: Connection) -> int:
    """A batch with rows in every table about batches, drafts and requests."""
    csv = f"destination,name,mobile {DIGITS}\n{NUMBER},Ana Person,\n{OTHER},Ben,{NUMBER}\n555,Dev,{NUMBER}\n{THIRD},,\n"
    request = IdempotentRequest(1, f"send to {NUMBER}", b"digest")
    parameters = BatchParameters(7, 3, name="To +1 617-555-0000", on_invalid="skip")
    batch_id = accept(conn, BytesIO(csv.encode()), parameters, Limits(10_000, 3600), request).batch_id
    conn.commit()
    answer = Answer("unknown", 200, 3, f"no answer about {NUMBER}", json.dumps({"call_ids": {DIGITS: f"7-{NUMBER}"}}))
    answer_submissions(conn, lambda _: answer)
    resolve_submission(conn, batch_id, 1, queued=True, note=f"asked {NUMBER}", by=f"Ana {NUMBER}")
    conn.commit()
    deliver(conn, batch_id, result_body(DIGITS), result_body(DIGITS, "failed", last_event=5), result_body(DIGITS))
    deliver(conn, batch_id, result_body(OTHER, f"done by {DIGITS}"), result_body(phone_number(7), note=DIGITS))
    write_group(conn, Group(uuid4(), 1, (make_callback(batch_id, b"{}", content_type=f"text/plain; by={DIGITS}"),)))
    conn.commit()
    settle_all(conn)
    for row in (1, 3):
        conn.execute(
            "insert into poll (batch_id, row, submission_no, call_id, error) values (%s, %s, 1, %s, %s)",
            (batch_id, row, f"7-{NUMBER}", f"{NUMBER} is unknown"),
        )
    insert_draft(conn, 1, BytesIO(csv.encode("utf-16")), "a.csv", {})
    insert_draft(conn, 1, BytesIO(b"destination\n6175550009\n"), f"{DIGITS}.csv", {})
    insert_draft(conn, 2, BytesIO(b"destination\n6175550009\n"), "b.csv", {"name": f"to {NUMBER}"})
    suppress(conn, NUMBER, by=f"Ana {NUMBER}", reason=f"asked by {NUMBER}", note=f"to {NUMBER}")
    suppress(conn, OTHER, by="Ana", reason=f"the other of {NUMBER}", note=f"not {NUMBER}")
    record_change(conn, f"key of {NUMBER}", "pause", batch_id=batch_id, details={"for": f"{NUMBER}"}, note=f"{NUMBER}")
    conn.commit()
    return batch_id


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_number_is_erased_from_every_column_of_every_table(conn: Connection, spelling: str) -> None:
    """The number is added to all texts, also in tables and columns that this test does not know."""
    batch_id = fill_every_table(conn)
    planted = 0
    for table in set(list_tables(conn)) - {"schema_migration", "callback", "call", "skipped"}:
        columns = conn.execute(
            "select attname from pg_attribute where attrelid = %s::regclass and attnum > 0 and not attisdropped"
            " and atttypid in ('text'::regtype, 'varchar'::regtype)",
            (table,),
        ).fetchall()
        for (column,) in columns:
            try:
                with conn.transaction():
                    add = f'update "{table}" set "{column}" = "{column}" || %s'  # noqa: S608
                    planted += conn.execute(add, (f" {spelling}",)).rowcount
            except (psycopg.errors.CheckViolation, psycopg.errors.ForeignKeyViolation):
                pass  # a column with only a few allowed values
    conn.execute("update batch set state = 'queued', default_region = 'US'")
    conn.commit()
    assert planted > 10
    before = read_batch(conn, batch_id)
    assert traces_in_tables(conn, DIGITS) != []
    erase_all(conn)
    assert traces_in_tables(conn, DIGITS, "Ana Person") == []
    after = read_batch(conn, batch_id)
    assert (after.counts, after.callbacks) == (before.counts, before.callbacks)
    assert differences(conn) == []


def test_every_column_of_bytes_is_known(conn: Connection) -> None:
    """An erasure reads texts of any table. Bytes it must know: add a new column here, and to the erasure if it holds
    anything that a person, a user or the provider wrote.
    """
    found = conn.execute(
        "select c.relname || '.' || a.attname from pg_attribute a join pg_class c on c.oid = a.attrelid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and a.attnum > 0 and a.atttypid = 'bytea'::regtype order by 1"
    ).fetchall()
    digests = {
        "api_key.digest",
        "idempotency.digest",
        "set_aside.result_key",
        "suppression.digest",
        "suppression_key.key",
    }
    assert {name for (name,) in found} - digests == {"callback.body", "draft_chunk.content"}


def test_every_table_with_texts_can_be_searched(conn: Connection) -> None:
    without_key = conn.execute(
        "select distinct c.relname from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0"
        " and a.atttypid in ('text'::regtype, 'text[]'::regtype, 'jsonb'::regtype, 'json'::regtype)"
        " where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'p') and not c.relispartition"
        " and not exists (select from pg_index i where i.indrelid = c.oid and i.indisprimary)"
    ).fetchall()
    assert without_key == []
    assert set(NOT_SEARCHED) <= set(list_tables(conn))


def test_header_with_the_number_is_sent_without_it(conn: Connection) -> None:
    batch_id = queue(conn, f"destination,to {NUMBER},to +{NUMBER},erased\n{OTHER},a,b,c\n".encode())
    assert erase_all(conn, NUMBER).texts == 1
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    assert outgoing is not None and outgoing.batch_id == batch_id
    sent = b"".join(csv_blocks(conn, outgoing))
    conn.commit()
    assert sent == f"destination,to erased,to erased 2,erased\r\n{OTHER},a,b,c\r\n".encode()
    assert len(sent) == outgoing.csv_bytes


def test_caller_id_with_the_number_is_removed_from_the_destination(conn: Connection) -> None:
    queue(conn, f"destination,name\n{OTHER};ani={NUMBER};postd=2,Ben\n".encode())
    assert erase_all(conn, NUMBER).contacts == 1
    outgoing = claim_submission(conn, register_worker(conn, "test", 1))
    conn.commit()
    assert outgoing is not None
    sent = b"".join(csv_blocks(conn, outgoing))
    conn.commit()
    assert sent == f"destination,name\r\n{OTHER};postd=2,Ben\r\n".encode()
    assert len(sent) == outgoing.csv_bytes


def test_idempotency_keys_with_the_number_stay_different(conn: Connection) -> None:
    """Two keys that differ only in the spelling of the number stay different."""
    for key in (f"send {NUMBER}", f"send +{NUMBER}"):
        accept(
            conn,
            BytesIO(f"destination\n{OTHER}\n".encode()),
            BatchParameters(7, 3),
            Limits(10_000, 3600),
            IdempotentRequest(1, key, b"digest"),
        )
    conn.commit()
    assert erase_all(conn).texts == 2
    keys = conn.execute("select idempotency_key from idempotency order by 1").fetchall()
    assert keys == [("send erased",), ("send erased 2",)]


def test_no_file_in_the_data_folder_has_the_number(conn: Connection, tmp_path: Path) -> None:
    """A callback from the spool is in none of its files after it was drained and erased."""
    batch_id = make_batch(conn, [NUMBER, OTHER])
    spool = Spool(tmp_path / "spool.sqlite3", 1 << 24)
    bodies = (result_body(NUMBER, note="y" * 6000), result_body(OTHER, note=f"ask {NUMBER}"))
    callbacks = tuple(
        Callback(SubmissionKey(batch_id, 1), datetime.now(UTC), "application/json", "", body) for body in bodies
    )
    for sequence in range(1, 20):
        spool.append(Group(uuid4(), sequence, callbacks))
    assert traces_in_files(tmp_path, DIGITS) != []
    for position, group in spool.oldest(1000):
        write_group(conn, group)
        conn.commit()
        spool.remove(position)
    assert spool.clean()
    settle_all(conn)
    erase_all(conn)
    assert traces_in_tables(conn, DIGITS) == []
    assert traces_in_files(tmp_path, DIGITS) == []
    spool.close()
    assert traces_in_files(tmp_path, DIGITS) == []


def test_statistics_of_postgres_lose_the_number(conn: Connection) -> None:
    fill_every_table(conn)
    conn.execute("analyze")
    conn.commit()
    assert traces_in_statistics(conn) != []
    erase_all(conn)
    assert traces_in_statistics(conn) != []
    assert renew_statistics(conn)
    conn.commit()
    emptied = [] if conn.info.server_version >= CLEARS_STATISTICS else ["draft.file_name"]
    assert traces_in_statistics(conn) == emptied


def traces_in_statistics(conn: Connection) -> list[str]:
    found = []
    for table, column, samples in conn.execute(
        "select tablename, attname, concat_ws(' ', most_common_vals, histogram_bounds) from pg_stats"
        " where schemaname = 'public'"
    ).fetchall():
        for packed in re.findall(r"\\x([0-9a-f]+)", samples):
            with contextlib.suppress(zstandard.ZstdError):
                samples += unpack(ZSTANDARD_1, bytes.fromhex(packed)).decode("latin-1")
            samples += bytes.fromhex(packed).decode("latin-1")
        if any(digits in samples for digits in (DIGITS, "555-0000")):
            found.append(f"{table}.{column}")
    conn.commit()
    return found


@pytest.mark.long
def test_files_of_postgres_lose_the_number_when_tables_are_rewritten(server_dir: Path) -> None:
    """As docs/privacy.md says: `vacuum full` rewrites each table, and a checkpoint removes the old files."""
    with EmbeddedPostgres(server_dir / "own", HURRIED) as server:
        migrate(server.conninfo)
        with closing(connect(server.conninfo, name="test")) as conn:
            fill_every_table(conn)
            conn.execute("analyze")
            conn.commit()
            bodies = [bytes(body) for (body,) in conn.execute("select body from callback where packing > 0")]
            conn.commit()
            needles = [DIGITS.encode(), NUMBER.to_bytes(8, "little"), *bodies]

            def left() -> list[str]:
                conn.execute("checkpoint")
                conn.commit()
                return [
                    str(path)
                    for folder in ("base", "global", "log")
                    for path in (server_dir / "own" / "postgres" / folder).rglob("*")
                    if path.is_file() and any(needle in path.read_bytes() for needle in needles)
                ]

            assert left() != []
            erase_all(conn)
            assert renew_statistics(conn)
            conn.commit()
            conn.autocommit = True
            conn.execute("vacuum (full, analyze)")
            conn.autocommit = False
            assert left() == []
