"""Commands for a batch that is on its way: pause, resume, cancel."""

from __future__ import annotations

import argparse

from receiver.changes.audit import COMMAND_LINE, NOTE_CHARACTERS
from receiver.cli.database import opened_database
from receiver.cli.running import Commands
from receiver.release.control import cancel_batch, pause_batch, resume_batch


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    pause = commands.add_parser("pause", help="release nothing further of a batch until it is resumed")
    pause.set_defaults(run=_pause)
    resume = commands.add_parser("resume", help="continue a paused batch at its previous pace")
    resume.set_defaults(run=_resume)
    cancel = commands.add_parser(
        "cancel",
        help="withdraw everything of a batch that is not sent yet",
        description="This cannot be undone. Calls that were sent continue, because the provider cannot cancel a single"
        " batch.",
    )
    cancel.set_defaults(run=_cancel)
    for command in (pause, resume, cancel):
        command.add_argument("batch", metavar="BATCH", type=int, help="id of the batch")
        command.add_argument("--note", metavar="TEXT", type=_note, help="why; stored in the audit trail")


def _pause(parsed: argparse.Namespace) -> int:
    with opened_database("pause") as conn:
        changed = pause_batch(conn, parsed.batch, by=COMMAND_LINE, note=parsed.note)
    if changed:
        print(f"Batch {parsed.batch} is paused. Calls that were sent continue. Continue with `resume {parsed.batch}`.")
    else:
        print(f"Nothing changed: batch {parsed.batch} is paused already, or has nothing left to send.")
    return 0


def _resume(parsed: argparse.Namespace) -> int:
    with opened_database("resume") as conn:
        changed = resume_batch(conn, parsed.batch, by=COMMAND_LINE, note=parsed.note)
    print(f"Batch {parsed.batch} continues." if changed else f"Nothing changed: batch {parsed.batch} is not paused.")
    return 0


def _cancel(parsed: argparse.Namespace) -> int:
    with opened_database("cancel") as conn:
        canceled = cancel_batch(conn, parsed.batch, by=COMMAND_LINE, note=parsed.note)
    print(
        f"Batch {parsed.batch} is canceled: {canceled.withdrawn} calls withdrawn now; {canceled.at_provider} calls were"
        " sent before, have no result yet, and continue."
    )
    return 0


def _note(text: str) -> str:
    if not text.isprintable() or len(text) > NOTE_CHARACTERS:
        raise argparse.ArgumentTypeError(f"the note must be one line of at most {NOTE_CHARACTERS} characters")
    return text
