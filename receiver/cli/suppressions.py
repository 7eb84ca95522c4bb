"""Commands for suppressions: suppress, unsuppress."""

from __future__ import annotations

import argparse
import sys

from receiver.changes.audit import COMMAND_LINE, NOTE_CHARACTERS
from receiver.cli.database import opened_database
from receiver.cli.running import Commands
from receiver.config import Config
from receiver.environment import read_config
from receiver.errors import Fault, InvalidInput
from receiver.model import masked
from receiver.phone_numbers.destination import DestinationError, parse, read_number
from receiver.queueing.suppression_files import read_numbers, suppress_file
from receiver.queueing.suppressions import REASON_CHARACTERS, suppress, unsuppress


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    adding = commands.add_parser(
        "suppress",
        help="never call a number again, or the numbers of a file",
        description="Suppresses a number, or the numbers of a CSV with a column `phone_number` and perhaps a column"
        " `reason`. Calls that were sent already continue.",
    )
    adding.add_argument(
        "number",
        metavar="NUMBER|FILE",
        help="a number in any format (without a country code of DEFAULT_REGION), or a CSV",
    )
    adding.add_argument("--reason", metavar="TEXT", help="why; of a file: for rows without a reason")
    adding.add_argument("--note", metavar="TEXT", help="a note for people; kept in the audit trail, too")
    adding.set_defaults(run=_suppress)
    removal = commands.add_parser("unsuppress", help="let a number be called again")
    removal.add_argument(
        "number", metavar="NUMBER", help="the number in any format; without a country code it is of DEFAULT_REGION"
    )
    removal.set_defaults(run=_unsuppress)


def _suppress(parsed: argparse.Namespace) -> int:
    for name, most in (("reason", REASON_CHARACTERS), ("note", NOTE_CHARACTERS)):
        text = getattr(parsed, name) or ""
        if len(text) > most or "\0" in text:
            raise InvalidInput(
                "Nothing was suppressed.", [Fault(f"--{name}", "too_long", f"At most {most} characters.")]
            )
    config = read_config()
    try:
        number = parse(parsed.number, config.default_region).phone_number
    except DestinationError as error:
        return _suppress_file(parsed, config, error)
    with opened_database("suppress", config) as conn:
        _, is_new = suppress(conn, number, by=COMMAND_LINE, reason=parsed.reason or None, note=parsed.note or None)
    print(f"{masked(number)} is {'not called any more' if is_new else 'already suppressed'}.")
    return 0


def _suppress_file(parsed: argparse.Namespace, config: Config, error: DestinationError) -> int:
    try:
        csv = open(parsed.number, "rb")
    except (OSError, ValueError):
        raise InvalidInput(
            "This is neither a valid number nor a file that can be read.",
            [Fault("NUMBER|FILE", error.code, str(error))],
        ) from None
    with csv:
        file = read_numbers(csv, config.default_region, parsed.reason or None)
    with opened_database("suppress", config) as conn:
        done = suppress_file(conn, file, by=COMMAND_LINE, note=parsed.note or None)
    for fault in done.errors:
        print(f"  row {fault.where}: {fault.message} ({fault.code})", file=sys.stderr)
    if done.invalid > len(done.errors):
        print(f"  and {done.invalid - len(done.errors)} more", file=sys.stderr)
    print(f"{done.added} added, {done.present} already suppressed, {done.invalid} not valid.")
    return 0


def _unsuppress(parsed: argparse.Namespace) -> int:
    config = read_config()
    number = read_number(parsed.number, config.default_region, "NUMBER")
    with opened_database("unsuppress", config) as conn:
        unsuppress(conn, number, by=COMMAND_LINE)
    print(f"{masked(number)} can be called again.")
    return 0
