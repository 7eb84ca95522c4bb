"""Read the environment into a `Config`, and check it.

`read_config` reports all faults at once (`ConfigurationError`), so that one restart is enough to correct them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path
from typing import Any
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


def read_config(environ: Mapping[str, str] | None = None) -> Config:
    """Read and check all variables. Raises ConfigurationError with all faults."""
    read = os.environ if environ is None else environ
    texts = {variable: read.get(variable, "").strip() for variable in VARIABLES}
    given: dict[str, Any] = {}
    faults: list[Fault] = []
    for variable, check in VARIABLES.items():
        if text := texts[variable]:
            try:
                given[_FIELDS.get(variable, variable.lower())] = check(text)
            except ValueError as error:
                faults.append(Fault(variable, "invalid", str(error)))
    if texts["DATABASE_REPLICA_URL"] and not texts["DATABASE_URL"]:
        message = "needs DATABASE_URL: the embedded Postgres has no standby"
        faults.append(Fault("DATABASE_REPLICA_URL", "needless", message))
    if ("plum_user" in given) != ("plum_key" in given):
        message = "is not set, although the other of the two is; set both, or neither for the simulator"
        faults.append(Fault("PLUM_USER" if "plum_key" in given else "PLUM_KEY", "missing", message))
    secret_keys = given.get("secret_keys", ())
    if texts["DATABASE_URL"] and not secret_keys:
        message = "is required with DATABASE_URL, and must be the same for every process; "
        message += 'make one with: python3 -c "import secrets; print(secrets.token_urlsafe(32))"'
        faults.append(Fault("SECRET_KEY", "missing", message))
    if any(len(key) < SECRET_LENGTH for key in secret_keys):
        message = f"has a key of fewer than {SECRET_LENGTH} characters; use at least 32"
        faults.append(Fault("SECRET_KEY", "too_short", message))
    if faults:
        raise ConfigurationError(faults)
    port = given.setdefault("port", 8000)
    given.setdefault("data_dir", Path("var").absolute())
    given.setdefault("public_url", f"http://127.0.0.1:{port}")
    given.setdefault("web_concurrency", os.cpu_count() or 1)
    return Config(**given)


def _whole(low: int, high: int) -> Callable[[str], int]:
    def check(value: str) -> int:
        if value.isascii() and value.isdigit() and len(value) <= 18 and low <= int(value) <= high:
            return int(value)
        raise ValueError(f"is {value[:40]!r}; it must be a whole number from {low} to {high}")

    return check


def _one_of(*choices: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        if value.lower() in choices:
            return value.lower()
        raise ValueError(f"is {value[:40]!r}; it must be one of {', '.join(choices)}")

    return check


def _secret_keys(value: str) -> tuple[str, ...]:
    return tuple(key.strip() for key in value.split(",") if key.strip())


def _data_dir(value: str) -> Path:
    path = Path(value).absolute()
    existing = next(folder for folder in (path, *path.parents) if os.path.exists(folder))
    if not os.path.isdir(existing):
        raise ValueError(f"cannot be made: {existing} is no folder")
    return path


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


def _origins(value: str) -> frozenset[str]:
    """In the form that browsers send: in lower case, without a path and without the scheme's own port."""
    found = frozenset(part.lower().rstrip("/") for part in re.split(r"[,\s]+", value) if part)
    if not found or not all(re.fullmatch(r"(?!http:.*:80$|https:.*:443$)https?://[^/?#@*]+", each) for each in found):
        raise ValueError("must be a list of origins such as https://crm.example.com,http://localhost:3000")
    return found


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


VARIABLES: dict[str, Callable[[str], Any]] = {
    "PORT": _whole(1, 65535),
    "DATABASE_URL": _postgres_url,
    "DATABASE_REPLICA_URL": _postgres_url,
    "DATA_DIR": _data_dir,
    "PUBLIC_URL": _public_url,
    "REPLICA_MAX_LAG": _whole(2, 3600),
    "SECRET_KEY": _secret_keys,
    "SECRET_KEY_LOSS": lambda value: _one_of("accept")(value) == "accept",
    "PLUM_URL": _http_url,
    "PLUM_USER": str,
    "PLUM_KEY": str,
    "PLUM_SIMULATED": lambda value: _one_of("0", "1", "false", "true")(value) in ("1", "true"),
    "WEB_CONCURRENCY": _whole(1, 256),
    "WEB_THREADS": _whole(1, 64),
    "DEFAULT_REGION": _region,
    "SUBMISSION_ROWS": _whole(1, 1_000_000),
    "RESULT_GRACE": _whole(0, 30 * 86400),
    "RETENTION_DAYS": _whole(1, 36500),
    "NOTIFY_URLS": _notify_urls,
    "NOTIFY_EVENTS": _events,
    "RELAY_NETWORKS": _networks,
    "CORS_ORIGINS": _origins,
    "SUPPRESS_STATUSES": _statuses,
    "RESULT_POLL_RATE": _whole(0, 100),
    "RATE_LIMIT": _whole(0, 1_000_000),
    "SPOOL_MAX_BYTES": _whole(1 << 20, 1 << 50),
    "CALLBACK_BUDGET": _whole(1, 1_000_000),
    "TRUSTED_PROXIES": _networks,
    "RESULT_SOURCES": _networks,
    "METRICS_KEY": str,
    "SECURITY_CONTACT": _contact,
    "BIND": _address,
    "STOP_SECONDS": _whole(3, 3600),
    "LOG_LEVEL": _one_of(*LEVELS),
    "LOG_FORMAT": _one_of(*FORMATS),
}
"""Each variable, and the function that checks and converts it. A variable that is not set, or empty, has the default of
`Config`."""

_FIELDS = {
    "REPLICA_MAX_LAG": "replica_max_lag_seconds",
    "SECRET_KEY": "secret_keys",
    "SECRET_KEY_LOSS": "accepts_key_loss",
    "RESULT_GRACE": "result_grace_seconds",
}
"""The fields of `Config` that do not have the name of their variable."""
