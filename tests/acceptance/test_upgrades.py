"""Upgrade to the next release, and move to another server, without errors and without loss."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.outages import World, world
from tests.acceptance.postgres import Postgres
from tests.acceptance.service import ROOT
from tests.waiting import eventually

pytestmark = pytest.mark.long

NEXT = {
    "9000_next.sql": "alter table batch add column cost_center text not null default '';\n"
    "create table tariff (tariff_id bigint primary key, price numeric not null);\n"
    "alter table result add column tariff_id bigint;\n",
    "9001_index.sql": "-- no-transaction\n"
    "create index concurrently if not exists result_tariff on result (tariff_id) where tariff_id is not null;\n",
}
"""Changes that a later release may make: docs/contributing.md, "Add a migration"."""


def next_release(folder: Path) -> Path:
    """This release with two additional migrations."""
    made = folder / "next"
    for name in ("receiver", "migrations"):
        shutil.copytree(ROOT / name, made / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name, text in NEXT.items():
        (made / "migrations" / name).write_text(text)
    return made


def run_in(release: Path, running: World, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "receiver", *arguments]
    return subprocess.run(
        command, cwd=release, env=running.service.environment, capture_output=True, text=True, timeout=180
    )


def while_results_arrive(running: World, do: Callable[[], None]) -> None:
    """Call `do` while results arrive and the API is read. None of these requests may fail."""
    over = threading.Event()
    failed: list[str] = []

    def post() -> None:
        while not over.is_set():
            running.results.post(4, at_once=2)
            over.wait(0.05)

    def read() -> None:
        while not over.wait(0.1):
            for path in (f"/api/v1/batches/{running.batch_id}", "/api/v1/summary", "/api/v1/batches"):
                if (answer := running.service.ask(path)).status != 200:
                    failed.append(f"{path}: {answer.status} {answer.body!r}")

    busy = [threading.Thread(target=each) for each in (post, read)]
    for thread in busy:
        thread.start()
    try:
        so_far = len(running.results.posted)
        eventually(lambda: len(running.results.posted) > so_far + 20)
        do()
        so_far = len(running.results.posted)
        eventually(lambda: len(running.results.posted) > so_far + 20)
    finally:
        over.set()
        for thread in busy:
            thread.join()
    assert failed == []
    assert {each.status for each in running.results.posted} == {200}


def test_old_processes_keep_serving_while_the_next_release_migrates_and_cannot_start_afterwards(
    server_dir: Path,
) -> None:
    release = next_release(server_dir)
    with Postgres(server_dir) as postgres, world(server_dir, postgres) as running:

        def migrate() -> None:
            migrated = run_in(release, running, "migrate")
            assert migrated.returncode == 0, migrated.stdout + migrated.stderr
            assert "2 migrations applied" in migrated.stdout

        while_results_arrive(running, migrate)
        queued = running.queue()
        assert queued.status == 201, queued.body
        eventually(lambda: running.service.batch(running.batch_id)["counts"]["final"] == len(running.results.posted))

        # The old release does not start on the new schema, and its messages explain what to do.
        ready = running.service.ask("/readyz")
        assert ready.status == 503
        refusals = [refusal(running, command) for command in ("work", "verify", "serve")]
        for message in (ready.json["database"], *refusals):
            assert "9000_next.sql" in message and "Start that release" in message, message
        verified = run_in(release, running, "verify")
        assert verified.returncode == 0, verified.stdout + verified.stderr


def refusal(running: World, command: str) -> str:
    """The line with which a command of the old release refuses to run."""
    if command == "serve":
        running.service.stop()
    ran = running.service.run(command)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    return ran.stderr


def contents(postgres: Postgres) -> dict[str, tuple[int, str]]:
    """For each table, its number of rows and a digest of them. For each sequence, its last value."""
    tables = postgres.execute(
        "select oid::regclass::text from pg_class where relkind = 'r' and relnamespace = 'public'::regnamespace"
    )
    found = {}
    for (table,) in tables:
        (found[table],) = postgres.execute(
            f"select count(*), md5(coalesce(string_agg(t::text, e'\\n' order by t::text), '')) from {table} t"  # noqa: S608 a name of ours
        )
    for name, last in postgres.execute("select sequencename, coalesce(last_value, 0) from pg_sequences"):
        found[name] = (last, "")
    return found


def run_file(postgres: Postgres, path: Path) -> None:
    """Run the file with psql, as in docs/backups.md. A copy, because the account may not enter our folders."""
    script = postgres.folder.parent / path.name
    shutil.copy(path, script)
    script.chmod(0o644)
    postgres.run("psql", postgres.url, "-v", "ON_ERROR_STOP=1", "-f", script)


def test_dump_restored_into_another_server_is_identical_and_old_tokens_stay_valid(server_dir: Path) -> None:
    for name in ("old", "new"):
        (server_dir / name).mkdir()
    with Postgres(server_dir / "old") as old, Postgres(server_dir / "new") as new, world(server_dir, old) as running:
        running.results.post(40, at_once=4)
        again = [running.results.repeat(each) for each in range(5)]
        assert {each.status for each in again} == {200}
        eventually(running.is_settled)
        before = running.service.batch(running.batch_id)
        assert before["callbacks"]["duplicate"] == 5
        running.service.stop()

        dump = server_dir / "old" / "receiver.dump"
        old.run("pg_dump", "--format=custom", "--no-owner", f"--file={dump}", old.url)
        dump.chmod(0o644)
        new.run("pg_restore", "--exit-on-error", "--no-owner", f"--dbname={new.url}", dump)
        assert contents(new) == contents(old)
        assert contents(new)["callback"][0] == 45

        run_file(new, ROOT / "deploy" / "after-restore.sql")
        running.postgres = new
        running.service.environment["DATABASE_URL"] = new.url
        key = running.service.key
        running.service.start()
        assert running.service.key == key, "API keys stay valid"
        after = running.service.batch(running.batch_id)
        assert after == before
        assert {each.status for each in running.results.post(40, at_once=4)} == {200}, "tokens stay valid"
        eventually(running.is_settled)
        assert running.service.batch(running.batch_id)["counts"]["final"] == 80
        queued = running.queue()
        assert queued.status == 201, queued.body
        assert int(queued.json["id"]) > running.batch_id + 1_000_000
        running.check_verified()
