"""Commands that check a deployment: `doctor`, and `notify --test`, which notifies people."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from receiver.cli.database import existing_database
from receiver.cli.running import Commands
from receiver.deploy_check import examine_deploy
from receiver.doctor import Level, examine, list_faults
from receiver.environment import read_config
from receiver.errors import ConfigurationError, Fault, ReceiverError
from receiver.relay.people import send

_COLOURS: dict[Level, str] = {"ok": "32", "warning": "33", "failure": "31"}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="check everything that a deployment needs; exit 1 if a check fails",
        description="Checks configuration, database, clock, disk, worker, PUBLIC_URL and provider. Changes nothing, "
        "stores nothing, calls nobody. Run it on each machine, with the environment of the service. With --deploy, it "
        "proves that callbacks can be stored, and results verified, with these settings.",
    )
    parser.add_argument(
        "--deploy",
        action="store_true",
        help="for the release step: check only what a deploy must not break (journal, spool, SECRET_KEY, PUBLIC_URL)",
    )
    parser.set_defaults(run=_doctor)
    parser = commands.add_parser("notify", help="test the notification of people")
    parser.add_argument("--test", action="store_true", required=True, help="send a message to each of NOTIFY_URLS")
    parser.set_defaults(run=_notify)


def _doctor(parsed: argparse.Namespace) -> int:
    found: Counter[Level] = Counter()
    try:
        config, _ = existing_database(signs=True)
    except ReceiverError as error:
        findings, usable = list_faults(error), False
    else:
        findings, usable = examine_deploy(config) if parsed.deploy else examine(config), True
    for finding in findings:
        found[finding.level] += 1
        level = f"{finding.level:<8}"
        if sys.stdout.isatty():
            level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
        print(f"{level} {finding.subject:<14} {finding.message}", flush=True)
    print(f"{found['ok']} ok, {found['warning']} warnings, {found['failure']} failures.")
    if not usable:
        return 2
    return 1 if found["failure"] else 0


def _notify(_: argparse.Namespace) -> int:
    config = read_config()
    if not config.notify_urls:
        raise ConfigurationError([Fault("NOTIFY_URLS", "missing", "is not set; give it Apprise addresses")])
    text = f"The result_url receiver at {config.public_url} can notify you."
    faults = [send(url, "Test", text) for url in config.notify_urls]
    for number, (url, fault) in enumerate(zip(config.notify_urls, faults, strict=True), 1):
        print(f"Address {number} ({url.partition(':')[0]}): {'sent' if fault is None else f'FAILED: {fault}'}")
    return 1 if any(faults) else 0
