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
    ("benchmarks/README.md", "make bench"): "takes long, and needs more packages",
    (
        "docs/contributing.md",
        "make run",
    ): "the README's test runs the first; the others run the tests, including this one",
    ("docs/contributing.md", ".venv/bin/python -m pytest"): "runs the tests, including this one",
    ("docs/contributing.md", ".venv/bin/python -m tests.browser.pictures"): "writes docs/pictures",
    ("docs/contributing.md", "EXAMPLES_WRITE=1"): "writes docs/commands.md",
    ("docs/systemd.md", "apt-get install git postgresql"): "changes the machine, and needs systemd",
    ("docs/deployment.md", "createuser --pwprompt receiver_app"): "asks for a password; test_roles.py runs the file",
    ("docs/deployment.md", "createuser --pwprompt receiver_intake"): "asks for a password; test_roles.py runs the file",
    ("docs/systemd.md", "receiver simulate"): "does not end; the simulator's own tests start it",
    ("docs/systemd.md", "systemctl start receiver-check"): "needs systemd",
    ("docs/systemd.md", "systemctl enable --now receiver-intake"): "needs systemd",
    ("docs/systemd.md", "systemctl restart"): "needs systemd",
    ("docs/systemd.md", "cd /opt/receiver && umask 022"): "changes the machine, and needs systemd",
    ("docs/platforms.md", "heroku"): "needs the platform",
    ("docs/platforms.md", "cp deploy/compose.env.example"): "needs a container runtime",
}
"""Every block that no test runs, identified by its first words, and the reason."""

RUN_ELSEWHERE = {
    ("docs/backups.md", "FOLDER="),
    ("docs/backups.md", ". /etc/receiver/migrate"),
    ("docs/deployment.md", "receiver keys create"),
    ("docs/receiving.md", "sign()"),
}
"""Blocks that test_backups.py and test_receiving.py run, identified by their first words."""


def reason_not_to_run(block: Block) -> str | None:
    """Why this test does not run the block. None: it does."""
    if is_run_elsewhere(block):
        return "another test of tests/documents runs it"
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


