"""Configuration: the environment, read once, checked whole.

`Config.from_env` names every fault at once (`ConfigurationError`), so that nobody fixes a
deployment one restart at a time. docs/configuration.md says what each variable means.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import overload
from urllib.parse import urlsplit

import phonenumbers

from receiver.errors import ConfigurationError, Fault

RESULT_URL_LENGTH = 255
"""Longest `result_url` the provider keeps whole (provider page: Queue multiple calls)."""

TOKEN_LENGTH = 80
"""Longest token: two numbers of at most 19 and 10 digits, two separators, 43 characters of signature."""


@dataclass(frozen=True)
class Config:
    """What the environment says. Durations in seconds, sizes in bytes."""

    data_dir: Path
    public_url: str
    port: int
    database_url: str | None = field(default=None, repr=False)
    """None: an embedded Postgres under `data_dir`."""
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    """The first signs, all verify. Empty: to be generated into `data_dir` (`with_secret`)."""
    plum_url: str = "https://fuse.plumvoice.com"
    plum_user: str | None = None
    plum_key: str | None = field(default=None, repr=False)
    web_concurrency: int = 1
    default_region: str = "US"
    submission_rows: int = 10_000
    result_grace_seconds: int = 3600
    retention_days: int | None = None
    spool_max_bytes: int = 1 << 30

    @property
    def has_provider(self) -> bool:
        """Whether provider credentials are set; without them `serve` starts the simulator."""
        return self.plum_user is not None and self.plum_key is not None

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Config:
        """Read and check everything. Raises ConfigurationError naming all faults."""
        env = _Environment(os.environ if environ is None else environ)
        port = env.integer("PORT", 8000, 1, 65535)
        database_url = env.checked("DATABASE_URL", _postgres_url)
        plum_user, plum_key = env.text("PLUM_USER"), env.text("PLUM_KEY")
        if (plum_user is None) != (plum_key is None):
            missing = "PLUM_KEY" if plum_key is None else "PLUM_USER"
            env.fault(
                missing,
                "missing",
                "is not set, but its other half is; set both, or neither for the simulator",
            )
        secret_keys = tuple(key.strip() for key in (env.text("SECRET_KEY") or "").split(",") if key.strip())
        if database_url is not None and not secret_keys:
            env.fault(
                "SECRET_KEY",
                "missing",
                "is required with DATABASE_URL, and must be the same for every process; "
                'make one with: python -c "import secrets; print(secrets.token_urlsafe(32))"',
            )
        if any(len(key) < 16 for key in secret_keys):
            env.fault("SECRET_KEY", "too_short", "holds a key of fewer than 16 characters; use at least 32")
        config = cls(
            data_dir=Path(env.text("DATA_DIR") or "var").absolute(),
            public_url=env.checked("PUBLIC_URL", _public_url) or f"http://127.0.0.1:{port}",
            port=port,
            database_url=database_url,
            secret_keys=secret_keys,
            plum_url=env.checked("PLUM_URL", _http_url) or cls.plum_url,
            plum_user=plum_user,
            plum_key=plum_key,
            web_concurrency=env.integer("WEB_CONCURRENCY", os.cpu_count() or 1, 1, 256),
            default_region=env.checked("DEFAULT_REGION", _region) or cls.default_region,
            submission_rows=env.integer("SUBMISSION_ROWS", cls.submission_rows, 1, 1_000_000),
            result_grace_seconds=env.integer("RESULT_GRACE", cls.result_grace_seconds, 0, 30 * 86400),
            retention_days=env.integer("RETENTION_DAYS", None, 1, 36500),
            spool_max_bytes=env.integer("SPOOL_MAX_BYTES", cls.spool_max_bytes, 1 << 20, 1 << 50),
        )
        if env.faults:
            raise ConfigurationError(env.faults)
        return config


def read_secret(data_dir: Path) -> str:
    """The secret generated into `data_dir` at the first start: 43 characters, file mode 0600."""
    path = data_dir / "secret-key"
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        data_dir.mkdir(parents=True, exist_ok=True)
        draft = path.with_suffix(f".{os.getpid()}")
        descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(32) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # fails where another process was first: then its secret holds
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text().strip()


class _Environment:
    """Reads variables and gathers what is wrong with them, instead of stopping at the first."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ
        self.faults: list[Fault] = []

    def fault(self, name: str, code: str, message: str) -> None:
        self.faults.append(Fault(name, code, message))

    def text(self, name: str) -> str | None:
        value = self._environ.get(name, "").strip()
        return value or None

    @overload
    def integer(self, name: str, default: int, low: int, high: int) -> int: ...
    @overload
    def integer(self, name: str, default: None, low: int, high: int) -> int | None: ...
    def integer(self, name: str, default: int | None, low: int, high: int) -> int | None:
        value = self.text(name)
        if value is None:
            return default
        if not value.isascii() or not value.isdigit() or len(value) > 18 or not low <= int(value) <= high:
            self.fault(name, "invalid", f"is {value[:40]!r}; it must be a whole number from {low} to {high}")
            return default
        return int(value)

    def checked(self, name: str, check: Callable[[str], str]) -> str | None:
        """The variable as `check` returns it; a ValueError of `check` becomes a fault."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return check(value)
        except ValueError as error:
            self.fault(name, "invalid", str(error))
            return None


def _postgres_url(value: str) -> str:
    scheme = value.partition("://")[0]
    if scheme not in ("postgres", "postgresql") and "=" not in value:
        raise ValueError("must be a Postgres address such as postgresql://user:password@host/database")
    return value


def _http_url(value: str) -> str:
    parts = urlsplit(value)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise ValueError("must be an http:// or https:// address without ? and #")
    if parts.username or parts.password:
        raise ValueError("must not hold a user or a password")
    return value.rstrip("/")


def _public_url(value: str) -> str:
    value = _http_url(value)
    room = RESULT_URL_LENGTH - TOKEN_LENGTH - len("/results/")
    if len(value) > room:
        raise ValueError(
            f"is longer than {room} characters; the provider keeps only {RESULT_URL_LENGTH} of a result_url"
        )
    return value


def _region(value: str) -> str:
    region = value.upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"is {value[:20]!r}; it must be a two-letter country code such as US or GB")
    return region
