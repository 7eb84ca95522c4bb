"""Commands for the journal: replay."""

from __future__ import annotations

import argparse

from receiver.changes.audit import COMMAND_LINE
from receiver.cli.database import opened_database
from receiver.cli.running import Commands
from receiver.environment import read_config
from receiver.errors import Fault, InvalidInput
from receiver.results.replay import replay_all

_STATES = ("applied", "duplicate", "conflict", "unmatched", "unreadable")


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("replay", help="settle stored callbacks again")
    parser.add_argument("ids", metavar="ID", nargs="*", type=int, help="callbacks to settle again")
    parser.add_argument("--state", choices=_STATES, help="all callbacks in this state")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.set_defaults(run=_replay)


def _replay(parsed: argparse.Namespace) -> int:
    if bool(parsed.ids) == bool(parsed.state):
        raise InvalidInput("Choose the callbacks: give either ids or --state.", [Fault("ID", "required", "or --state")])
    seen = changed = 0
    config = read_config()
    with opened_database("replay", config) as conn:
        for done in replay_all(
            conn,
            by=COMMAND_LINE,
            ids=parsed.ids or None,
            state=parsed.state,
            dry_run=parsed.dry_run,
            suppress_statuses=config.suppress_statuses,
        ):
            for change in done.changes:
                why = change.reason_after or change.difference
                reason = f" ({why})" if why else ""
                row = f", row {change.row_after}" if change.row_after is not None else ""
                print(
                    f"callback {change.callback_id}, batch {change.batch_id}{row}: "
                    f"{change.state_before} -> {change.state_after}{reason}"
                )
            seen, changed = seen + len(done.callback_ids), changed + len(done.changes)
    verb = "would change" if parsed.dry_run else "changed"
    print(f"{seen} callbacks settled again; {changed} {verb}.")
    return 0
