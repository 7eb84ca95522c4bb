"""Accepting a large CSV, sending it, and exporting it again: seconds, and what memory it takes."""

from __future__ import annotations

import http.client
import io
import statistics
import subprocess
import time
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.bodies import contact_rows
from benchmarks.figures import Figure
from benchmarks.filling import fill
from benchmarks.world import SUBMISSION_ROWS, Peak, World, cpu_of, cpu_seconds, family, memory_mib, web_pids
from receiver.database.api_keys import create_key
from receiver.database.pool import connect
from receiver.embedded_postgres.account import account_for
from receiver.embedded_postgres.installation import programs_for
from receiver.queueing.acceptance import Limits, preview, recent_calls
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.submissions import FindSuppressed
from receiver.queueing.suppressions import find_suppressed

BOUNDARY = "benchmark-boundary"


def measure(world: World, *, rows: int) -> list[Figure]:
    url = world.receiver_database("bench_queueing")
    with connect(url, name="benchmark") as conn:
        key = create_key(conn, "benchmark", "queue")
    with world.web(url) as port:
        _upload(port, key, _form(world.folder / "warm.form", 10_000))
        pids = web_pids(port)
        before = sum(memory_mib(pid) for pid in pids)
        with Peak(pids) as peak:
            taken = _upload(port, key, _form(world.folder / "large.form", rows))
        growth = peak.mib - before
        with connect(url, name="benchmark", autocommit=True) as conn:
            filled = fill(conn, rows)
            conn.execute("vacuum analyze")
        before = sum(memory_mib(pid) for pid in pids)
        with Peak(pids) as export_peak:
            exported = _download(port, key, f"/api/v1/batches/{filled}/calls.csv")
        dearer = _ndjson_cost(world, port, key, filled)
        alone = _psql_copy(world, url, filled)
    return [
        Figure(f"accepting {rows:,} rows", taken, "s", at_most=20 * rows / 1_000_000),
        Figure("memory growth over that of 10,000 rows", growth, "MiB", at_most=64),
        Figure(f"exporting {rows:,} joined rows as CSV / psql \\copy", alone / exported, "x", at_least=0.6),
        Figure("memory growth of an export", export_peak.mib - before, "MiB", at_most=32),
        Figure(f"exporting {rows:,} calls as NDJSON / as CSV: CPU time with Postgres", dearer, "x", at_most=2),
        Figure(
            f"previewing {rows // 10:,} rows that are all in a recent batch of {rows:,} / without the check",
            _recent(url, filled, rows // 10),
            "s",
            at_most=3,
        ),
        Figure(
            f"previewing {rows // 10:,} rows with {rows:,} suppressions / without",
            _suppressed(url, rows),
            "x",
            at_most=1.2,
        ),
    ]


def _ndjson_cost(world: World, port: int, key: str, batch_id: int) -> float:
    """The median of three pairs. The bodies of `fill` are all alike."""
    postmaster = world.server.postmaster_pid()
    assert postmaster is not None  # noqa: S101 it runs

    def cost(file: str) -> float:
        before = cpu_seconds(port) + cpu_of(family(postmaster))
        _download(port, key, f"/api/v1/batches/{batch_id}/{file}")
        return cpu_seconds(port) + cpu_of(family(postmaster)) - before

    return statistics.median(cost("calls.ndjson") / cost("calls.csv") for _ in range(3))


def _recent(url: str, batch_id: int, rows: int) -> float:
    """How many seconds a preview takes longer that looks for recent numbers, if it finds each: the median of five."""
    csv = "".join(contact_rows(rows)).encode()
    parameters, limits = BatchParameters(1, 1), Limits(SUBMISSION_ROWS, 3600)
    with connect(url, name="benchmark", autocommit=True) as conn:
        conn.execute("update submission set released_at = now() where batch_id = %s", (batch_id,))
        conn.execute("update batch set simulated = false where batch_id = %s", (batch_id,))

        def seconds(**more: Any) -> float:
            began = time.perf_counter()
            seen = preview(io.BytesIO(csv), parameters, limits, **more)
            assert not more or seen.recent["rows"] == rows  # noqa: S101 else nothing is measured
            return time.perf_counter() - began

        pairs = [
            (seconds(), seconds(find_recent=partial(recent_calls(parameters, limits).find, conn))) for _ in range(5)
        ]
    return statistics.median(slower - plain for plain, slower in pairs)


def _suppressed(url: str, suppressions: int) -> float:
    """How much longer a preview takes that looks for suppressed numbers: the median of seven pairs."""
    csv = "".join(contact_rows(suppressions // 10)).encode()
    with connect(url, name="benchmark", autocommit=True) as conn:
        conn.execute(
            "insert into suppression (phone_number, digest, created_by)"
            " select 12120000000 + n, sha256(n::text::bytea), 'benchmark' from generate_series(1, %s) n",
            (suppressions,),
        )
        conn.execute("update suppression set phone_number = null where suppression_id % 1000 = 0")
        conn.execute("vacuum analyze suppression")

        def seconds(find: FindSuppressed = lambda _: ()) -> float:
            began = time.perf_counter()
            preview(io.BytesIO(csv), BatchParameters(1, 1), Limits(SUBMISSION_ROWS, 3600), find)
            return time.perf_counter() - began

        pairs = [(seconds(), seconds(partial(find_suppressed, conn))) for _ in range(7)]
    return statistics.median(slower / plain for plain, slower in pairs)


def _form(path: Path, rows: int) -> Path:
    """A multipart form on disk."""
    with path.open("w", newline="") as file:
        for name, value in (("application_id", "1"), ("deployment_id", "1")):
            file.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n')
        file.write(f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="csv"; filename="c.csv"\r\n\r\n')
        file.writelines(contact_rows(rows))
        file.write(f"\r\n--{BOUNDARY}--\r\n")
    return path


def _upload(port: int, key: str, form: Path) -> float:
    began = time.perf_counter()
    conn = http.client.HTTPConnection("127.0.0.1", port)
    with form.open("rb") as file:
        conn.request(
            "POST",
            "/api/v1/batches",
            file,
            {
                "Authorization": f"Bearer {key}",
                "Content-Type": f"multipart/form-data; boundary={BOUNDARY}",
                "Content-Length": str(form.stat().st_size),
                "Prefer": "wait=0",
            },
        )
        answer = conn.getresponse()
        said = answer.read()
    if answer.status != 202:
        raise RuntimeError(f"{answer.status} {said[:300]!r}")
    return time.perf_counter() - began


def _download(port: int, key: str, path: str) -> float:
    began = time.perf_counter()
    conn = http.client.HTTPConnection("127.0.0.1", port)
    conn.request("GET", path, headers={"Authorization": f"Bearer {key}"})
    answer = conn.getresponse()
    while answer.read(1 << 16):
        pass
    if answer.status != 200:
        raise RuntimeError(f"{path}: {answer.status}")
    return time.perf_counter() - began


def _psql_copy(world: World, url: str, batch_id: int) -> float:
    """Seconds that psql takes for the same join and the same columns."""
    times = ", ".join(
        f'to_char(r.{column}, \'YYYY-MM-DD"T"HH24:MI:SS"Z"\')'
        for column in ("queued_at", "started_at", "ended_at", "received_at")
    )
    query = (
        "select c.line, c.row, '+' || c.phone_number, case when r.outcome is not null then 'final' else 'pending' end,"
        f" r.outcome, r.provider_status, r.attempts, r.max_attempts, {times}, r.duration_seconds, 'callback'"
        f" from call c left join result r using (batch_id, row) where c.batch_id = {batch_id} order by c.row"
    )
    psql = programs_for(account_for(world.server.cluster)) / "psql"
    began = time.perf_counter()
    subprocess.run(  # noqa: S603 our own command
        [str(psql), url, "-c", f"\\copy ({query}) to '/dev/null'"], check=True, capture_output=True
    )
    return time.perf_counter() - began
