"""The submissions that are not finished yet, in an SQLite file that outlives the simulator's process.

What happens to a call depends only on its submission's number, its row and its phone number (`calls`). These and the
time of acceptance are enough to continue after a kill with the same bytes. A submission is deleted after its last
result. A method returns when its change is written.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from receiver.errors import ReceiverError
from receiver.simulator.bodies import Parameters, dialed_digits
from receiver.simulator.submission import Request

log = logging.getLogger(__name__)

BUSY_SECONDS = 10.0
"""How long one process waits for another one's change."""

# `told`: the call is finished. Files of earlier releases have these names.
_SCHEMA = """
create table if not exists submission (
    number integer primary key autoincrement, kind text not null, application_id integer not null,
    deployment_id integer not null, terms text not null, queued_at integer not null, accepted_at real not null,
    checked integer not null default 0, canceled integer
);
create table if not exists call (
    number integer not null, row integer not null, destination text not null, told integer not null default 0,
    primary key (number, row)
) without rowid;
"""


@dataclass(frozen=True, slots=True)
class Stored:
    """`checked`: its result_url answered the GET before dialing. `canceled`: simulated seconds after its acceptance.

    `finished`: the rows whose callbacks were all delivered.
    """

    number: int
    request: Request
    checked: bool = False
    canceled: int | None = None
    finished: frozenset[int] = frozenset()


class Store:
    """Its methods may be called from any thread. Without a path it is in memory, and ends with the process."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.Lock()
        self._closed = False
        try:
            self._db = _open(path)
            if (checked := self._db.execute("pragma quick_check(1)").fetchone()) != ("ok",):
                self._db.close()
                raise sqlite3.DatabaseError(checked)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # A power cut can do that. Losing simulated calls is better than a start that fails.
            log.warning("%s cannot be read (%s): its unfinished submissions are lost", path, error)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._db = _open(path)

    def close(self) -> None:
        """Later changes are ignored: the next process delivers again what this one did not finish."""
        with self._lock:
            self._closed = True
            self._db.close()

    def submissions(self) -> list[Stored]:
        """The unfinished ones, in the order of acceptance."""
        with self._lock:
            cursor = self._db.execute("select * from submission order by number")
            cursor.row_factory = sqlite3.Row
            return [self._stored(row) for row in cursor.fetchall()]

    def accept(self, request: Request) -> int:
        """Store a new submission; returns its number, which no other submission ever gets."""
        values = (request.kind, request.application_id, request.deployment_id, json.dumps(asdict(request.parameters)))
        with self._lock, self._db:
            self._db.execute("begin immediate")
            number = self._db.execute(
                "insert into submission (kind, application_id, deployment_id, terms, queued_at, accepted_at)"
                " values (?, ?, ?, ?, ?, ?)",
                (*values, request.queued_at, request.accepted_at),
            ).lastrowid
            assert number is not None  # noqa: S101 an insert has an id
            self._db.executemany(
                "insert into call (number, row, destination) values (?, ?, ?)",
                ((number, row, destination) for row, destination in enumerate(request.destinations, start=1)),
            )
        return number

    def check(self, number: int) -> None:
        """Its result_url has answered, so its calls are dialed."""
        self._change("update submission set checked = 1 where number = ?", number)

    def cancel(self, number: int, offset: int) -> None:
        """It was canceled this many simulated seconds after its acceptance."""
        self._change("update submission set canceled = coalesce(canceled, ?) where number = ?", offset, number)

    def finish(self, number: int, row: int) -> None:
        self._change("update call set told = 1 where number = ? and row = ?", number, row)

    def forget(self, number: int) -> None:
        """Delete a submission: all its calls are finished, or it was dropped."""
        with self._lock:
            if self._closed:
                return
            with self._db:
                self._db.execute("begin immediate")
                self._db.execute("delete from call where number = ?", (number,))
                self._db.execute("delete from submission where number = ?", (number,))
            _empty_log(self._db)

    def _change(self, statement: str, *values: int) -> None:
        with self._lock:
            if not self._closed:
                self._db.execute(statement, values)

    def _stored(self, row: sqlite3.Row) -> Stored:
        calls = self._db.execute(
            "select row, destination, told from call where number = ? order by row", (row["number"],)
        ).fetchall()
        same = {name: row[name] for name in ("kind", "application_id", "deployment_id", "queued_at", "accepted_at")}
        destinations = [destination for _, destination, _ in calls]
        request = Request(**same, parameters=Parameters(**json.loads(row["terms"])), destinations=destinations)
        finished = frozenset(row for row, _, told in calls if told)
        return Stored(row["number"], request, bool(row["checked"]), row["canceled"], finished)


def forget_number(path: Path, phone_number: int) -> int:
    """Erase a number (E.164) from a simulator's file, also while it runs; returns how many calls had it.

    It is found with its country code, without it, or after zeros. A running simulator has the calls in memory and
    still delivers their results.
    """

    def is_meant(destination: str) -> bool:
        digits = dialed_digits(destination).lstrip("0")
        return len(digits) > 6 and str(phone_number).endswith(digits)

    def forget(db: sqlite3.Connection) -> int:
        rows = db.execute("select number, row, destination from call")
        found = [(number, row) for number, row, destination in rows if is_meant(destination)]
        db.executemany("update call set destination = '', told = 1 where number = ? and row = ?", found)
        return len(found)

    return _changed(path, forget)


def forget_all(path: Path) -> int:
    """Delete everything in a simulator's file, as `forget_number` does. Returns how many submissions were
    unfinished."""

    def forget(db: sqlite3.Connection) -> int:
        db.execute("delete from call")
        return db.execute("delete from submission").rowcount

    return _changed(path, forget)


def _changed(path: Path, change: Callable[[sqlite3.Connection], int]) -> int:
    """What the change returns; 0 if there is no file."""
    if not path.exists():
        return 0
    try:
        with closing(_open(path)) as db:
            with db:
                db.execute("begin immediate")
                count = change(db)
            _empty_log(db)
    except sqlite3.Error as error:
        raise ReceiverError(f"{path} cannot be changed ({error}): stop the simulator, and remove it.") from error
    return count


def _open(path: Path | None) -> sqlite3.Connection:
    if path is not None:
        # It holds destinations and result_urls, so only its owner may read it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path or ":memory:", timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # Deleted rows are overwritten, in the file and in its log, and the file shrinks.
        db.execute("pragma auto_vacuum = full")
        db.execute("pragma journal_mode = wal")
        db.execute("pragma synchronous = normal")
        db.execute("pragma secure_delete = on")
        db.executescript(_SCHEMA)
    except BaseException:
        db.close()
        raise
    return db


def _empty_log(db: sqlite3.Connection) -> None:
    db.execute("pragma wal_checkpoint(truncate)").fetchall()
