"""Commands for batches: queue, status, export, verify."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Collection
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

import psycopg

from receiver.changes.audit import COMMAND_LINE
from receiver.cli.database import opened_database, opened_pool
from receiver.cli.progress import progress
from receiver.cli.running import Commands
from receiver.config import Config
from receiver.database.pool import Connection, DatabaseUnavailable, in_one_line
from receiver.database.replica import Reader
from receiver.environment import read_config
from receiver.errors import Fault, InvalidInput
from receiver.queueing.acceptance import Limits, accept, preview, recent_calls
from receiver.queueing.batches import Preview
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.queueing.suppressions import find_suppressed
from receiver.queueing.workbook import opened_csv
from receiver.summary.batches import Batch, get_batch
from receiver.summary.export import export_calls_csv, export_calls_ndjson
from receiver.summary.submissions import describe_missing
from receiver.summary.verify import verify

WATCH_SECONDS = 0.5

STANDARD_INPUT = Path("-")
"""For a command that runs as another account, which cannot read the caller's files."""

_EXPORTS = {"csv": export_calls_csv, "ndjson": export_calls_ndjson}

_OPTIONS = {
    "name": "name shown in lists; default: the file's name, or of a follow-up the earlier batch's",
    "start-timestamp": "when dialing may begin: Unix seconds or RFC 3339; default: now",
    "end-timestamp": "when dialing must stop",
    "max-attempts": "attempts per number, 1 to 10",
    "reattempt-wait": "seconds between attempts, 60 to 86400",
    "is-pci": "1: run connected calls in the provider's HIPAA/PCI environment",
    "destination-column": "column of the numbers, if it is not the first one, named `destination`",
    "default-region": "country of numbers without a country code",
    "on-invalid": "refuse (default) or skip invalid rows",
    "on-duplicate": "refuse (default), skip or keep repeated destinations",
    "on-recent": "allow (default), skip or refuse numbers that were queued recently",
    "recent-hours": "how many hours count as recent, 1 to 720; default: 24",
    "calls-per-minute": "the pace: release at most this many calls in any 60 seconds",
    "calling-hours": "release calls only between these local times of the callee, such as 09:00-21:00",
    "calling-days": "and only on these days, such as mon,tue; default: every day",
    "time-zone": "time zone of all rows, such as America/New_York; default: the zones of each number",
    "time-zone-column": "column of the CSV with the time zone of each row",
    "external-id": "your own name for the batch; it must be unique",
    "labels": "your own labels, as a JSON object of texts",
}


def add_commands(commands: Commands[argparse.ArgumentParser]) -> None:
    queue = commands.add_parser("queue", help="queue a CSV of contacts")
    queue.add_argument(
        "csv",
        metavar="CSV",
        type=Path,
        help="CSV, .xlsx or .ods file with a column `destination`, or see --destination-column; - for standard input",
    )
    add_parameters(queue, required=True)
    queue.add_argument("--watch", action="store_true", help="keep running and show results as they arrive")
    queue.set_defaults(run=_queue)
    status = commands.add_parser("status", help="show the state and counts of a batch")
    status.add_argument("batch", metavar="BATCH", type=int, help="id of the batch")
    status.add_argument("--watch", action="store_true", help="keep running until every call has ended or is overdue")
    status.set_defaults(run=_status)
    export = commands.add_parser("export", help="write a batch's calls and their results to standard output")
    export.add_argument("batch", metavar="BATCH", type=int, help="id of the batch")
    export.add_argument("--format", choices=sorted(_EXPORTS), default="csv", help="default: %(default)s")
    export.add_argument(
        "--latest", action="store_true", help="each row with the result that it reached through its follow-ups"
    )
    export.set_defaults(run=_export)
    check = commands.add_parser("verify", help="recompute every counter from the rows; exit 1 if any differs")
    check.add_argument("batch", metavar="BATCH", type=int, nargs="?", help="id of the batch; default: all batches")
    check.set_defaults(run=_verify)


