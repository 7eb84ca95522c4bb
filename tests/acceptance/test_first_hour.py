"""The README and docs/first-campaign.md, followed exactly, up to the results of a campaign.

First with the simulated provider, and then with another one (stub_provider.py), which replaces the real provider.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from receiver.supervisor.ports import free_port
from tests.acceptance.service import START_SECONDS, ask, clean_environment
from tests.documents.blocks import Block, Terminal, agrees, commands_of, make_checkout
from tests.waiting import eventually

pytestmark = pytest.mark.long

PAGES = ("README.md", "docs/first-campaign.md")
NOT_RUN = "make test"
"""A block with it is the README's first one. `make run` is also in a later block, and `make test` runs this test."""

USER, KEY = "you@example.com", "your-developer-key"
PUBLIC_URL, PROVIDER = "https://calls.example.com", "https://fuse.plumvoice.com"


class Stub:
    """The other provider, in its own process."""

    def __init__(self, folder: Path) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._ledger = folder / "ledger.ndjson"
        script = Path(__file__).with_name("stub_provider.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), "--port", self.url.rpartition(":")[2], "--user", USER, "--key", KEY,
             "--ledger", str(self._ledger), "--pause", "0.05"],
            cwd=folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def __enter__(self) -> Stub:
        eventually(lambda: self._process.poll() is None and _answers(self.url), START_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        assert self._process.wait(60) == 0

    def did(self, what: str) -> list[dict[str, Any]]:
        lines = self._ledger.read_text().splitlines() if self._ledger.exists() else []
        return [found for found in map(json.loads, lines) if found["did"] == what]


def _answers(url: str) -> bool:
    try:
        return ask(url).status == 401
    except OSError:
        return False


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Stub]:
    with Stub(tmp_path) as stub:
        yield stub


class Reader:
    """Runs the blocks of the documents, each in its terminal, and compares their output with the expected output."""

    def __init__(self, checkout: Path, stub: Stub) -> None:
        self.checkout = checkout
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self._stub = stub
        self._environment = clean_environment(
            PORT=str(self.port), PLUM_URL=stub.url, WEB_CONCURRENCY="1", LC_ALL="C.UTF-8"
        )
        self._serving: Terminal | None = None
        self._other = Terminal(checkout, self._environment)

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        with self._other:
            if self._serving is not None:
                self._serving.close()

    def run(self, block: Block) -> str:
        """Run a block and return its output, with the provider's address as in the README."""
        if block.stays:
            if self._serving is not None:
                self._serving.close()
            self._serving = Terminal(self.checkout, self._environment)
            printed = self._serving.start(self._localized(block.source))
        else:
            printed = self._other.run(self._localized(block.source))
        printed = printed.replace(self._stub.url, PROVIDER)
        if block.printed is not None:
            expected = self._localized(block.printed)
            assert agrees(printed, expected), f"{block}\nprints\n{printed}\nand not\n{expected}"
        return printed

    def _localized(self, text: str) -> str:
        """The text with the service's real address instead of the README's and the public one."""
        text = text.replace("http://127.0.0.1:8000", self.url).replace(PUBLIC_URL, self.url)
        return text.replace("API key    rr_…", "API key    in …")  # the output is not a terminal here

    def command(self, line: str) -> str:
        return self._other.run(line + "\n")


@pytest.fixture
def reader(server_dir: Path, stub: Stub) -> Iterator[Reader]:
    with Reader(make_checkout(server_dir / "clone"), stub) as reader:
        yield reader


def test_documents_lead_from_the_first_start_to_the_results_of_a_campaign(reader: Reader, stub: Stub) -> None:
    blocks = [block for page in PAGES for block in commands_of(page) if NOT_RUN not in block.source]
    assert [block.stays for block in blocks].count(True) == 2 and len(blocks) >= 7
    for block in blocks:
        reader.run(block)
    assert [each["answered"] for each in stub.did("check") + stub.did("heartbeat")] == [200, 200]
    with (reader.checkout / "results.csv").open() as file:
        assert [row["outcome"] for row in csv.DictReader(file)] == ["completed", "rejected", "completed"]
    check_campaign_of_every_shape(reader, stub)
    check_callback_by_hand(reader, stub)
    check_no_problem_is_found(reader)


def check_campaign_of_every_shape(reader: Reader, stub: Stub) -> None:
    """A campaign with every format of results and every outcome that the provider has."""
    numbers = [f"617555{1000 + each}" for each in range(23)]
    contacts = reader.checkout / "campaign.csv"
    contacts.write_text("destination,row\n" + "".join(f"{number},{at}\n" for at, number in enumerate(numbers)))
    done = len(stub.did("result"))
    output = reader.command(
        ".venv/bin/python -m receiver queue campaign.csv --application 7 --deployment 3"
        " --max-attempts 2 --reattempt-wait 60"
    )
    assert output.startswith("Batch 3 is stored")
    assert "batch 3 queued: 100%, 23 ended" in reader.command(".venv/bin/python -m receiver status 3 --watch")
    eventually(lambda: len(stub.did("result")) - done == len(numbers))
    posted = {each["number"]: each for each in stub.did("result")[done:]}
    assert {each["answered"] for each in posted.values()} == {200}
    exported = list(csv.DictReader(reader.command(".venv/bin/python -m receiver export 3").splitlines()))
    assert {row["destination"]: row["outcome"] for row in exported} == {
        number: each["status"] for number, each in posted.items()
    }
    assert posted.keys() == set(numbers)
    assert {row["attempts"] for row in exported if row["outcome"] == "failed"} == {"2"}


def check_callback_by_hand(reader: Reader, stub: Stub) -> None:
    """A repeated result, sent with curl, is stored and counted."""
    result_url = stub.did("queue")[-1]["result_url"]
    (reader.checkout / "result.json").write_text(json.dumps({"phone_number": "'6175551000'", "status": "completed"}))
    posted = reader.command(f"curl -s -H 'Content-Type: application/json' --data-binary @result.json {result_url}")
    assert json.loads(posted) == {"status": "stored"}
    eventually(lambda: "received 24, waiting 0" in reader.command(".venv/bin/python -m receiver status 3"))


def check_no_problem_is_found(reader: Reader) -> None:
    """`doctor` and `verify` find no problem, and the dashboards can be used with the key."""
    lines = reader.command(".venv/bin/python -m receiver doctor").splitlines()
    assert lines[-1] == f"{len(lines) - 1} ok, 0 warnings, 0 failures.", lines
    subjects = [line.split()[1] for line in lines[:-1]]
    assert {"configuration", "database", "settings", "clock", "migrations", "worker", "callbacks"} <= set(subjects)
    assert {"disk", "spool", "PUBLIC_URL", "provider"} <= set(subjects)
    assert reader.command(".venv/bin/python -m receiver verify").startswith("The balance holds")
    key = (reader.checkout / "var" / "api-key").read_text().strip()
    page = reader.command(f"""
        curl -s -c cookies -o sign-in.html {reader.url}/login
        token=$(grep -o 'name="csrf_token" value="[^"]*' sign-in.html | cut -d'"' -f4)
        curl -s -b cookies -c cookies -L -H 'Origin: {reader.url}' -d csrf_token=$token -d key={key} {reader.url}/login
        curl -s -b cookies {reader.url}/batches""")
    assert "December reminders" in page and "campaign.csv" in page
