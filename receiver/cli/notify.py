"""`notify --test`: send a test message to each address of NOTIFY_URLS."""

from __future__ import annotations

import argparse

from receiver.cli.running import Commands
from receiver.environment import read_config
from receiver.errors import ConfigurationError, Fault
from receiver.relay.people import send


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("notify", help="test the notification of people")
    parser.add_argument("--test", action="store_true", required=True, help="send a message to each of NOTIFY_URLS")
    parser.set_defaults(run=_notify)


def _notify(_: argparse.Namespace) -> int:
    config = read_config()
    if not config.notify_urls:
        raise ConfigurationError([Fault("NOTIFY_URLS", "missing", "is not set; give it Apprise addresses")])
    text = f"The result_url receiver at {config.public_url} can notify you."
    faults = [send(url, "Test", text) for url in config.notify_urls]
    for number, (url, fault) in enumerate(zip(config.notify_urls, faults, strict=True), 1):
        print(f"Address {number} ({url.partition(':')[0]}): {'sent' if fault is None else f'FAILED: {fault}'}")
    return 1 if any(faults) else 0
