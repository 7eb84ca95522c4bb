"""A submission whose answer was lost, resolved by a person while the real worker runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from receiver.supervisor.ports import free_port
from tests.acceptance.calling import simulator
from tests.acceptance.service import Service, ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

CSV = b"destination,name\n6175551234,Ana\n6175551299,Ben\n"


def requests_to(url: str) -> list[dict[str, Any]]:
    requests: list[dict[str, Any]] = json.loads(ask(f"{url}/simulator/ledger").body)["requests"]
    return requests


def test_submission_resolved_as_not_queued_is_sent_again_with_the_same_result_url(server_dir: Path) -> None:
    csv = server_dir / "contacts.csv"
    csv.write_bytes(CSV)
    port = free_port()
    service = Service(
        server_dir,
        WEB_CONCURRENCY="1",
        PLUM_URL=f"http://127.0.0.1:{port}",
        PLUM_USER="simulator",
        PLUM_KEY="simulator",
    )
    with service:
        # The provider queues it, but answers 500 and never posts a result. Only the provider's page shows it.
        with simulator(port, "--speed", "2000", "--error-after-acceptance", "1", "--drop", "1") as url:
            accepted = service.queue(csv, "Prefer: wait=60")
            assert accepted.status == 202 and accepted.json["state"] == "unknown"
            batch_id = accepted.json["id"]
            (first,) = requests_to(url)
        unconfirmed = service.run("resolve", str(batch_id), "1", "--not-queued", "--note", "their page is empty")
        assert unconfirmed.returncode == 2 and "DIALED TWICE" in unconfirmed.stderr
        assert service.batch(batch_id)["state"] == "unknown"
        with simulator(port, "--speed", "2000") as url:
            resolved = service.run(
                "resolve", str(batch_id), "1", "--not-queued", "--note", "their page is empty", "--by", "Ana", "--yes"
            )
            assert resolved.returncode == 0, resolved.stderr
            eventually(lambda: service.batch(batch_id)["counts"]["final"] == 2)
            (second,) = requests_to(url)
        assert second["result_url"] == first["result_url"]
        assert service.batch(batch_id)["state"] == "queued"
        again = service.run("resolve", str(batch_id), "1", "--not-queued", "--note", "again", "--yes")
        assert again.returncode == 1 and "the provider accepted it" in again.stderr
        assert service.run("verify").returncode == 0
