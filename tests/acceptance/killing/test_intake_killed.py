"""Each entry point alone: killed at each step of storing, without Postgres, and with a disk that hangs.

Nothing that was answered 200 is lost or stored twice, and spooled callbacks keep their order. `test_kill_anywhere.py`
and `test_outages.py` test this with a complete service.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import psycopg
import pytest

from receiver.database.pool import Connection
from receiver.intake.packing import unpack
from tests.acceptance.killing.plan import WEB_STEPS, Step
from tests.acceptance.killing.steps import Steps
from tests.acceptance.killing.world import LIMIT_SECONDS
from tests.acceptance.outages import Posted, Results, post_in_time
from tests.acceptance.service import ask
from tests.database.proxy import Proxy
from tests.deploy.test_restart import children
from tests.waiting import eventually
from tests.web.asking import results_path
from tests.web.gunicorn import EACH, OURS, gunicorn_process

pytestmark = pytest.mark.long

STEPS = [step for step in WEB_STEPS if " of web." not in step.name]


def marks(conn: Connection) -> list[int]:
    """The marks of all stored callbacks of the first batch, in the journal's order."""
    rows = conn.execute("select packing, body from callback where batch_id = 1 order by callback_id").fetchall()
    conn.rollback()
    return [json.loads(unpack(*row))["mark"] for row in rows]


def check_each_is_stored_once(conn: Connection, results: Results) -> None:
    """Check that everything answered 200 is stored once. Other callbacks may be stored, but not twice."""
    acknowledged = set(results.acknowledged())
    eventually(lambda: acknowledged <= set(marks(conn)), otherwise=lambda: acknowledged - set(marks(conn)))
    assert [mark for mark, times in Counter(marks(conn)).items() if times > 1] == [], "stored twice"


@pytest.mark.parametrize("entry_point", EACH)
def test_process_killed_at_each_step_loses_nothing_and_stores_nothing_twice(
    session_folder: Path, conn: Connection, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    steps = Steps(folder / "steps")
    with (
        Proxy(database_url) as proxy,
        gunicorn_process(folder, proxy.url, entry_point=entry_point, **steps.environment) as (_, port),
    ):
        results = Results(f"http://127.0.0.1:{port}{results_path()}")

        def reach(step: Step) -> bool:
            """Post callbacks. If the step is reached only during an outage, cause one and end it."""
            if step.after is not None:
                proxy.close()
                proxy.cut()
                results.post(4, at_once=4)
                proxy.open()
            results.post(4, at_once=4)
            return steps.is_reached(step.name)

        for step in STEPS:
            steps.arm(step.name, 1, "self")
            eventually(partial(reach, step), LIMIT_SECONDS, partial(str, f"no process reached {step.name}"))
        check_each_is_stored_once(conn, results)
    assert len(results.acknowledged()) > len(STEPS)


def stop(proxy: Proxy, _: str) -> Callable[[], None]:
    proxy.close()
    proxy.cut()
    return proxy.open


def hang(proxy: Proxy, _: str) -> Callable[[], None]:
    proxy.freeze()
    return proxy.thaw


def refuse_to_write(proxy: Proxy, database_url: str) -> Callable[[], None]:
    def set_read_only(setting: str) -> None:
        with psycopg.connect(database_url, autocommit=True) as conn:
            conn.execute("set default_transaction_read_only = off")
            conn.execute(f"alter database {conn.info.dbname} set default_transaction_read_only = {setting}")
        proxy.cut()

    set_read_only("on")
    return lambda: set_read_only("off")


@pytest.mark.parametrize("entry_point", EACH)
def test_outage_loses_nothing_and_spooled_callbacks_keep_their_order(
    session_folder: Path, conn: Connection, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    conn.execute("set default_transaction_read_only = off")
    conn.commit()
    with (
        Proxy(database_url) as proxy,
        gunicorn_process(folder, proxy.url, entry_point=entry_point) as (parent, port),
    ):
        results = Results(f"http://127.0.0.1:{port}{results_path()}")

        def is_stored_directly() -> bool:
            (posted,) = results.post(1)
            return posted.status == 200 and marks(conn)[-1:] == [posted.mark]

        for outage in (stop, hang, refuse_to_write):
            eventually(is_stored_directly)
            end = outage(proxy, database_url)
            first = post_in_time(lambda: results.post(8, at_once=8))
            spooled = post_in_time(lambda: results.post(20))
            (child,) = children(parent)
            os.kill(int(child), signal.SIGKILL)
            eventually(lambda child=child: len(children(parent) - {child}) == 1, LIMIT_SECONDS)  # type: ignore[misc]
            eventually(lambda: results.post(1)[0].status == 200, LIMIT_SECONDS)
            spooled += results.post(10)
            end()
            assert answered(first) == answered(spooled) == {200}, outage.__name__
            check_each_is_stored_once(conn, results)
            expected = [each.mark for each in spooled]
            assert [mark for mark in marks(conn) if mark in expected] == expected, outage.__name__


def answered(posted: list[Posted]) -> set[int]:
    return {each.status for each in posted}


@pytest.mark.parametrize("entry_point", OURS)
def test_disk_that_hangs_delays_only_callbacks_that_the_database_cannot_store(
    session_folder: Path, conn: Connection, database_url: str, entry_point: str
) -> None:
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    steps, step = Steps(folder / "steps"), "before commit of intake.spool.Spool.append"
    with (
        Proxy(database_url) as proxy,
        gunicorn_process(folder, proxy.url, entry_point=entry_point, **steps.environment) as (_, port),
    ):
        stuck, results = (Results(f"http://127.0.0.1:{port}{results_path(batch_id)}") for batch_id in (2, 1))

        def is_stored_directly() -> bool:
            (posted,) = results.post(1)
            return posted.status == 200 and marks(conn)[-1:] == [posted.mark]

        eventually(is_stored_directly)
        proxy.close()
        proxy.cut()
        steps.arm(step, 1, "hang")
        with ThreadPoolExecutor(1) as posting:
            waiting = posting.submit(stuck.post, 1)
            eventually(lambda: steps.is_reached(step))
            # Requests that need neither disk nor database are answered as usual.
            for method, path, status in (
                ("GET", results_path(), 200),
                ("POST", results_path(), 200),
                ("PUT", results_path(), 405),
                ("POST", results_path(secret="the secret of another service"), 404),
                ("GET", "/healthz", 200),
            ):
                assert ask(f"http://127.0.0.1:{port}{path}", method).status == status, (method, path)
            # So are callbacks, when the database can store them again.
            proxy.open()
            eventually(is_stored_directly)
            assert answered(post_in_time(lambda: results.post(10, at_once=2))) == {200}
            (refused,) = waiting.result()
            assert steps.is_reached(step) and refused.status == 503
            steps.release(step)
        check_each_is_stored_once(conn, results)
