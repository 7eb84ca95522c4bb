"""Whatever is killed comes back by itself, and nothing that was acknowledged is lost."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

from tests.acceptance.calling import Posting, TakingProvider
from tests.acceptance.service import Process, Service, eventually

NUMBERS = [str(6_173_000_000 + index) for index in range(15_000)]


def kill(process: Process) -> None:
    os.kill(process.pid, signal.SIGKILL)


def names(service: Service) -> set[tuple[int, str]]:
    return {(each.pid, each.started) for each in service.processes()}


def heals(service: Service, posting: Posting, killed: Process) -> None:
    """Kill it, and wait until the service is ready without it and has taken results since."""
    kill(killed)
    eventually(lambda: (killed.pid, killed.started) not in names(service))
    eventually(lambda: is_ready(service), 40, lambda: service.log.read_text()[-3000:])
    taken = len(posting.acknowledged)
    eventually(lambda: len(posting.acknowledged) > taken + 20)


def is_ready(service: Service) -> bool:
    """Everything has its worker again: two for the web, one for the rest."""
    try:
        ready = service.ask("/readyz").status == 200
    except OSError:
        return False
    running = service.processes()
    master = [each for each in running if "gunicorn" in each.command and each.parent == service.pid]
    web = [each for each in running if "gunicorn" in each.command and each not in master]
    work = [each for each in running if each.command.rstrip().endswith("receiver work")]
    return ready and (len(master), len(web), len(work)) == (1, 2, 1)


def postmaster(service: Service) -> Process:
    pid = int((service.data_dir / "postgres" / "postmaster.pid").read_text().split()[0])
    return next(each for each in service.processes() if each.pid == pid)


def list_final(service: Service, batch_id: int) -> set[str]:
    """Numbers of which the result is there, as the user wrote them."""
    found: set[str] = set()
    cursor = ""
    while True:
        page = service.ask(f"/api/v1/batches/{batch_id}/calls?state=final&limit=1000{cursor}").told
        found |= {call["destination"] for call in page["calls"]}
        if page["next_cursor"] is None:
            return found
        cursor = f"&cursor={page['next_cursor']}"


def test_every_process_may_be_killed_while_results_come_in(server_dir: Path) -> None:
    contacts = server_dir / "contacts.csv"
    contacts.write_text("\n".join(("destination", *NUMBERS, "")))
    with TakingProvider() as provider:
        login: dict[str, Any] = {"PLUM_URL": provider.url, "PLUM_USER": "somebody", "PLUM_KEY": "key"}
        rules: dict[str, Any] = {"SUBMISSION_ROWS": "20000", "WEB_CONCURRENCY": "2"}
        with Service(server_dir, **login, **rules) as service:
            answer = service.queue(contacts, "Prefer: wait=20")
            assert answer.status == 201, answer.body
            batch_id = int(answer.told["id"])
            (result_url,) = provider.result_urls
            with Posting(result_url, NUMBERS) as posting:
                master = service.process("gunicorn", parent=service.pid)
                heals(service, posting, service.process("gunicorn", parent=master.pid))
                heals(service, posting, service.process("receiver work"))
                heals(service, posting, postmaster(service))
                heals(service, posting, service.process("gunicorn", parent=service.pid))
                os.kill(service.pid, signal.SIGKILL)
                service.stop()
                service.start()
                taken = len(posting.acknowledged)
                eventually(lambda: len(posting.acknowledged) > taken + 20)
            assert len(posting.acknowledged) + len(posting.failed) < len(NUMBERS), "there were results to the end"
            eventually(lambda: is_ready(service) and service.ask("/readyz").told["spooled"] == 0)
            eventually(lambda: service.batch(batch_id)["callbacks"]["waiting"] == 0)
            final = list_final(service, batch_id)
            assert set(posting.acknowledged) - final == set(), "acknowledged, and lost"
            assert final - set(posting.acknowledged) <= set(posting.failed)
            callbacks = service.batch(batch_id)["callbacks"]
            assert callbacks["received"] == callbacks["applied"] == len(final), "each was stored once"
            verified = service.run("verify")
            assert verified.returncode == 0, verified.stdout + verified.stderr
    assert provider.result_urls == [result_url], "nothing was requested twice"
