"""`SECRET_KEY` is renewed while callbacks arrive, instance by instance, and none is refused."""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from receiver.database.pool import connect
from receiver.supervisor.ports import free_port
from tests.deploy.serving import Senders, ask, nginx, trusting
from tests.waiting import eventually
from tests.web.asking import SECRET, results_path
from tests.web.gunicorn import OURS, gunicorn_process

pytestmark = pytest.mark.long

NEW = "the secret that signs from now on and is longer"


@pytest.mark.parametrize("entry_point", OURS)
def test_no_callback_is_refused_while_the_secret_key_is_renewed_in_three_steps(
    session_folder: Path, database_url: str, entry_point: str
) -> None:
    """As in docs/upgrades.md: all instances know the new key before one signs with it; the old key is dropped last."""
    folder = Path(tempfile.mkdtemp(dir=session_folder))
    sides = {free_port(): Path(tempfile.mkdtemp(dir=session_folder)) for _ in range(2)}
    with ExitStack() as everything:
        running = {port: everything.enter_context(ExitStack()) for port in sides}

        def start(port: int, secret: str) -> None:
            variables = {"PORT": str(port), "SECRET_KEY": secret, "STOP_SECONDS": "3"}
            running[port].enter_context(
                gunicorn_process(sides[port], database_url, entry_point=entry_point, **variables)
            )

        def roll(secret: str, *senders: Senders) -> None:
            for port in sides:
                running[port].close()
                for each in senders:
                    each.await_progress()
                start(port, secret)
            for each in senders:
                each.await_progress()

        for port in sides:
            start(port, SECRET)
        tls_port = everything.enter_context(nginx(folder, list(sides)))
        context = trusting(folder)

        def answered(secret: str) -> int:
            return ask(tls_port, context, "GET", results_path(secret=secret))[0]

        assert (answered(SECRET), answered(NEW)) == (200, 404)
        with Senders(tls_port, context, 4) as before:
            roll(f"{SECRET},{NEW}", before)
            # From here on an instance may sign with the new key, because the others know it.
            with Senders(tls_port, context, 4, NEW) as after:
                roll(f"{NEW},{SECRET}", before, after)
                assert (answered(SECRET), answered(NEW)) == (200, 200)
        with Senders(tls_port, context, 4, NEW) as last:
            roll(NEW, last)
        assert (answered(SECRET), answered(NEW)) == (404, 200)
        assert before.failures == after.failures == last.failures == []
        stored = before.stored + after.stored + last.stored

        def all_stored() -> bool:
            with connect(database_url, name="test") as conn:
                return conn.execute("select count(*) from callback").fetchone() == (stored,)

        eventually(all_stored)
