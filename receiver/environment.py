"""Read the environment into a `Config`, and check it.

`read_config` reports all faults at once (`ConfigurationError`), so that one restart is enough to correct them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import TypeVar, overload
from urllib.parse import urlsplit

import phonenumbers

from receiver.config import Config, Network
from receiver.errors import ConfigurationError, Fault
from receiver.logs import FORMATS, LEVELS
from receiver.model import EVENT_TYPES
from receiver.secret_key import SECRET_LENGTH

RESULT_URL_LENGTH = 255
"""Longest `result_url` that the provider stores completely (provider page: Queue multiple calls)."""

TOKEN_LENGTH = 80
"""Longest token: two numbers of at most 19 and 10 digits, two separators, and a signature of 43 characters."""

_Value = TypeVar("_Value")


def read_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read and check all variables. Raises ConfigurationError with all faults."""
    env = _Environment(os.environ if environ is None else environ)
    port = env.integer("PORT", 8000, 1, 65535)
    database_url = env.checked("DATABASE_URL", _postgres_url)
    database_replica_url = env.checked("DATABASE_REPLICA_URL", _postgres_url)
    if database_replica_url is not None and env.text("DATABASE_URL") is None:
        env.fault("DATABASE_REPLICA_URL", "needless", "needs DATABASE_URL: the embedded Postgres has no standby")
    plum_user, plum_key = env.text("PLUM_USER"), env.text("PLUM_KEY")
    if (plum_user is None) != (plum_key is None):
        missing = "PLUM_KEY" if plum_key is None else "PLUM_USER"
        env.fault(
            missing,
            "missing",
            "is not set, although the other of the two is; set both, or neither for the simulator",
        )
    secret_keys = tuple(key.strip() for key in (env.text("SECRET_KEY") or "").split(",") if key.strip())
    if env.text("DATABASE_URL") is not None and not secret_keys:
        env.fault(
            "SECRET_KEY",
            "missing",
            "is required with DATABASE_URL, and must be the same for every process; "
            'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    if any(len(key) < SECRET_LENGTH for key in secret_keys):
        env.fault("SECRET_KEY", "too_short", f"has a key of fewer than {SECRET_LENGTH} characters; use at least 32")
    config = Config(
        data_dir=Path(env.checked("DATA_DIR", _data_dir) or "var").absolute(),
        public_url=env.checked("PUBLIC_URL", _public_url) or f"http://127.0.0.1:{port}",
        port=port,
        database_url=database_url,
        database_replica_url=database_replica_url,
        replica_max_lag_seconds=env.integer("REPLICA_MAX_LAG", Config.replica_max_lag_seconds, 2, 3600),
        secret_keys=secret_keys,
        accepts_key_loss=env.choice("SECRET_KEY_LOSS", ("accept",)) is not None,
        plum_url=env.checked("PLUM_URL", _http_url) or Config.plum_url,
        plum_user=plum_user,
        plum_key=plum_key,
        plum_simulated=env.choice("PLUM_SIMULATED", ("0", "1", "false", "true")) in ("1", "true"),
        web_concurrency=env.integer("WEB_CONCURRENCY", os.cpu_count() or 1, 1, 256),
        web_threads=env.integer("WEB_THREADS", Config.web_threads, 1, 64),
        default_region=env.checked("DEFAULT_REGION", _region) or Config.default_region,
        submission_rows=env.integer("SUBMISSION_ROWS", Config.submission_rows, 1, 1_000_000),
        result_grace_seconds=env.integer("RESULT_GRACE", Config.result_grace_seconds, 0, 30 * 86400),
        retention_days=env.integer("RETENTION_DAYS", None, 1, 36500),
        notify_urls=env.checked("NOTIFY_URLS", _notify_urls) or Config.notify_urls,
        notify_events=env.checked("NOTIFY_EVENTS", _events) or Config.notify_events,
        relay_networks=env.checked("RELAY_NETWORKS", _networks) or Config.relay_networks,
        suppress_statuses=env.checked("SUPPRESS_STATUSES", _statuses) or Config.suppress_statuses,
        result_poll_rate=env.integer("RESULT_POLL_RATE", Config.result_poll_rate, 0, 100),
        rate_limit=env.integer("RATE_LIMIT", Config.rate_limit, 0, 1_000_000),
        spool_max_bytes=env.integer("SPOOL_MAX_BYTES", Config.spool_max_bytes, 1 << 20, 1 << 50),
        callback_budget=env.integer("CALLBACK_BUDGET", Config.callback_budget, 1, 1_000_000),
        trusted_proxies=env.checked("TRUSTED_PROXIES", _networks) or Config.trusted_proxies,
        result_sources=env.checked("RESULT_SOURCES", _networks) or Config.result_sources,
        metrics_key=env.text("METRICS_KEY"),
        security_contact=env.checked("SECURITY_CONTACT", _contact),
        bind=env.checked("BIND", _address) or Config.bind,
        stop_seconds=env.integer("STOP_SECONDS", Config.stop_seconds, 3, 3600),
        log_level=env.choice("LOG_LEVEL", LEVELS) or Config.log_level,
        log_format=env.choice("LOG_FORMAT", FORMATS),
    )
    if env.faults:
        raise ConfigurationError(env.faults)
    return config


class _Environment:
    """Reads variables, and collects all faults."""

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

    def choice(self, name: str, choices: tuple[str, ...]) -> str | None:
        value = (self.text(name) or "").lower()
        if value and value not in choices:
            self.fault(name, "invalid", f"is {value[:40]!r}; it must be one of {', '.join(choices)}")
        return value or None

    def checked(self, name: str, check: Callable[[str], _Value]) -> _Value | None:
        """The variable's value after `check`. A ValueError of `check` becomes a fault."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return check(value)
        except ValueError as error:
            self.fault(name, "invalid", str(error))
            return None


def _data_dir(value: str) -> str:
    path = Path(value).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not os.path.isdir(existing):
        raise ValueError(f"cannot be made: {existing} is no folder")
    return value


def _postgres_url(value: str) -> str:
    scheme = re.match(r"([a-z][a-z0-9+.-]*)://", value, re.IGNORECASE)
    if scheme[1] not in ("postgres", "postgresql") if scheme else "=" not in value:
        raise ValueError("must be a Postgres address such as postgresql://user:password@host/database")
    if scheme and not _is_encoded(value[scheme.end() :]):
        # libpq would refuse it, or mistake a part of the password for the host and repeat it in its message.
        raise ValueError(
            "cannot be read: special characters of a user, a password or a database's name must be percent-encoded "
            "(@ is %40, / is %2F, : is %3A, # is %23, ? is %3F, % is %25)"
        )
    return value


def _is_encoded(rest: str) -> bool:
    """Whether libpq reads the text after `postgresql://` correctly: `user:password@host:port/database?options`.

    libpq assumes that the first @ ends the password, and that the first / ends the address.
    """
    address, _, path = rest.partition("/")
    hosts = address.partition("@")[2].partition("?")[0]
    database = path.partition("?")[0]
    return "@" not in hosts and not re.search("[@/]", database) and not re.search("%(?![0-9A-Fa-f]{2})", rest)


def _http_url(value: str) -> str:
    """The address without its trailing slash. No message repeats it, because it may contain a password."""
    fault = "must be an http:// or https:// address without ? and #, in plain ASCII without spaces"
    if not re.fullmatch(r"[!-~]+", value) or "?" in value or "#" in value:
        raise ValueError(fault)
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(fault)
    if "@" in parts.netloc:
        raise ValueError("must not contain a user or a password")
    return value.rstrip("/")


def _public_url(value: str) -> str:
    value = _http_url(value)
    room = RESULT_URL_LENGTH - TOKEN_LENGTH - len("/results/")
    if len(value) > room:
        raise ValueError(
            f"is longer than {room} characters; the provider keeps only {RESULT_URL_LENGTH} of a result_url"
        )
    return value


def _address(value: str) -> str:
    try:
        return str(ip_address(value))
    except ValueError:
        raise ValueError("must be an address of this machine, such as 127.0.0.1, 0.0.0.0 or ::") from None


def _contact(value: str) -> str:
    if not re.fullmatch(r"(https://|mailto:)[!-~]+", value):
        raise ValueError("must be an address such as mailto:security@example.com or https://example.com/security")
    return value


def _statuses(value: str) -> frozenset[str]:
    found = frozenset(filter(None, (part.strip().lower() for part in value.split(","))))
    if not found:
        raise ValueError(f"is {value[:40]!r}; it must be a list of words separated by commas")
    return found


def _notify_urls(value: str) -> tuple[str, ...]:
    from apprise import Apprise  # it is slow to import

    urls = tuple(value.split())
    wrong = [str(number) for number, url in enumerate(urls, 1) if Apprise.instantiate(url) is None]
    if wrong:
        # An address contains secrets, so it is not repeated.
        raise ValueError(f"must be Apprise addresses, separated by spaces; not valid: number {', '.join(wrong)}")
    return urls


def _events(value: str) -> tuple[str, ...]:
    named = value.replace(",", " ").split()
    if unknown := [name[:40] for name in named if name not in EVENT_TYPES]:
        raise ValueError(f"contains {', '.join(map(repr, unknown[:5]))}; the events are {', '.join(EVENT_TYPES)}")
    return tuple(named)


def _networks(value: str) -> tuple[Network, ...]:
    found, wrong = [], []
    for part in filter(None, map(str.strip, value.split(","))):
        try:
            found.append(_network(part))
        except ValueError:
            wrong.append(repr(part[:50]))
    if wrong or not found:
        what = f"contains {', '.join(wrong[:5])}; it" if wrong else "is empty; it"
        raise ValueError(f"{what} must be a list of addresses or networks such as 10.0.0.7,192.168.0.0/24")
    return tuple(found)


def _network(value: str) -> Network:
    """Read a network. IPv4 written as IPv6 (`::ffff:192.0.2.0/120`) becomes IPv4, as the compared addresses do."""
    network = ip_network(value, strict=False)
    if isinstance(network, IPv6Network) and network.prefixlen >= 96 and (v4 := network.network_address.ipv4_mapped):
        return IPv4Network((v4, network.prefixlen - 96))
    return network


def _region(value: str) -> str:
    region = value.upper()
    if region not in phonenumbers.SUPPORTED_REGIONS:
        raise ValueError(f"is {value[:20]!r}; it must be a two-letter country code such as US or GB")
    return region