def shell_environment(service: Service) -> dict[str, str]:
    """The environment of a shell for the examples, with the virtualenv of the service."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**service.environment, "PATH": path, "LC_ALL": "C.UTF-8", "RECEIVER": service.url, "KEY": service.key}


@pytest.mark.skipif(shutil.which("jq") is None, reason="the examples read answers with jq")
def test_commands_of_the_tour_and_of_the_dashboards_print_the_documented_output(
    service: Service, checkout: Path
) -> None:
    blocks = [block for document in TOUR for block in commands_of(document) if not block.stays]  # `service` is running
    assert len([block for block in blocks if block.printed is not None]) >= 14
    _wait_for_a_new_hour()
    with Terminal(checkout, shell_environment(service)) as terminal:
        for block in blocks:
            source = block.source.replace(DOCUMENTED_ADDRESS, service.url)
            printed = terminal.run(source.replace(DOCUMENTED_KEY_FILE, str(service.data_dir / "api-key")))
            if block.printed is not None:
                assert agrees(printed, block.printed), f"{block}\nprints\n{printed}"


@pytest.mark.parametrize("document", [each for each in documents() if each not in (*TOUR, *IN_THE_FIRST_HOUR)])
def test_every_other_command_runs(document: str, server_dir: Path) -> None:
    blocks = [block for block in commands_of(document) if reason_not_to_run(block) is None]
    if not blocks:
        return
    with Service(server_dir, SECRET_KEY=SECRET, WEB_CONCURRENCY="1") as service:
        variables = shell_environment(service)
        # The examples use its embedded Postgres as if it were the reader's, with Postgres' programs.
        variables["DATABASE_URL"] = service.embedded_database_url
        programs = programs_for(account_for(service.data_dir / "postgres"))
        variables["PATH"] = os.pathsep.join([str(programs), variables["PATH"]])
        with Terminal(make_checkout(server_dir / "clone"), variables) as terminal:
            for block in blocks:
                printed = terminal.run(block.source)
                assert block.printed is None or agrees(printed, block.printed), f"{block}\nprints\n{printed}"


def test_each_block_that_is_not_run_exists_and_names_existing_files() -> None:
    not_run = [block for each in documents() for block in commands_of(each) if reason_not_to_run(block) is not None]
    not_run = [block for block in not_run if not is_run_elsewhere(block)]
    assert len(not_run) == len(NOT_RUN), "each reason belongs to one block"
    for block in not_run:
        for path in re.findall(r"(?<![\w./-])(?:deploy|docs|receiver|tests)/[\w./*-]+\w", block.source):
            assert list(ROOT.glob(path)) or path == "deploy/.env", f"{block}: there is no {path}"


def test_samples_of_the_reference_run(service: Service, tmp_path: Path) -> None:
    numbers = ["6175551234", *(f"617555{row:04}" for row in range(100, 130))]
    (tmp_path / "contacts.csv").write_text("destination,first_name\n" + "".join(f"{each},Ana\n" for each in numbers))
    languages = [language for language in SAMPLES["queue_batch"] if runs(language)]
    queued = {language: _run(language, SAMPLES["queue_batch"][language], service, tmp_path) for language in languages}
    # The same Idempotency-Key, and the same content except for the order of fields: one batch for all languages.
    ids = {json.loads(printed)["id"] if language == "curl" else int(printed) for language, printed in queued.items()}
    (batch_id,) = ids
    eventually(lambda: service.batch(batch_id)["progress"] == 1)
    counts, follow_ups = service.batch(batch_id)["counts"], set()
    chosen = counts["failed"] + counts["rejected"]
    assert chosen > 0
    for language in languages:
        source = SAMPLES["get_call"][language].replace("/batches/1/", f"/batches/{batch_id}/")
        printed = _run(language, source, service, tmp_path)
        if language == "curl":
            call = json.loads(printed)
            printed = f"{call['phone_number']} {call['state']} {call['outcome']}"
        assert re.fullmatch(r"\+16175551234 final (completed|failed|canceled|rejected)", printed.strip()), language
        printed = _run(language, SAMPLES["list_results"][language], service, tmp_path)
        expected = re.escape(f'"batch_id":{batch_id},"row":1') if language == "curl" else f"^{batch_id} 1 final "
        assert re.search(expected, printed, re.MULTILINE), (language, printed)
        (tmp_path / "cursor").unlink(missing_ok=True)
        source = SAMPLES["follow_up"][language].replace("/batches/1/", f"/batches/{batch_id}/")
        printed = _run(language, source, service, tmp_path)
        if language == "curl":
            printed = "{id} {chosen}".format(**json.loads(printed))
        follow_ups.add(printed.strip())
    assert follow_ups == {f"{batch_id + 1} {chosen}"}


@pytest.mark.parametrize("operation", SAMPLES)
@pytest.mark.parametrize("language", SAMPLES["get_call"])
def test_samples_of_the_reference_fail_if_they_are_refused_or_not_answered(
    operation: str, language: str, tmp_path: Path
) -> None:
    if not runs(language):
        pytest.skip("needs php with its curl extension, or node")
    (tmp_path / "contacts.csv").write_text("destination\n6175551234\n")
    with refusing() as refused:
        for address in (refused, f"http://127.0.0.1:{free_port()}"):
            variables = {**os.environ, "RECEIVER": address, "KEY": "rr_unknown"}
            ran = _run_sample(language, SAMPLES[operation][language], variables, tmp_path)
            assert ran.returncode != 0 and ran.stderr, (address, ran)


def runs(language: str) -> bool:
    """Whether the samples in a language can be run. In PHP they need the Debian packages php-cli and php-curl."""
    if language == "JavaScript":
        return shutil.which("node") is not None
    if language != "PHP":
        return True
    if (php := shutil.which("php")) is None:
        return False
    return subprocess.run([php, "-r", "exit(extension_loaded('curl') ? 0 : 1);"], timeout=60).returncode == 0


@contextmanager
def refusing() -> Iterator[str]:
    """The address of a server that answers 401 to everything."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(401)
            self.end_headers()
            self.wfile.write(b'{"code": "unauthorized", "detail": "No valid API key."}')

        do_POST = do_GET

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_table_of_codes_agrees_with_the_api_description() -> None:
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


def test_listed_codes_of_faults_exist_in_the_code() -> None:
    (paragraph,) = re.findall(r"^A fault in `errors`.*?\n\n", (ROOT / "docs" / "api-rules.md").read_text(), re.M | re.S)
    listed = set(re.findall(r"`([a-z_]+)`", paragraph)) - {"errors"}
    sources = "".join(path.read_text() for path in (ROOT / "receiver").rglob("*.py"))
    assert len(listed) > 30
    assert {code for code in listed if f'"{code}"' not in sources} == set()


def _run(language: str, source: str, service: Service, folder: Path) -> str:
    ran = _run_sample(language, source, shell_environment(service), folder)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def _run_sample(
    language: str, source: str, environment: Mapping[str, str], folder: Path
) -> subprocess.CompletedProcess[str]:
    command = {
        "curl": ["bash", "-c", source],
        "Python": [sys.executable, "-c", source],
        "PHP": ["php", "-r", source.removeprefix("<?php\n")],
        "JavaScript": ["node", "--input-type=module", "-e", source],
    }[language]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=180)


def _wait_for_a_new_hour() -> None:
    """Wait if the hour ends soon: the examples expect all results in the same hour, and a busy machine is slow."""
    left = 3600 - time.time() % 3600
    if left < 120:
        time.sleep(left)
