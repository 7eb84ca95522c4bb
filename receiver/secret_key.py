"""The secret key that `serve` generates in its data folder if none is configured."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from receiver.errors import ConfigurationError, Fault

SECRET_LENGTH = 16
"""Minimum length of a secret key, in characters."""


def make_secret(data_dir: Path) -> str:
    """The secret of `data_dir`. The first start generates it: 43 characters, mode 0600. Raises as `read_secret`."""
    if not (path := data_dir / "secret-key").exists():
        try:
            _make_secret(path)
        except OSError as error:
            raise _no_secret(error) from None
    return read_secret(data_dir)


def read_secret(data_dir: Path) -> str:
    """The secret that `serve` generated. Raises ConfigurationError if it cannot be read, or is too short."""
    path = data_dir / "secret-key"
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _no_secret(error) from None
    if len(secret) < SECRET_LENGTH:
        # Signing with a key that can be guessed would be worse than not starting.
        raise _no_secret(f"{path} is truncated; restore it, or remove it if no results are expected any more")
    return secret


def _no_secret(why: OSError | UnicodeDecodeError | str) -> ConfigurationError:
    if isinstance(why, OSError):
        why = (
            f"{why.strerror}: {why.filename}. Start this as the account that owns DATA_DIR, or set DATA_DIR to a folder"
            " that this account may write to"
        )
    return ConfigurationError([Fault("DATA_DIR", "invalid", f"has no usable secret-key: {why}")])


def _make_secret(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # The name must not contain the process id: two containers that share a disk have the same ids.
    descriptor, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was faster: use its secret
            os.link(draft, path)
    finally:
        os.unlink(draft)
