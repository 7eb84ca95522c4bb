"""What outlives the simulator's process: the submissions whose results have not all been delivered, in an SQLite file.

The life of a call follows from its submission's number, its row and its number (`calls`), so these and the moment of
acceptance are enough to go on where a killed process was, with the same bytes. A submission leaves the file with its
last result, so the file holds only what is under way. Each change is with the operating system when a method returns.
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from receiver.errors import ReceiverError
from receiver.simulator.bodies import Terms, dialed_digits

log = logging.getLogger(__name__)

STATE_FILE = "simulator.sqlite3"
"""Its name in the DATA_DIR of a `serve`."""

BUSY_SECONDS = 10.0
"""How long one process waits for a change that another one makes."""

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
    """A submission as it was accepted. `told`: rows whose results are delivered. `accepted_at`: Unix seconds.

    `checked`: its result_url was asked before dialing, and answered. `canceled`: the offset of its cancelling.
    """

    number: int
    kind: str
    application_id: int
    deployment_id: int
    terms: Terms
    queued_at: int
    accepted_at: float
    checked: bool
    canceled: int | None
    destinations: tuple[str, ...]
    told: frozenset[int]


class Store:
    """Its methods may be called from any thread."""

    def __init__(self, path: Path) -> None:
        self._lock = threading.Lock()
        try:
            self._db = _open(path)
            if (checked := self._db.execute("pragma quick_check(1)").fetchone()) != ("ok",):
                self._db.close()
                raise sqlite3.DatabaseError(checked)
        except sqlite3.OperationalError:
            raise
        except sqlite3.DatabaseError as error:
            # A power cut can do that. Simulated calls are not worth a start that fails.
            log.warning("%s cannot be read (%s): the calls in progress are lost", path, error)
            for suffix in ("", "-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            self._db = _open(path)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def submissions(self) -> list[Stored]:
        """Those that are under way, in the order of acceptance."""
        with self._lock:
            found = self._db.execute("select * from submission order by number").fetchall()
            return [self._stored(*row) for row in found]

    def accept(
        self,
        kind: str,
        application_id: int,
        deployment_id: int,
        terms: Terms,
        queued_at: int,
        accepted_at: float,
        destinations: Sequence[str],
    ) -> int:
        """Keep a new submission; returns its number, which no other one ever has."""
        with self._lock, self._db:
            self._db.execute("begin immediate")
            number = self._db.execute(
                "insert into submission (kind, application_id, deployment_id, terms, queued_at, accepted_at)"
                " values (?, ?, ?, ?, ?, ?)",
                (kind, application_id, deployment_id, json.dumps(asdict(terms)), queued_at, accepted_at),
            ).lastrowid
            assert number is not None  # noqa: S101 an insert has an id
            self._db.executemany(
                "insert into call (number, row, destination) values (?, ?, ?)",
                ((number, row, destination) for row, destination in enumerate(destinations, start=1)),
            )
        return number

    def checked(self, number: int) -> None:
        """Its result_url has answered: it is dialed."""
        self._change("update submission set checked = 1 where number = ?", number)

    def canceled(self, number: int, offset: int) -> None:
        """It was cancelled this long (simulated seconds) after its acceptance."""
        self._change("update submission set canceled = coalesce(canceled, ?) where number = ?", offset, number)

    def told(self, number: int, row: int) -> None:
        """Nothing is left to deliver about this call."""
        self._change("update call set told = 1 where number = ? and row = ?", number, row)

    def forget(self, number: int) -> None:
        """Nothing is left to deliver about this submission."""
        with self._lock:
            with self._db:
                self._db.execute("begin immediate")
                self._db.execute("delete from call where number = ?", (number,))
                self._db.execute("delete from submission where number = ?", (number,))
            _empty_log(self._db)

    def _change(self, statement: str, *values: int) -> None:
        with self._lock:
            self._db.execute(statement, values)

    def _stored(
        self,
        number: int,
        kind: str,
        application_id: int,
        deployment_id: int,
        terms: str,
        queued_at: int,
        accepted_at: float,
        checked: int,
        canceled: int | None,
    ) -> Stored:
        calls = self._db.execute(
            "select row, destination, told from call where number = ? order by row", (number,)
        ).fetchall()
        return Stored(
            number,
            kind,
            application_id,
            deployment_id,
            Terms(**json.loads(terms)),
            queued_at,
            accepted_at,
            bool(checked),
            canceled,
            tuple(destination for _, destination, _ in calls),
            frozenset(row for row, _, told in calls if told),
        )


def forget_number(path: Path, phone_number: int) -> int:
    """Take a number (E.164) out of a simulator's file, whether that runs or not; returns how many calls had it.

    However it is written there: with its country, without it, or behind zeros. A process that runs has the calls in
    memory, and still delivers their results.
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
    """Take everything out of a simulator's file; returns how many submissions were under way. See `forget_number`."""

    def forget(db: sqlite3.Connection) -> int:
        db.execute("delete from call")
        return db.execute("delete from submission").rowcount

    return _changed(path, forget)


def _changed(path: Path, change: Callable[[sqlite3.Connection], int]) -> int:
    """What the change returns; 0 where there is no file."""
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


def _open(path: Path) -> sqlite3.Connection:
    # Destinations and result_urls are in it.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
    try:
        # What was deleted is overwritten, in the file and in its log, and the file shrinks.
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
