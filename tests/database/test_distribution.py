"""The keys of the schema allow partitioning: Postgres requires that each unique key of a partitioned table contains the
partition key. A distributed Postgres (such as Citus) requires the same of its distribution column. docs/large-scale.md
depends on this.
"""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import sql

from receiver.database.pool import Connection

NOT_PARTITIONED = {"audit", "changed_results", "draft", "external_id", "idempotency"}
"""They have a batch_id, but another key: a draft and an idempotency key exist before their batch, an external id is
unique over all batches, an entry of the audit trail can be about no batch, and the feed has one order over all batches.
They do not grow with the calls: `changed_results` is a queue. What is owed to endpoints is partitioned by time."""


def list_tables(conn: Connection, column: str) -> set[str]:
    found = conn.execute(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and not c.relispartition"
        " and a.attname = %s",
        (column,),
    )
    return {name for (name,) in found}


def can_be_partitioned(conn: Connection, table: str, how: str, column: str) -> bool:
    """Whether the table with all of its keys and indexes can be partitioned by the column."""
    statement = sql.SQL("create table cut (like {} including all) partition by {} ({})").format(
        sql.Identifier(table), sql.SQL(how), sql.Identifier(column)
    )
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(statement)
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def test_every_table_that_grows_with_the_calls_can_be_partitioned_by_batch(conn: Connection) -> None:
    tables = list_tables(conn, "batch_id")
    assert {"call", "callback", "result", "set_aside", "waiting", "outstanding"} <= tables
    assert {table for table in tables if not can_be_partitioned(conn, table, "hash", "batch_id")} == NOT_PARTITIONED


def test_rows_of_a_batch_refer_only_to_rows_of_the_same_batch(conn: Connection) -> None:
    keys = conn.execute(
        "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint where contype = 'f'"
        " and conrelid::regclass::text = any(%s)",
        (list(list_tables(conn, "batch_id") - NOT_PARTITIONED),),
    ).fetchall()
    assert {table for table, _ in keys} == {"resolution", "submission"}
    for _, definition in keys:
        assert re.match(r"FOREIGN KEY \(batch_id\b.*\) REFERENCES \w+\(batch_id\b", definition), definition


@pytest.mark.parametrize(("column", "can_be"), [("callback_id", True), ("received_at", False)])
def test_journal_can_be_partitioned_by_the_order_of_arrival_and_not_by_its_time(
    conn: Connection, column: str, can_be: bool
) -> None:
    assert can_be_partitioned(conn, "callback", "range", column) is can_be
