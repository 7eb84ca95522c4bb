"""Which statements the rules of a distributed Postgres refuse. The suite's own statements are checked as they run."""

from __future__ import annotations

import pytest

from receiver.database.pool import Connection
from tests.distribution import distributed_tables, find_faults, local_tables


@pytest.mark.parametrize(
    "statement",
    [
        "select from batch where batch_id = %s for update",
        "select callback_id from waiting where callback_id > %s order by 1 limit 5 for update skip locked",
        "select b.name, c.rows from batch b join batch_count c using (batch_id)",
        "select r.row from unnest(%s::bigint[], %s::integer[]) as g (batch_id, row) join result r using (batch_id)",
        "select b.name, (select max(s.calls) from submission s where s.batch_id = b.batch_id) from batch b"
        " where b.batch_id = %s",
        "select b.name from batch b where exists (select from submission s where s.batch_id = b.batch_id)",
        "update batch set queued_at = now() where batch_id = any(%s)",
        "update submission set answered_at = coalesce(answered_at, %s) where batch_id = %s",
        "update upkeep set next_at = coalesce(next_at, now())",
        "select name from api_key where key_id = %(key_id)s for update",
    ],
)
def test_statement_that_a_distributed_postgres_can_run(statement: str) -> None:
    assert find_faults(statement) == []


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("select from batch where batch_id = any(%s) for update", "it locks rows of batch of several batches"),
        ("select from batch b join waiting w using (batch_id) where b.batch_id = %s for update", "local table waiting"),
        ("select b.name from batch b join submission s on s.calls = b.due_at", "not on batch_id"),
        ("select (select max(s.calls) from submission s where s.batch_id = b.batch_id) from batch b", "correlated"),
        ("select exists (select from submission s where s.batch_id = b.batch_id) from batch b", "correlated"),
        (
            "select b.name from batch b where b.simulated or exists (select from submission s"
            " where s.batch_id = b.batch_id)",
            "correlated",
        ),
        (
            "select from callback c where not exists (select from waiting w where w.batch_id = c.batch_id)",
            "waiting",
        ),
        (
            "select s.calls from batch b cross join lateral (select * from submission s where s.batch_id = b.batch_id"
            " limit 1) s",
            "lateral",
        ),
        ("select from unnest(%s::bigint[]) as g (batch_id) left join batch using (batch_id)", "left join"),
        ("update submission set answered_at = coalesce(answered_at, now()) where batch_id = %s", "volatile"),
        ("update batch set queued_at = case when %s then clock_timestamp() end where batch_id = %s", "volatile"),
        ("with c as (select from batch where batch_id = any(%s) for update) select from c", "several batches"),
    ],
)
def test_statement_that_a_distributed_postgres_refuses(statement: str, fault: str) -> None:
    assert any(fault in each for each in find_faults(statement)), find_faults(statement)


def test_every_table_is_distributed_or_named_as_local(conn: Connection) -> None:
    tables = {
        name
        for (name,) in conn.execute(
            "select relname::text from pg_class where relnamespace = 'public'::regnamespace"
            " and relkind in ('r', 'p') and not relispartition"
        )
    }
    distributed = distributed_tables() - {"batch_total", "result_total"}
    assert distributed | local_tables() == tables
    assert distributed & local_tables() == set()
