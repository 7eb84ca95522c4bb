"""The secret key in a data folder."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from receiver.errors import ConfigurationError
from receiver.secret_key import make_secret, read_secret


def test_secret_is_generated_once_and_only_its_owner_can_read_it(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    secret = make_secret(folder)
    assert len(secret) == 43
    assert make_secret(folder) == secret
    assert [path.name for path in folder.iterdir()] == ["secret-key"]
    assert (folder / "secret-key").stat().st_mode & 0o777 == 0o600
    assert make_secret(tmp_path / "other") != secret
    assert read_secret(folder) == secret


def test_reading_does_not_create_a_secret(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="DATA_DIR: has no usable secret-key"):
        read_secret(tmp_path / "data")
    assert not (tmp_path / "data").exists()


def test_processes_that_start_together_use_the_same_secret(tmp_path: Path) -> None:
    # Each waits for the end of its input, so that all begin at the same time.
    program = (
        "import sys; from pathlib import Path; from receiver.secret_key import make_secret; print('ready', flush=True);"
        " sys.stdin.read(); print(make_secret(Path(sys.argv[1])))"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "data")]
    started = [
        subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1]
        )
        for _ in range(6)
    ]
    try:
        for process in started:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in started:
            assert process.stdin is not None
            process.stdin.close()
            process.stdin = None
        secrets = {process.communicate(timeout=30)[0] for process in started}
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert secrets == {make_secret(tmp_path / "data") + "\n"}
    assert len(list((tmp_path / "data").iterdir())) == 1


@pytest.mark.parametrize("content", [b"", b"\n", b"short\n", b"\xff" * 43])
def test_damaged_secret_prevents_the_start(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "secret-key").write_bytes(content)
    with pytest.raises(ConfigurationError) as caught:
        make_secret(tmp_path)
    assert [fault.where for fault in caught.value.faults] == ["DATA_DIR"]
    assert (tmp_path / "secret-key").read_bytes() == content


def test_unwritable_data_dir_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigurationError):
        make_secret(tmp_path / "file")
