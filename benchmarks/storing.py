"""What a settled call takes on disk, part by part, beside the bytes of its row and body."""

from __future__ import annotations

import time

from benchmarks.bodies import body, contact_rows
from benchmarks.figures import Figure
from benchmarks.settling import journal, settled_callbacks
from benchmarks.world import World
from receiver.database.pool import connect

TABLES = ("callback", "call", "result", "outstanding", "waiting", "set_aside", "batch_count", "result_count",
          "changed_results", "feed_entry")  # fmt: skip


def measure(world: World, *, calls: int) -> list[Figure]:
    url = world.receiver_database("bench_storing")
    batch_id = world.sent_batch(url, calls)
    journal(url, batch_id, 1, calls)
    with world.worker(url), connect(url, name="benchmark", autocommit=True) as conn:
        while settled_callbacks(conn) < calls:
            time.sleep(0.2)
    given = sum(len(line) for line in contact_rows(calls)) + sum(len(body(row)) for row in range(1, calls + 1))
    figures = []
    taken = 0
    with connect(url, name="benchmark", autocommit=True) as conn:
        conn.execute("vacuum")
        for table in TABLES:
            row = conn.execute(
                "select sum(pg_table_size(relid))::bigint, sum(pg_indexes_size(relid))::bigint"
                " from (select %(table)s::regclass as relid union select relid from pg_partition_tree(%(table)s)) each",
                {"table": table},
            ).fetchone()
            assert row is not None  # noqa: S101 a select without from returns a row
            taken += sum(row)
            figures.append(
                Figure(f"disk a call: {table}", sum(row) / calls, "B", note=f"indexes {row[1] / calls:.0f} B")
            )
    figures.append(Figure("disk a call / bytes of row and body", taken / given, "x", at_most=1.6))
    return figures