def add_parameters(command: argparse.ArgumentParser, *, required: bool, without: Collection[str] = ()) -> None:
    """Add the options of a new batch. `required`: whether the provider's ids are."""
    for name in ("application", "deployment"):
        command.add_argument(f"--{name}", required=required, metavar="N", dest=f"{name}_id", help="the provider's id")
    for option, help_text in _OPTIONS.items():
        if option not in without:
            command.add_argument(f"--{option}", default="", metavar="X", help=help_text)
    command.add_argument("--dry-run", action="store_true", help="only show what would be queued")


def given_parameters(parsed: argparse.Namespace) -> dict[str, str]:
    names = ("application_id", "deployment_id", *(option.replace("-", "_") for option in _OPTIONS))
    return {name: text for name in names if (text := getattr(parsed, name, ""))}


def _queue(parsed: argparse.Namespace) -> int:
    config = read_config()
    limits = limits_of(config)
    from_input = parsed.csv == STANDARD_INPUT
    file_name = "standard input" if from_input else parsed.csv.name
    parameters = read_parameters(given_parameters(parsed), config.default_region, file_name)
    try:
        csv = _standard_input() if from_input else parsed.csv.open("rb")
    except OSError as error:
        raise InvalidInput(
            "The CSV cannot be read.", [Fault(str(parsed.csv), "unreadable", error.strerror or "cannot be read")]
        ) from None
    with csv, opened_csv(csv) as text:
        if parsed.dry_run:
            return _preview(text, parameters, limits, config)
        with opened_database("queue", config) as conn:
            try:
                accepted = accept(conn, text, parameters, limits, created_by=COMMAND_LINE)
                conn.commit()
            except psycopg.OperationalError as error:
                if not conn.closed:
                    raise
                # The commit may have succeeded although the connection was lost.
                raise DatabaseUnavailable(
                    f"The database connection was lost: {in_one_line(error)}. The batch may have been stored and will"
                    " then be sent: check the list of batches before you queue it again."
                ) from error
            where = " to the simulator" if config.plum_simulated else ""
            print(f"Batch {accepted.batch_id} is stored; a worker sends it{where}.", flush=True)
            if parsed.watch:
                try:
                    return _watch(conn, accepted.batch_id)
                except (psycopg.OperationalError, DatabaseUnavailable) as error:
                    raise DatabaseUnavailable(
                        f"Batch {accepted.batch_id} is stored, but the database is unavailable: "
                        f"{in_one_line(error)}. Do not queue it again; check it later with"
                        f" `status {accepted.batch_id}`."
                    ) from error
    return 0


def limits_of(config: Config) -> Limits:
    return Limits(config.submission_rows, config.result_grace_seconds, config.batch_kind)


def _preview(csv: IO[bytes], parameters: BatchParameters, limits: Limits, config: Config) -> int:
    with ExitStack() as stack:
        try:
            conn = stack.enter_context(opened_database("queue", config))
            find_recent = partial(recent_calls(parameters, limits).find, conn)
            seen = preview(csv, parameters, limits, partial(find_suppressed, conn), find_recent)
        except DatabaseUnavailable as error:
            print(f"receiver: suppressed and recent numbers are not checked: {error}", file=sys.stderr)
            seen = preview(csv, parameters, limits)
    show_preview(seen)
    return 0


def show_preview(seen: Preview) -> None:
    suppressed = f", {seen.suppressed} suppressed" if seen.suppressed else ""
    print(f"{seen.rows} rows: {seen.valid} valid, {seen.invalid} invalid, {seen.duplicates} duplicates{suppressed}")
    print(f"{seen.submissions} submissions; results are due at {seen.due_at:%Y-%m-%dT%H:%M:%SZ}")
    for zone in seen.zones:
        names = zone.time_zone.split(",")
        named = ", ".join(names[:3]) + (f" and {len(names) - 3} others" if len(names) > 3 else "")
        opens = "never opens" if zone.opens_at is None else f"opens at {zone.opens_at:%Y-%m-%dT%H:%M:%SZ}"
        print(f"  {named}: {zone.rows} calls, {opens}")
    if seen.recent["rows"]:
        print(f"  {seen.recent['rows']} rows have a number that was queued recently:")
    for batch in seen.recent["batches"]:
        print(f"    batch {batch['id']} {batch['name']}: {batch['rows']} rows")
    for warning in seen.warnings:
        print(f"  {warning.message} ({warning.code})")
    for fault in seen.errors:
        line = "" if fault.line is None else f", line {fault.line}"
        print(f"  row {fault.where}{line}: {fault.message} ({fault.code})")
    if seen.errors_total > len(seen.errors):
        print(f"  and {seen.errors_total - len(seen.errors)} more")


