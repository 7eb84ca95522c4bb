"""The commands as `python -m receiver` runs them, with a database of the test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from receiver.cli import main
from tests.acceptance.service import complaints

VARIABLES = ("DATABASE_URL", "DATA_DIR", "PUBLIC_URL", "PLUM_URL", "PLUM_USER", "PLUM_KEY", "SECRET_KEY", "PORT")


@dataclass(frozen=True, slots=True)
class Ran:
    status: int
    out: str
    err: str
    """Without the line that names the database, which is `database`."""
    database: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


Run = Callable[..., Ran]


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No settings of this machine, and a data folder of the test."""
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("SECRET_KEY", "a secret of the tests and of nobody else")
    return monkeypatch


@pytest.fixture
def run_anywhere(environment: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command. A test that needs a database sets DATABASE_URL, or uses `run`."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            status = main(arguments)
        except SystemExit as error:  # how argparse ends
            assert isinstance(error.code, int)
            status = error.code
        said = capsys.readouterr()
        err = complaints(said.err)
        return Ran(status, said.out, err, said.err.removesuffix(err).strip())

    return run


@pytest.fixture
def run(run_anywhere: Run, environment: pytest.MonkeyPatch, database_url: str) -> Run:
    environment.setenv("DATABASE_URL", database_url)
    return run_anywhere
