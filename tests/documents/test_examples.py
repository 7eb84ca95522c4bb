"""Run the commands in the documents, unchanged, against a service that is started as a user starts it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from receiver.embedded_postgres.account import account_for
from receiver.embedded_postgres.installation import programs_for
from receiver.supervisor.ports import free_port
from receiver.web.reference.codes import CODES
from receiver.web.reference.samples import SAMPLES
from tests.acceptance.service import Service
from tests.documents.blocks import ROOT, Block, Terminal, agrees, commands_of, documents, make_checkout
from tests.waiting import eventually
from tests.web.asking import SECRET

pytestmark = pytest.mark.long

DOCUMENTED_ADDRESS, DOCUMENTED_KEY_FILE = "http://127.0.0.1:8000", "var/api-key"

TOUR = ("docs/api.md", "docs/dashboards.md")
"""The second continues where the first ends."""

IN_THE_FIRST_HOUR = ("README.md", "docs/first-campaign.md")
"""Run by tests/acceptance/test_first_hour.py, which follows them exactly."""

NOT_RUN = {
    ("benchmarks/README.md", "make bench"): "keeps the machine busy for long, and needs more packages",
    ("docs/contributing.md", "make run"): "the first is the README's; the others run and check what this is a part of",
    ("docs/contributing.md", ".venv/bin/python -m pytest"): "runs what this is a part of",
    ("docs/contributing.md", ".venv/bin/python -m tests.browser.pictures"): "makes docs/pictures anew",
    ("docs/contributing.md", "EXAMPLES_WRITE=1"): "writes docs/commands.md anew",
    ("docs/systemd.md", "apt-get install git postgresql"): "changes the machine, and needs systemd",
    ("docs/deployment.md", "createuser --pwprompt receiver_app"): "asks for a password; test_roles.py runs the file",
    ("docs/deployment.md", "createuser --pwprompt receiver_intake"): "asks for a password; test_roles.py runs the file",
    ("docs/systemd.md", "receiver simulate"): "stays; the simulator's own tests start it",
    ("docs/systemd.md", "systemctl start receiver-check"): "needs systemd",
    ("docs/systemd.md", "systemctl enable --now receiver-intake"): "needs systemd",
    ("docs/systemd.md", "systemctl restart"): "needs systemd",
    ("docs/systemd.md", "cd /opt/receiver && umask 022"): "changes the machine, and needs systemd",
    ("docs/platforms.md", "heroku"): "needs the platform",
    ("docs/platforms.md", "cp deploy/compose.env.example"): "needs a container runtime",
}
"""Every block that no test runs, by how it begins, and why not."""

RUN_ELSEWHERE = {
    ("docs/backups.md", "FOLDER="),
    ("docs/backups.md", ". /etc/receiver/migrate"),
    ("docs/deployment.md", "receiver keys create"),
}
"""Blocks that tests/documents/test_backups.py runs, by how they begin."""


def reason_against(block: Block) -> str | None:
    """Why a block is not run here; None: it is."""
    if is_run_elsewhere(block):
        return "tests/documents/test_backups.py runs it"
    found = (
        why
        for (document, start), why in NOT_RUN.items()
        if block.document == document and block.source.startswith(start)
    )
    return next(found, None)


def is_run_elsewhere(block: Block) -> bool:
    return any(block.document == document and block.source.startswith(start) for document, start in RUN_ELSEWHERE)


@pytest.fixture
def service(server_dir: Path, database_url: str) -> Iterator[Service]:
    """Started as `make run` starts it, with the simulated provider."""
    with Service(server_dir, DATABASE_URL=database_url, SECRET_KEY=SECRET, WEB_CONCURRENCY="1") as service:
        yield service


@pytest.fixture
def checkout(server_dir: Path) -> Path:
    return make_checkout(server_dir / "clone")


def surroundings(service: Service) -> dict[str, str]:
    """What the examples take from the shell they run in; and that is in the virtualenv of the service."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**service.environment, "PATH": path, "LC_ALL": "C.UTF-8", "RECEIVER": service.url, "KEY": service.key}


@pytest.mark.skipif(shutil.which("jq") is None, reason="the examples read answers with jq")
def test_commands_of_the_tour_and_of_the_dashboards_print_what_stands_there(service: Service, checkout: Path) -> None:
    told = [block for document in TOUR for block in commands_of(document) if not block.stays]  # `service` is started
    assert len([block for block in told if block.printed is not None]) >= 14
    _let_the_hour_be_young()
    with Terminal(checkout, surroundings(service)) as terminal:
        for block in told:
            source = block.source.replace(DOCUMENTED_ADDRESS, service.url)
            printed = terminal.run(source.replace(DOCUMENTED_KEY_FILE, str(service.data_dir / "api-key")))
            if block.printed is not None:
                assert agrees(printed, block.printed), f"{block}\nprints\n{printed}"


