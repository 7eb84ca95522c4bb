"""Inputs that an earlier release answered wrongly, sent over HTTP to a running service.

`tests/samples/faults/cases.json` lists each case: a CSV, parameters, callbacks in order (file and headers), and the
expected answer.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.calling import AcceptingProvider
from tests.acceptance.service import SAMPLES, Service, ask
from tests.waiting import eventually

pytestmark = pytest.mark.long

FAULTS = SAMPLES / "faults"
CASES: list[dict[str, Any]] = json.loads((FAULTS / "cases.json").read_text())


def of_type(wanted: str) -> list[Any]:
    return [pytest.param(case, id=case["id"]) for case in CASES if case["type"] == wanted]


@pytest.fixture(scope="module")
def provider() -> Iterator[AcceptingProvider]:
    with AcceptingProvider() as provider:
        yield provider


@pytest.fixture(scope="module")
def service(session_folder: Path, provider: AcceptingProvider) -> Iterator[Service]:
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)  # the server, started by root, runs as another account, which needs access
    with Service(folder, WEB_CONCURRENCY="1", PLUM_URL=provider.url, PLUM_USER="me", PLUM_KEY="mine") as service:
        yield service


@pytest.mark.parametrize("case", of_type("callbacks"))
def test_callbacks_give_the_call_its_correct_result(
    service: Service, provider: AcceptingProvider, case: dict[str, Any]
) -> None:
    queued = service.queue(FAULTS / case["csv"], "Prefer: wait=60", **case["params"])
    assert queued.status == 201, queued
    batch_id = queued.json["id"]
    for name, headers in case["posts"]:
        stored = ask(provider.result_urls[-1], "POST", (FAULTS / name).read_bytes(), headers)
        assert stored.json == {"status": "stored"}

    def settled() -> bool:
        callbacks = service.batch(batch_id)["callbacks"]
        return bool(callbacks["received"] == len(case["posts"]) and callbacks["waiting"] == 0)

    eventually(settled, otherwise=lambda: service.batch(batch_id))
    call = service.ask(f"/api/v1/batches/{batch_id}/calls/1").json
    expected = case["expect"]["call"]
    assert {name: call[name] for name in expected} == expected, case["why"]


@pytest.mark.parametrize("case", of_type("dry"))
def test_preview_is_correct(service: Service, case: dict[str, Any]) -> None:
    answer = service.queue(FAULTS / case["csv"], dry_run="true", **case["params"])
    expect = case["expect"]
    if "any_of" in expect:
        found = {"status": answer.status, **answer.json}
        assert any(all(found.get(name) == value for name, value in wanted.items()) for wanted in expect["any_of"]), (
            case["why"],
            answer,
        )
    if "message_any" in expect:
        assert any(word in answer.body.decode() for word in expect["message_any"]), (case["why"], answer)
