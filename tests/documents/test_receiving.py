"""The samples of docs/receiving.md accept what the service sends, and refuse everything else."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from types import MappingProxyType

import pytest

from receiver.relay.sending import send_test
from tests.documents.blocks import blocks_of
from tests.relay.endpoint_server import Request, receiving

SECRET, OLD_SECRET = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD", "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"

CALLS = {
    "python": "\n\nimport json\nbody = open('body', 'rb').read()\n"
    "print(receive(json.load(open('headers')), body)['type'])",
    "js": "\nconst fs = require('fs');\nconst headers = JSON.parse(fs.readFileSync('headers', 'utf8'));\n"
    "console.log(receive(headers, fs.readFileSync('body')).type);",
    "php": "\n$headers = json_decode(file_get_contents('headers'), true);\n"
    "echo receive($headers, file_get_contents('body'))['type'];",
}
"""What is appended to a sample: it calls `receive` with a request, and prints the type of the event."""

PROGRAMS = {"python": sys.executable, "js": "node", "php": "php"}


@pytest.fixture(scope="module")
def sent() -> Request:
    """A request as the service sends it after a rotation, so with two signatures."""
    with receiving() as server:
        assert send_test(7, server.url, [SECRET, OLD_SECRET], (ip_network("127.0.0.0/8"),)).delivered
    return server.requests[0]


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The library of the sample in Node."""
    folder = tmp_path_factory.mktemp("node")
    install = ["npm", "install", "--no-audit", "--no-fund", "standardwebhooks"]
    try:
        subprocess.run(install, cwd=folder, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("standardwebhooks cannot be installed with npm")
    return folder / "node_modules"


@pytest.fixture(params=CALLS)
def language(request: pytest.FixtureRequest) -> Iterator[str]:
    name: str = request.param
    if shutil.which(PROGRAMS[name]) is None:
        pytest.skip(f"{PROGRAMS[name]} is not installed")
    if name == "js":
        modules: Path = request.getfixturevalue("node_modules")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("NODE_PATH", str(modules))
            yield name
    else:
        yield name


def source(language: str) -> str:
    [sample] = [block.source for block in blocks_of("docs/receiving.md") if block.language == language]
    return sample


def run(
    language: str,
    folder: Path,
    request: Request,
    *,
    secret: str = SECRET,
    body: bytes | None = None,
    headers: Mapping[str, str] = MappingProxyType({}),
) -> subprocess.CompletedProcess[str]:
    (folder / "body").write_bytes(request.body if body is None else body)
    (folder / "headers").write_text(json.dumps({**request.headers, **headers}))
    (folder / "sample").write_text(source(language) + CALLS[language])
    environment = {**os.environ, "WEBHOOK_SECRET": secret}
    command = [PROGRAMS[language], "sample"]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_sample_accepts_an_event_with_either_secret(language: str, sent: Request, tmp_path: Path) -> None:
    for secret in (SECRET, OLD_SECRET):
        ran = run(language, tmp_path, sent, secret=secret)
        assert (ran.returncode, ran.stdout.strip()) == (0, "endpoint.test"), ran.stderr


def test_sample_refuses_what_was_changed(language: str, sent: Request, tmp_path: Path) -> None:
    other = "whsec_" + "A" * 32
    refused = [
        run(language, tmp_path, sent, secret=other),
        run(language, tmp_path, sent, body=sent.body + b" "),
        run(language, tmp_path, sent, headers={"webhook-id": "msg_2"}),
        run(language, tmp_path, sent, headers={"webhook-timestamp": "1700000000"}),
    ]
    assert [ran.returncode != 0 and "endpoint.test" not in ran.stdout for ran in refused] == [True] * 4


@pytest.mark.skipif(shutil.which("openssl") is None or shutil.which("curl") is None, reason="needs openssl and curl")
def test_event_signed_in_a_shell_is_accepted(tmp_path: Path) -> None:
    [script] = [
        block.source for block in blocks_of("docs/receiving.md") if block.language == "sh" and "openssl" in block.source
    ]
    with receiving() as server:
        environment = {**os.environ, "WEBHOOK_SECRET": SECRET, "ENDPOINT": server.url}
        ran = subprocess.run(["sh", "-euc", script], cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert server.requests[0].verified(SECRET)["type"] == "endpoint.test"
