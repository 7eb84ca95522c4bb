"""The secret key that `serve` generates into its data folder, where none is configured."""

from __future__ import annotations

import contextlib
import os
import secrets
import tempfile
from pathlib import Path

from receiver.errors import ConfigurationError, Fault

SECRET_LENGTH = 16
"""Fewest characters of a secret key."""


def make_secret(data_dir: Path) -> str:
    """The secret of `data_dir`, generated at the first start: 43 characters, mode 0600. Raises as `read_secret`."""
    if not (path := data_dir / "secret-key").exists():
        try:
            _make_secret(path)
        except OSError as error:
            raise _no_secret(error) from None
    return read_secret(data_dir)


def read_secret(data_dir: Path) -> str:
    """The secret that `serve` generated. Raises ConfigurationError if it cannot be read, or is no secret any more."""
    path = data_dir / "secret-key"
    try:
        secret = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise _no_secret(error) from None
    if len(secret) < SECRET_LENGTH:
        # To sign with what anybody can guess would be worse than not to start.
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
    # A name of its own, not one by process id: two containers on one disk have the same ids.
    descriptor, draft = tempfile.mkstemp(prefix=f"{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first: its secret holds
            os.link(draft, path)
    finally:
        os.unlink(draft)