@pytest.mark.parametrize("document", [each for each in documents() if each not in (*TOUR, *IN_THE_FIRST_HOUR)])
def test_every_other_command_runs(document: str, server_dir: Path) -> None:
    blocks = [block for block in commands_of(document) if reason_against(block) is None]
    if not blocks:
        return
    with Service(server_dir, SECRET_KEY=SECRET, WEB_CONCURRENCY="1") as service:
        variables = surroundings(service)
        # Its embedded Postgres, as if it were one of the reader's, with Postgres' own programs.
        variables["DATABASE_URL"] = service.embedded_database_url
        programs = programs_for(account_for(service.data_dir / "postgres"))
        variables["PATH"] = os.pathsep.join([str(programs), variables["PATH"]])
        with Terminal(make_checkout(server_dir / "clone"), variables) as terminal:
            for block in blocks:
                printed = terminal.run(block.source)
                assert block.printed is None or agrees(printed, block.printed), f"{block}\nprints\n{printed}"


def test_blocks_that_are_not_run_are_there_and_name_what_is_there() -> None:
    left_out = [block for each in documents() for block in commands_of(each) if reason_against(block) is not None]
    left_out = [block for block in left_out if not is_run_elsewhere(block)]
    assert len(left_out) == len(NOT_RUN), "each reason is one block's"
    for block in left_out:
        for path in re.findall(r"(?<![\w./-])(?:deploy|docs|receiver|tests)/[\w./*-]+\w", block.source):
            assert list(ROOT.glob(path)) or path == "deploy/.env", f"{block}: there is no {path}"


def test_samples_of_the_reference_run(service: Service, tmp_path: Path) -> None:
    (tmp_path / "contacts.csv").write_text("destination,first_name\n6175551234,Ana\n")
    languages = [language for language in SAMPLES["queue_batch"] if language != "PHP" or runs_php()]
    queued = {language: _run(language, SAMPLES["queue_batch"][language], service, tmp_path) for language in languages}
    # The same Idempotency-Key, and the same content except for the order of fields: one batch for all languages.
    ids = {json.loads(printed)["id"] if language == "curl" else int(printed) for language, printed in queued.items()}
    (batch_id,) = ids
    eventually(lambda: service.batch(batch_id)["progress"] == 1)
    for language in languages:
        source = SAMPLES["get_call"][language].replace("/batches/1/", f"/batches/{batch_id}/")
        printed = _run(language, source, service, tmp_path)
        if language == "curl":
            call = json.loads(printed)
            printed = f"{call['phone_number']} {call['state']} {call['outcome']}"
        assert re.fullmatch(r"\+16175551234 final (completed|failed|canceled|rejected)", printed.strip()), language


@pytest.mark.parametrize("operation", SAMPLES)
@pytest.mark.parametrize("language", ["curl", "Python", "PHP"])
def test_samples_of_the_reference_fail_where_they_are_refused_or_not_answered(
    operation: str, language: str, tmp_path: Path
) -> None:
    if language == "PHP" and not runs_php():
        pytest.skip("needs php with its curl extension")
    (tmp_path / "contacts.csv").write_text("destination\n6175551234\n")
    with refusing() as refused:
        for address in (refused, f"http://127.0.0.1:{free_port()}"):
            variables = {**os.environ, "RECEIVER": address, "KEY": "rr_of_nobody"}
            ran = _ended(language, SAMPLES[operation][language], variables, tmp_path)
            assert ran.returncode != 0 and ran.stderr, (address, ran)


def runs_php() -> bool:
    """Whether the samples in PHP can be run: on Debian, the packages php-cli and php-curl."""
    if (php := shutil.which("php")) is None:
        return False
    return subprocess.run([php, "-r", "exit(extension_loaded('curl') ? 0 : 1);"], timeout=60).returncode == 0


@contextmanager
def refusing() -> Iterator[str]:
    """The address of a server that answers 401 to everything."""

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"code": "unauthorized", "detail": "No valid API key."}')

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_table_of_codes_is_the_one_that_the_description_has() -> None:
    text = (ROOT / "docs" / "api-rules.md").read_text()
    head, rest = text.split("<!-- codes -->\n")
    table, tail = rest.split("<!-- /codes -->\n")
    lines = ["| code | status | when | what to do |", "| --- | --- | --- | --- |"]
    lines += [f"| `{name}` | {code.status} | {code.when} | {code.remedy} |" for name, code in CODES.items()]
    written = "\n".join(lines) + "\n"
    if os.environ.get("EXAMPLES_WRITE"):
        (ROOT / "docs" / "api-rules.md").write_text(f"{head}<!-- codes -->\n{written}<!-- /codes -->\n{tail}")
    else:
        assert table == written


def test_codes_of_faults_that_are_listed_are_those_that_are_given() -> None:
    (paragraph,) = re.findall(r"^A fault in `errors`.*?\n\n", (ROOT / "docs" / "api-rules.md").read_text(), re.M | re.S)
    listed = set(re.findall(r"`([a-z_]+)`", paragraph)) - {"errors"}
    sources = "".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    assert len(listed) > 30
    assert {code for code in listed if f'"{code}"' not in sources} == set()


def _run(language: str, source: str, service: Service, folder: Path) -> str:
    ran = _ended(language, source, surroundings(service), folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _ended(
    language: str, source: str, environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    command = {
        "curl": ["bash", "-c", source],
        "Python": [sys.executable, "-c", source],
        "PHP": ["php", "-r", source.removeprefix("<?php\n")],
    }[language]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)


def _let_the_hour_be_young() -> None:
    """The examples' results lie in one hour; they take a few seconds, and far longer on a busy machine."""
    left = 3600 - time.time() % 3600
    if left < 120:
        time.sleep(left)