def _standard_input() -> IO[bytes]:
    """A temporary file with all of standard input, because a CSV is read more than once."""
    csv = TemporaryFile()
    shutil.copyfileobj(sys.stdin.buffer, csv)
    csv.seek(0)
    return csv


def _status(parsed: argparse.Namespace) -> int:
    with opened_database("status") as conn:
        if parsed.watch:
            return _watch(conn, parsed.batch)
        _show(conn, get_batch(conn, parsed.batch))
    return 0


def _export(parsed: argparse.Namespace) -> int:
    written = 0
    with opened_pool("export") as pool, progress() as show:
        for block in _EXPORTS[parsed.format](Reader(pool), parsed.batch, latest=parsed.latest):
            sys.stdout.buffer.write(block)
            written += len(block)
            if not sys.stdout.isatty():
                show(f"{written / 1e6:.1f} MB")
        sys.stdout.flush()
    return 0


def _watch(conn: Connection, batch_id: int) -> int:
    """Wait for the end of the batch and show it. On a terminal, also show the progress."""
    missing = None
    with progress() as show:
        while True:
            batch = get_batch(conn, batch_id)
            show(_line(batch))
            if batch.state != "queueing" and not batch.counts["pending"] and not batch.callbacks["waiting"]:
                break
            if missing is None and (missing := _missing(conn, batch)):
                print(f"\n{missing}", file=sys.stderr, flush=True)
            conn.rollback()
            time.sleep(WATCH_SECONDS)
    _show(conn, batch)
    return 1 if batch.state == "refused" else 0


def _line(batch: Batch) -> str:
    counts = batch.counts
    return (
        f"batch {batch.id} {batch.state}: {batch.progress:.0%}, {counts['final']} ended, {counts['pending']} pending,"
        f" {counts['overdue']} overdue{', simulated' if batch.simulated else ''}"
    )


def _missing(conn: Connection, batch: Batch) -> str | None:
    missing = describe_missing(conn, batch.id) if batch.counts["pending"] or batch.counts["overdue"] else None
    return missing and f"{missing} Calls without a result are overdue at {batch.due_at:%Y-%m-%dT%H:%M:%SZ}."


def _show(conn: Connection, batch: Batch) -> None:
    print(_line(batch))
    print(f"{'phase':<10}{batch.phase}")
    for title, numbers in (("calls", batch.counts), ("callbacks", batch.callbacks)):
        print(f"{title:<10}" + ", ".join(f"{name} {number}" for name, number in numbers.items()))
    for submission in batch.submissions:
        if submission.state in ("refused", "unknown"):
            said = f", provider status {submission.provider_status}" if submission.provider_status else ""
            print(f"submission {submission.id} {submission.state}{said}: {submission.error}")
    if missing := _missing(conn, batch):
        print(missing)


def _verify(parsed: argparse.Namespace) -> int:
    differences = 0
    with opened_database("verify") as conn:
        for difference in verify(conn, parsed.batch):
            differences += 1
            where = "" if difference.batch_id is None else f"batch {difference.batch_id}: "
            print(f"{where}{difference.what}: stored {difference.kept}, counted from the rows {difference.counted}")
    if differences:
        print(f"{differences} differences.")
        return 1
    print("The balance holds, and every counter agrees with the rows.")
    return 0
