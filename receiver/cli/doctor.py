"""The command `doctor`."""

from __future__ import annotations

import argparse
import sys
from collections import Counter

from receiver.cli.database import existing_database
from receiver.cli.running import Commands
from receiver.deploy_check import examine_deploy
from receiver.doctor import Level, examine, list_faults
from receiver.errors import ReceiverError

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
