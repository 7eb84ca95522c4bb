from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from receiver.cli import make_parser
from receiver.simulator.bodies import SHAPES
from receiver.simulator.command import run, settings_from
from receiver.simulator.faults import Rates
from receiver.simulator.settings import Settings
from tests.simulator.receiving import BULK, CSV, ResultUrl, ask
from tests.waiting import eventually


def parsed(*arguments: str) -> argparse.Namespace:
    return make_parser("simulate").parse_args(["simulate", *arguments])


def test_without_arguments_there_are_no_faults() -> None:
    assert settings_from(parsed()) == Settings(port=8100)


def test_faults_sets_every_rate_that_is_not_given() -> None:
    settings = settings_from(parsed("--faults", "0.5", "--drop", "0"))
    assert settings.rates == Rates(0.0, *[0.5] * 12)
    assert settings.shapes == {
        "bare": 0.5,
        **{shape: pytest.approx(0.1) for shape in SHAPES if shape != "bare"},
    }


def test_mixes_are_read_as_weights() -> None:
    settings = settings_from(parsed("--outcomes", "completed=3, failed=1", "--shape", "xml"))
    assert (settings.outcomes, settings.shapes) == ({"completed": 3, "failed": 1}, {"xml": 1})


@pytest.mark.parametrize(
    "arguments",
    [
        ("--drop", "1.1"),
        ("--drop", "nan"),
        ("--drop", "often"),
        ("--speed", "0"),
        ("--speed", "inf"),
        ("--port", "65536"),
        ("--lines", "0"),
        ("--outcomes", "answered=1"),
        ("--outcomes", "completed=0"),
        ("--outcomes", "completed=-1"),
        ("--shape", "yaml=1"),
    ],
)
def test_unusable_argument_exits_with_2(arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        parsed(*arguments)
    assert stopped.value.code == 2
    assert arguments[-2] in capsys.readouterr().err


def test_help_names_every_fault(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed("--help")
    text = capsys.readouterr().out
    assert all(option in text for option in ("--timeout-after-acceptance", "--slow-sender", "401, 403, 404, 409"))


def test_send_posts_the_bytes_of_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"\x00\xff{'")
    with ResultUrl() as receiver:
        arguments = ("--send", receiver.url, "--body", str(file), "--content-type", "text/odd")
        assert run(parsed(*arguments)) == 0
    assert [(each.body, each.content_type) for each in receiver.posts] == [(b"\x00\xff{'", "text/odd")]
    assert capsys.readouterr().out.splitlines() == ["200 "]


def test_send_fails_if_the_answer_is_not_200(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "body"
    file.write_bytes(b"{}")
    with ResultUrl(answers=(503,)) as receiver:
        assert run(parsed("--send", receiver.url, "--body", str(file))) == 1
    assert capsys.readouterr().out.split() == ["503"]
    assert run(parsed("--send", receiver.url, "--body", str(file))) == 1
    assert "no answer" in capsys.readouterr().err


def test_send_with_get_checks_the_status(capsys: pytest.CaptureFixture[str]) -> None:
    with ResultUrl() as receiver:
        assert run(parsed("--send", receiver.url, "--get")) == 0
    with ResultUrl(get=404) as receiver:
        assert run(parsed("--send", receiver.url, "--get")) == 1
    assert capsys.readouterr().out.split() == ["200", "404"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--get",),
        ("--body", "x"),
        ("--send", "http://127.0.0.1:1/"),
        ("--send", "http://127.0.0.1:1/", "--get", "--body", "x"),
        ("--send", "http://127.0.0.1:1/", "--body", "/nowhere/at/all"),
        ("--send", "127.0.0.1:1", "--get"),
    ],
)
def test_contradictory_arguments_of_send_exit_with_2(arguments: tuple[str, ...]) -> None:
    assert run(parsed(*arguments)) == 2


def seconds_until_ended(stop: signal.Signals, folder: Path) -> float:
    """How long the simulator takes to end after a signal, during a request and while calls are dialed."""
    arguments = ("--port", "0", "--speed", "1", "--timeout-after-acceptance", "1")
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-m", "receiver", "simulate", *arguments],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            with ResultUrl() as receiver:
                with pytest.raises(TimeoutError):
                    ask(url + BULK, "POST", {"result_url": receiver.url}, CSV, timeout=0.3)
                eventually(lambda: bool(receiver.received))
                began = time.monotonic()
                server.send_signal(stop)
                rest, log = server.communicate(timeout=60)
                seconds = time.monotonic() - began
        finally:
            server.kill()
    assert (server.returncode, rest) == (0, "")
    (line,) = log.splitlines()
    assert "3 calls queued" in line and "a-token" not in line
    return seconds


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_the_simulator_within_two_seconds(stop: signal.Signals, tmp_path: Path) -> None:
    # One of several attempts is enough, because the machine may be busy.
    assert any(seconds_until_ended(stop, tmp_path) < 2 for _ in range(5))


def test_port_in_use_is_reported_with_exit_status_1(capsys: pytest.CaptureFixture[str]) -> None:
    with ResultUrl() as receiver:
        port = receiver.url.split(":")[2].split("/")[0]
        assert run(parsed("--port", port)) == 1
    assert "cannot listen on 127.0.0.1" in capsys.readouterr().err
