"""Commands that maintain what is stored: resolve, replay, purge, erase."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

from receiver.changes.audit import COMMAND_LINE
from receiver.cli.database import opened_database
from receiver.cli.progress import progress
from receiver.cli.running import Commands
from receiver.database.location import find_database
from receiver.database.pool import Connection
from receiver.environment import read_config
from receiver.errors import Fault, InvalidInput
from receiver.intake.spool import Spool
from receiver.model import masked
from receiver.phone_numbers.destination import read_number
from receiver.release.resolution import Doubt, get_doubt, resolve_submission
from receiver.results.erasure import Erased, count_calls, erase
from receiver.results.replay import replay_all
from receiver.results.retention import count_old, count_simulated, purge, purge_simulated
from receiver.results.stored_texts import renew_statistics
from receiver.simulator.settings import STATE_FILE
from receiver.simulator.store import forget_all, forget_number

_REPLAYED = ("applied", "duplicate", "conflict", "unmatched", "unreadable")
"""The states of callbacks that can be settled again."""

_COUNTED = ("calls", "contacts", "skipped", "callbacks", "texts", "drafts", "suppressions")


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    resolve = commands.add_parser(
        "resolve",
        help="resolve a submission whose answer was lost",
        description="States whether an `unknown` submission was queued. With --not-queued it is sent again: if it was "
        "queued after all, everybody in it is dialed twice. Look at the provider's own pages first.",
    )
    resolve.add_argument("batch", metavar="BATCH", type=int, help="id of the batch")
    resolve.add_argument(
        "submission", metavar="SUBMISSION", type=int, help="number of the submission in the batch, from 1"
    )
    said = resolve.add_mutually_exclusive_group(required=True)
    said.add_argument(
        "--queued", action="store_true", dest="queued", help="the provider queued it; it becomes accepted"
    )
    said.add_argument(
        "--not-queued", action="store_false", dest="queued", help="the provider did not queue it; it is sent again"
    )
    resolve.add_argument("--note", required=True, metavar="TEXT", help="how you know; stored with your name")
    resolve.add_argument("--by", metavar="NAME", help="your name; default: the name of your account")
    resolve.add_argument("--yes", action="store_true", help="do not ask")
    resolve.set_defaults(run=_resolve)

    parser = commands.add_parser("replay", help="settle stored callbacks again")
    parser.add_argument("ids", metavar="ID", nargs="*", type=int, help="callbacks to settle again")
    parser.add_argument("--state", choices=_REPLAYED, help="all callbacks in this state")
    parser.add_argument("--dry-run", action="store_true", help="only show what would change")
    parser.set_defaults(run=_replay)

    removal = commands.add_parser("purge", help="delete old or simulated batches with all their data")
    chosen = removal.add_mutually_exclusive_group()
    chosen.add_argument("--older-than", metavar="DAYS", type=_days, help="default: RETENTION_DAYS")
    chosen.add_argument("--simulated", action="store_true", help="delete all simulated batches instead")
    removal.add_argument("--dry-run", action="store_true", help="only show what would be deleted")
    removal.set_defaults(run=_purge)

    erasure = commands.add_parser("erase", help="erase one phone number; counts do not change")
    erasure.add_argument(
        "number", metavar="NUMBER", help="the number in any format; without a country code it is of DEFAULT_REGION"
    )
    erasure.add_argument("--dry-run", action="store_true", help="only show what would be erased")
    erasure.add_argument("--yes", action="store_true", help="do not ask")
    erasure.set_defaults(run=_erase)


def _resolve(parsed: argparse.Namespace) -> int:
    by = parsed.by or _account()
    with opened_database("resolve") as conn:
        doubt = get_doubt(conn, parsed.batch, parsed.submission)
        conn.rollback()
        if not parsed.yes:
            _confirm(doubt, queued=parsed.queued)
        state = resolve_submission(conn, parsed.batch, parsed.submission, queued=parsed.queued, note=parsed.note, by=by)
    meaning = {
        "accepted": "Its results are expected.",
        "pending": "A worker sends it again.",
        "refused": "Its time window has ended, so nobody is called.",
        "withdrawn": "Its batch was canceled, or no call of it is left: nobody is called.",
    }
    print(f"Submission {parsed.submission} of batch {parsed.batch} is {state} now. {meaning[state]}")
    return 0


def _confirm(doubt: Doubt, *, queued: bool) -> None:
    sent = "" if doubt.sent_at is None else f" was sent at {doubt.sent_at:%Y-%m-%dT%H:%M:%SZ} and"
    where = f"application {doubt.application_id}, deployment {doubt.deployment_id}"
    print(
        f"Submission {doubt.submission_no} of batch {doubt.batch_id}, {doubt.calls} calls for {where},{sent} was never"
        f" answered: {doubt.error}",
        file=sys.stderr,
    )
    if queued:
        ask("If it was not queued, nobody is called and its calls become overdue.")
    else:
        ask(f"IF IT WAS QUEUED AFTER ALL, ALL {doubt.calls} PEOPLE ARE DIALED TWICE.")


def ask(consequence: str) -> None:
    """Say what happens, and continue only if a person types yes. Otherwise raises InvalidInput."""
    print(consequence, file=sys.stderr)
    if not sys.stdin.isatty():
        raise InvalidInput(
            "This needs your confirmation.",
            [Fault("--yes", "required", "Add --yes, or run the command in a terminal.")],
        )
    print("Type yes to continue: ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() != "yes":
        raise InvalidInput("Nothing was changed.", code="not_confirmed")


def _account() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # the account of a container may have no name
        return f"uid {os.getuid()}"


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


def _purge(parsed: argparse.Namespace) -> int:
    config = read_config()
    days = config.retention_days if parsed.older_than is None else parsed.older_than
    if days is None and not parsed.simulated:
        raise InvalidInput(
            "The age is missing.", [Fault("--older-than", "required", "Give DAYS, or set RETENTION_DAYS.")]
        )
    age = timedelta(days=days or 0)
    with opened_database("purge", config) as conn:
        old = count_simulated(conn) if parsed.simulated else count_old(conn, age)
        conn.rollback()
        late = f"; {old.late_callbacks} late callbacks of purged batches" if old.late_callbacks else ""
        chosen = "simulated batches" if parsed.simulated else f"batches older than {days} days"
        what = f"{old.batches} {chosen}, with {old.calls} calls and {old.callbacks} callbacks"
        if parsed.dry_run:
            print(f"Would purge {what}{late}.")
            return 0
        ended = rows = 0
        removals = purge_simulated(conn, by=COMMAND_LINE) if parsed.simulated else purge(conn, age, by=COMMAND_LINE)
        with progress() as show:
            for removed in removals:
                conn.commit()
                ended, rows = ended + removed.ended, rows + removed.rows
                show(f"batch {removed.batch_id}: {rows} rows removed")
    if parsed.simulated:
        forget_all(find_database(config)[0].data_dir / STATE_FILE)
    print(f"Purged {what}{late}: {rows} rows under {ended} batches.")
    return 0


def _erase(parsed: argparse.Namespace) -> int:
    config = read_config()
    phone_number = read_number(parsed.number, config.default_region, "NUMBER")
    shown = masked(phone_number)
    config, _ = find_database(config)  # the spool is in the folder that is used instead of DATA_DIR
    spool_file = config.data_dir / "spool.sqlite3"
    with closing(Spool(spool_file, config.spool_max_bytes)) as spool, opened_database("erase", config) as conn:
        if not (parsed.dry_run or parsed.yes):
            calls, batches = count_calls(conn, phone_number)
            conn.rollback()
            ask(
                f"{calls} calls in {batches} batches are to {shown}. The number is erased permanently from them and"
                " from everything else that contains it. Counts and outcomes do not change."
            )
        pieces = erase(conn, phone_number, spool.callbacks(), by=COMMAND_LINE)
        total = _erase_pieces(conn, pieces, dry_run=parsed.dry_run)
        renewed = parsed.dry_run or total == Erased() or renew_statistics(conn)
    forgotten = 0 if parsed.dry_run else forget_number(config.data_dir / STATE_FILE, phone_number)
    if total == Erased() and not forgotten:
        print(f"Nothing contains {shown}, so nothing {'would be' if parsed.dry_run else 'was'} erased.")
        return 0
    print(f"{'Would erase' if parsed.dry_run else 'Erased'} {shown}: {_counted(total)}.")
    if not renewed:
        print(
            "The statistics of Postgres may still contain it: run `analyze` in the database as the owner of the tables."
        )
    if total.awaited:
        print(
            f"{total.awaited} of these calls have no result yet. A later callback for them contains the number again:"
            " erase it again after that."
        )
    return 0


def _erase_pieces(conn: Connection, pieces: Iterator[Erased], *, dry_run: bool) -> Erased:
    """Commit each piece, or roll it back, and show the progress on a terminal."""
    total = Erased()
    with progress() as show:
        for piece in pieces:
            if dry_run:
                conn.rollback()
            else:
                conn.commit()
            total += piece
            show(f"{total.searched:,} rows and bodies searched: {_counted(total)}")
    return total


def _counted(total: Erased) -> str:
    return ", ".join(f"{name} {getattr(total, name)}" for name in _COUNTED)


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > 5 or int(text) > 36500:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of days from 0 to 36500")
    return int(text)
