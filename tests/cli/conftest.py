"""Run commands like `python -m receiver`, with the test's database."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.cli import main
from tests.acceptance.service import without_database_line

VARIABLES = ("DATABASE_URL", "DATA_DIR", "PUBLIC_URL", "PLUM_URL", "PLUM_USER", "PLUM_KEY", "SECRET_KEY", "PORT")


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: str
    err: str
    """Without the line that names the database."""
    database: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """The environment without settings of this machine, and with the test's data folder."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SECRET_KEY", "a secret that only the tests use")
    return monkeypatch


@pytest.fixture
def run_anywhere(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command. A test that needs a database sets DATABASE_URL, or uses `run`."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as error:  # argparse raises it
            assert isinstance(error.code, int)
            status = error.code
        output = capsys.readouterr()
        err = without_database_line(output.err)
        return Ran(status, output.out, err, output.err.removesuffix(err).strip())

    return run


@pytest.fixture
def run(run_anywhere: Run, environment: pytest.MonkeyPatch, database_url: str) -> Run:
    environment.setenv("DATABASE_URL", database_url)
    return run_anywhere
