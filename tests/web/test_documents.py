"""The documents' commands, run as they stand against a service that is started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from receiver.web.reference.codes import CODES
from receiver.web.reference.samples import SAMPLES
from tests.acceptance.service import Service
from tests.results.waiting import wait_until
from tests.web.asking import SECRET
from tests.web.real_answers import timeless

ROOT = Path(__file__).parents[2]
DOCUMENTED_ADDRESS, DOCUMENTED_KEY_FILE = "http://127.0.0.1:8000", "var/api-key"

# A block of commands, and the block of what they print where one follows.
_EXAMPLE = re.compile(r"^```sh\n(.*?)^```\n(?:```(?:json|text)\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.fixture
def service(tmp_path: Path, database_url: str) -> Iterator[Service]:
    """Started as `make run` starts it, with the simulated provider."""
    with Service(tmp_path, DATABASE_URL=database_url, SECRET_KEY=SECRET, WEB_CONCURRENCY="1") as service:
        yield service


def surroundings(service: Service) -> dict[str, str]:
    """What the examples take from the shell they run in."""
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8", "RECEIVER": service.url, "KEY": service.key}


def examples(document: str) -> list[tuple[str, str]]:
    """(commands, what they print) of each example in a document."""
    return [(commands, printed) for commands, printed in _EXAMPLE.findall((ROOT / "docs" / document).read_text())]


@pytest.mark.skipif(shutil.which("jq") is None, reason="the examples read answers with jq")
def test_commands_of_the_tour_and_of_the_dashboards_print_what_stands_there(service: Service, tmp_path: Path) -> None:
    told = examples("api.md") + examples("dashboards.md")
    assert len(told) >= 16
    _let_the_hour_be_young()
    script = "set -euo pipefail\n" + "printf '\\0'\n".join(commands for commands, _ in told)
    script = script.replace(DOCUMENTED_ADDRESS, service.url).replace(
        DOCUMENTED_KEY_FILE, str(service.data_dir / "api-key")
    )
    ran = subprocess.run(
        ["bash", "-c", script], cwd=tmp_path, env=surroundings(service), capture_output=True, text=True, timeout=60
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    for (commands, printed), really in zip(told, ran.stdout.split("\0"), strict=True):
        assert timeless(really) == timeless(printed), commands


def test_samples_of_the_reference_run(service: Service, tmp_path: Path) -> None:
    (tmp_path / "contacts.csv").write_text("destination,first_name\n6175551234,Ana\n")
    languages = [language for language in SAMPLES["queue_batch"] if language != "PHP" or shutil.which("php")]
    queued = {language: _run(language, SAMPLES["queue_batch"][language], service, tmp_path) for language in languages}
    # The same Idempotency-Key, and the same content but for the fields' order: one batch, whoever asks.
    ids = {json.loads(printed)["id"] if language == "curl" else int(printed) for language, printed in queued.items()}
    (batch_id,) = ids
    wait_until(lambda: service.batch(batch_id)["progress"] == 1, seconds=30)
    for language in languages:
        source = SAMPLES["get_call"][language].replace("/batches/1/", f"/batches/{batch_id}/")
        printed = _run(language, source, service, tmp_path)
        if language == "curl":
            call = json.loads(printed)
            printed = f"{call['phone_number']} {call['state']} {call['outcome']}"
        assert re.fullmatch(r"\+16175551234 final (completed|failed|canceled|rejected)", printed.strip()), language


def test_table_of_codes_is_the_one_that_the_description_has() -> None:
    text = (ROOT / "docs" / "api.md").read_text()
    head, rest = text.split("<!-- codes -->\n")
    table, tail = rest.split("<!-- /codes -->\n")
    lines = ["| code | status | when | what to do |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {code.status} | {code.when} | {code.remedy} |" for name, code in CODES.items()]
    written = "\n".join(lines) + "\n"
    if os.environ.get("EXAMPLES_WRITE"):
        (ROOT / "docs" / "api.md").write_text(f"{head}<!-- codes -->\n{written}<!-- /codes -->\n{tail}")
    else:
        assert table == written


def test_codes_of_faults_that_are_listed_are_those_that_are_given() -> None:
    (paragraph,) = re.findall(r"^A fault in `errors`.*?\n\n", (ROOT / "docs" / "api.md").read_text(), re.M | re.S)
    listed = set(re.findall(r"`([a-z_]+)`", paragraph)) - {"errors"}
    sources = "".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    assert len(listed) > 30
    assert {code for code in listed if f'"{code}"' not in sources} == set()


def _run(language: str, source: str, service: Service, folder: Path) -> str:
    command = {
        "curl": ["bash", "-c", source],
        "Python": [sys.executable, "-c", source],
        "PHP": ["php", "-r", source.removeprefix("<?php\n")],
    }[language]
    ran = subprocess.run(command, cwd=folder, env=surroundings(service), capture_output=True, text=True, timeout=60)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _let_the_hour_be_young() -> None:
    """The examples' results lie in one hour; they take a few seconds."""
    left = 3600 - time.time() % 3600
    if left < 20:
        time.sleep(left)
