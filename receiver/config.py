"""The configuration's values. receiver.environment reads them; docs/configuration.md says what each means."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network

LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""A proxy on this machine."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Hosts of an address that mean the machine that asks."""


@dataclass(frozen=True)
class Config:
    """What the environment says. Durations in seconds, sizes in bytes."""

    data_dir: Path
    public_url: str
    port: int
    database_url: str | None = field(default=None, repr=False)
    """None: an embedded Postgres under `data_dir`."""
    database_replica_url: str | None = field(default=None, repr=False)
    """A hot standby that is read from; None: everything is asked of the primary."""
    replica_max_lag_seconds: int = 10
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    """The first signs, all verify. Empty: to be generated into `data_dir` (`make_secret`)."""
    accepts_key_loss: bool = False
    """Whether to start although results are expected that `secret_keys` cannot verify."""
    plum_url: str = "https://fuse.plumvoice.com"
    plum_user: str | None = None
    plum_key: str | None = field(default=None, repr=False)
    plum_simulated: bool = False
    """Whether `plum_url` is a simulator, which calls nobody."""
    web_concurrency: int = 1
    web_threads: int = 2
    """Threads of a web process for the API and the dashboards; as many again for long uploads and downloads."""
    default_region: str = "US"
    submission_rows: int = 10_000
    result_grace_seconds: int = 3600
    retention_days: int | None = None
    suppress_statuses: frozenset[str] = frozenset()
    """In lower case; a result with one of these statuses of the provider suppresses the number."""
    result_poll_rate: int = 5
    """Overdue calls that the provider is asked about in a second, among all workers; 0: none."""
    spool_max_bytes: int = 1 << 30
    callback_budget: int = 64
    """Callbacks that are stored for each call of a submission; at least 10,000 for the submission."""
    rate_limit: int = 6000
    """Requests a minute with one API key to one web process; 0: any number."""
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    """Whose `X-Forwarded-*` headers are believed."""
    result_sources: tuple[Network, ...] = ()
    """Who alone may ask for `/results/…`; empty: everybody."""
    metrics_key: str | None = field(default=None, repr=False)
    """What `/metrics` is asked with; None: anybody may ask."""
    bind: str = "0.0.0.0"  # noqa: S104 containers and platforms reach it from outside; a proxy beside it need not
    stop_seconds: int = 5
    """How long a web process that is told to stop goes on answering what is under way."""
    log_level: str = "info"
    log_format: str | None = None
    """None: text on a terminal, JSON elsewhere."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """What must stand in no log."""
        return tuple(secret for secret in (*self.secret_keys, self.plum_key, self.metrics_key) if secret)

    @property
    def has_provider(self) -> bool:
        """Whether provider credentials are set; without them `serve` starts the simulator."""
        return self.plum_user is not None and self.plum_key is not None

    @property
    def batch_kind(self) -> bool | None:
        """Whether a batch that this process takes is simulated; None: its first worker decides.

        With a database of its own, a web process or a command may run without the credentials that the worker has. With
        the embedded one, `serve` has these same settings, and so starts the simulator.
        """
        if self.plum_simulated or self.has_provider:
            return self.plum_simulated
        return True if self.database_url is None else None

    @property
    def simulated(self) -> bool:
        """Whether batches are made for a simulator: this process has no provider, or is told that it is none."""
        return self.plum_simulated or not self.has_provider

    @property
    def loses_results(self) -> bool:
        """Whether a provider elsewhere is told to post results to a name that means its own machine."""
        asked = urlsplit(self.plum_url).hostname
        return (
            not self.simulated and asked not in LOOPBACK_NAMES and urlsplit(self.public_url).hostname in LOOPBACK_NAMES
        )


def is_this_machine(host: str) -> bool:
    """Whether a name or an address means the machine that uses it."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES
