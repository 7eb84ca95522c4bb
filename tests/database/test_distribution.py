"""The schema's keys, held against what Postgres itself asks of a table that is cut up: each unique key must contain
what it is cut by. A distributed Postgres (Citus, say) asks the same of a distribution column. docs/scaling.md builds on
this.
"""

from __future__ import annotations

import re

import psycopg
import pytest
from psycopg import sql

from receiver.database.pool import Connection

NOT_CUT = {"draft", "idempotency"}
"""Have a batch_id and another key: they are named by somebody before there is a batch. Neither grows with the calls."""


def list_tables(conn: Connection, column: str) -> set[str]:
    found = conn.execute(
        "select c.relname::text from pg_class c join pg_attribute a on a.attrelid = c.oid"
        " where c.relnamespace = 'public'::regnamespace and c.relkind = 'r' and a.attname = %s",
        (column,),
    )
    return {name for (name,) in found}


def holds_cut(conn: Connection, table: str, how: str, column: str) -> bool:
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
    assert {table for table in tables if not holds_cut(conn, table, "hash", "batch_id")} == NOT_CUT


def test_rows_of_a_batch_refer_only_to_rows_of_the_same_batch(conn: Connection) -> None:
    keys = conn.execute(
        "select conrelid::regclass::text, pg_get_constraintdef(oid) from pg_constraint where contype = 'f'"
        " and conrelid::regclass::text = any(%s)",
        (list(list_tables(conn, "batch_id") - NOT_CUT),),
    ).fetchall()
    assert {table for table, _ in keys} == {"resolution", "submission"}
    for _, definition in keys:
        assert re.match(r"FOREIGN KEY \(batch_id\b.*\) REFERENCES \w+\(batch_id\b", definition), definition


@pytest.mark.parametrize(("column", "can_be"), [("callback_id", True), ("received_at", False)])
def test_journal_can_be_partitioned_by_the_order_of_arrival_and_not_by_its_time(
    conn: Connection, column: str, can_be: bool
) -> None:
    assert holds_cut(conn, "callback", "range", column) is can_be
