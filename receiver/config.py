"""The values of the configuration. receiver.environment reads them, and docs/configuration.md explains each."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv4Network, IPv6Network, ip_address
from pathlib import Path
from urllib.parse import urlsplit

Network = IPv4Network | IPv6Network

LOOPBACK = (IPv4Network("127.0.0.0/8"), IPv6Network("::1/128"))
"""A proxy on this machine."""

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
"""Host names and addresses of this machine itself."""


@dataclass(frozen=True)
class Config:
    """The values of the environment's variables. Durations are in seconds, sizes in bytes."""

    data_dir: Path
    public_url: str
    port: int
    database_url: str | None = field(default=None, repr=False)
    """None: an embedded Postgres under `data_dir`."""
    database_replica_url: str | None = field(default=None, repr=False)
    """A hot standby for reads. None: the primary answers all queries."""
    replica_max_lag_seconds: int = 10
    secret_keys: tuple[str, ...] = field(default=(), repr=False)
    """The first one signs, all verify. Empty: one is generated in `data_dir` (`make_secret`)."""
    accepts_key_loss: bool = False
    """Whether to start although `secret_keys` cannot verify all expected results."""
    plum_url: str = "https://fuse.plumvoice.com"
    plum_user: str | None = None
    plum_key: str | None = field(default=None, repr=False)
    plum_simulated: bool = False
    """Whether `plum_url` is a simulator, which calls nobody."""
    web_concurrency: int = 1
    web_threads: int = 2
    """Threads of a web process for the API and the dashboards. As many more are for long uploads and downloads."""
    default_region: str = "US"
    submission_rows: int = 10_000
    result_grace_seconds: int = 3600
    retention_days: int | None = None
    notify_urls: tuple[str, ...] = field(default=(), repr=False)
    """Apprise addresses of people who are notified."""
    notify_events: tuple[str, ...] = ()
    """Empty: all but `call.result`."""
    relay_networks: tuple[Network, ...] = ()
    """Private networks in which endpoints are allowed, also with plain http and on any port."""
    cors_origins: frozenset[str] = frozenset()
    """Origins whose pages may use the API with a key."""
    suppress_statuses: frozenset[str] = frozenset()
    """In lower case; a result with one of these statuses of the provider suppresses the number."""
    result_poll_rate: int = 5
    """Requests per second to the provider for overdue calls, by all workers together. 0: none."""
    spool_max_bytes: int = 1 << 30
    callback_budget: int = 64
    """Callbacks that are stored for each call of a submission. Each submission has at least 10,000."""
    rate_limit: int = 6000
    """Requests per minute with one API key to one web process. 0: no limit."""
    trusted_proxies: tuple[Network, ...] = LOOPBACK
    """The proxies whose `X-Forwarded-*` headers are trusted."""
    result_sources: tuple[Network, ...] = ()
    """The only networks that may request `/results/…`. Empty: everybody may."""
    metrics_key: str | None = field(default=None, repr=False)
    """The key that `/metrics` requires. None: anybody may read it."""
    security_contact: str | None = None
    """Where people report a vulnerability of this installation, for `/.well-known/security.txt`."""
    bind: str = "0.0.0.0"  # noqa: S104 containers and platforms connect from outside
    stop_seconds: int = 5
    """How long a stopping process may continue its work in progress."""
    log_level: str = "info"
    log_format: str | None = None
    """None: text on a terminal, JSON elsewhere."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The values that no log may contain."""
        return tuple(filter(None, (*self.secret_keys, self.plum_key, self.metrics_key, *self.notify_urls)))

    @property
    def has_provider(self) -> bool:
        """Whether provider credentials are set. Without them `serve` starts the simulator."""
        return self.plum_user is not None and self.plum_key is not None

    @property
    def batch_kind(self) -> bool | None:
        """Whether a batch that this process queues is simulated. None: the first worker that finds it decides.

        With an external database, a web process or a command may run without the worker's credentials. With the
        embedded one, `serve` has the same settings, and so starts the simulator.
        """
        if self.plum_simulated or self.has_provider:
            return self.plum_simulated
        return True if self.database_url is None else None

    @property
    def simulated(self) -> bool:
        """Whether batches are for a simulator: this process has no provider, or its provider is a simulator."""
        return self.plum_simulated or not self.has_provider

    @property
    def loses_results(self) -> bool:
        """Whether the provider is on another machine, but PUBLIC_URL is a loopback name, to which it cannot post."""
        provider, receiver = (urlsplit(url).hostname for url in (self.plum_url, self.public_url))
        return not self.simulated and provider not in LOOPBACK_NAMES and receiver in LOOPBACK_NAMES


def is_this_machine(host: str) -> bool:
    """Whether a name or an address always means this machine."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() in LOOPBACK_NAMES
