"""Stores callbacks while the database is unavailable: SQLite on local disk, fully synced.

There is one file per machine, shared by its web processes. It stores groups, so that draining repeats `write_group`: a
group that is already in the database is not stored twice, and a drain that was killed is simply repeated.

Readers have their own connection and take no lock: SQLite's write-ahead log gives them a snapshot. Removed rows are
overwritten, in steps so short that they do not delay writers, and `clean` frees the space of an empty spool: bodies are
personal data, and must not be left behind.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import TypeVar
from uuid import UUID

from receiver.errors import ReceiverError
from receiver.intake.journal import BODY_BYTES, Callback, Group
from receiver.model import SubmissionKey

BUSY_SECONDS = 5.0
"""How long to wait for another process that writes to the file. Our processes write for milliseconds."""

RETRY_SECONDS = 0.005
"""Interval between two attempts. SQLite itself would wait longer each time."""

REMOVED_AT_ONCE = 64
"""Callbacks that one step of `remove` deletes. A step blocks other writers while it overwrites at most 4 MiB."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_T = TypeVar("_T")
_Row = tuple[str, int, int, int, int, int, str, str, bytes]

_SCHEMA = """
create table if not exists spooled (
    position integer primary key autoincrement,
    writer_id text not null,
    sequence integer not null,
    batch_id integer not null,
    submission_no integer not null,
    received_at_us integer not null,
    content_type text not null,
    content_encoding text not null,
    body blob not null
)
"""

_COLUMNS = (
    "writer_id, sequence, position, batch_id, submission_no, received_at_us, content_type, content_encoding, body"
)
_INSERT = (
    "insert into spooled (writer_id, sequence, batch_id, submission_no, received_at_us, content_type,"
    " content_encoding, body) values (?, ?, ?, ?, ?, ?, ?, ?)"
)


class SpoolFailed(ReceiverError):
    """The spool could not be used: it is full, or the disk is full, broken or hanging."""

    code = "spool_failed"


class Spool:
    """A spool file. Safe to share between threads and between processes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._reading_lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None
        self._reading: sqlite3.Connection | None = None

    def append(self, group: Group) -> int:
        """Store a group on disk; returns its position. Raises SpoolFailed; then nothing was stored."""
        with self._transaction() as db:
            self._check_room(db, sum(len(callback.body) for callback in group.callbacks))
            db.executemany(
                _INSERT,
                (
                    (
                        str(group.writer_id),
                        group.sequence,
                        callback.key.batch_id,
                        callback.key.submission_no,
                        (callback.received_at - _EPOCH) // timedelta(microseconds=1),
                        callback.content_type,
                        callback.content_encoding,
                        callback.body,
                    )
                    for callback in group.callbacks
                ),
            )
            position: int = db.execute("select last_insert_rowid()").fetchone()[0]
        return position

    def try_write(self) -> None:
        """Store a callback of the largest size and delete it, in one synced transaction. It is never visible.

        Raises SpoolFailed if it could not be stored.
        """
        with self._transaction() as db:
            self._check_room(db, BODY_BYTES)
            db.execute(_INSERT, (str(UUID(int=0)), 0, 0, 0, 0, "", "", os.urandom(BODY_BYTES)))
            db.execute("delete from spooled where position = last_insert_rowid()")
            # `depth` needs positions without gaps.
            db.execute("update sqlite_sequence set seq = seq - 1 where name = 'spooled'")

    def oldest(self, limit: int) -> list[tuple[int, Group]]:
        """The oldest groups, each with the position of its end: complete groups, together about `limit` callbacks."""
        rows: list[_Row] = []
        with self._snapshot() as db:
            if db is None:
                return []
            # Read only as far as needed: there may be millions of rows.
            with closing(db.execute(f"select {_COLUMNS} from spooled order by position")) as found:
                for row in found:
                    if len(rows) >= limit and row[:2] != rows[-1][:2]:
                        break
                    rows.append(row)
        groups = []
        for (writer_id, sequence), run in groupby(rows, key=itemgetter(0, 1)):
            members = list(run)
            groups.append((members[-1][2], Group(UUID(writer_id), sequence, tuple(map(_callback, members)))))
        return groups

    def remove(self, position: int, wait_seconds: float | None = None) -> None:
        """Remove all groups up to this position, because they are in the database. Their bodies are overwritten.

        If this is interrupted in the middle of a group, the rest is removed later: its name shows that it is in the
        database.
        """
        last: int | None = None
        while last != position:
            if last is not None:
                time.sleep(0.001)  # let other threads append
            with self._transaction(wait_seconds) as db:
                last = db.execute(
                    "select max(position) from (select position from spooled where position <= ?"
                    " order by position limit ?)",
                    (position, REMOVED_AT_ONCE),
                ).fetchone()[0]
                if last is None:
                    return
                db.execute("delete from spooled where position <= ?", (last,))

    def is_past(self, position: int) -> bool:
        """Whether all groups up to this position were removed. Raises SpoolFailed instead of waiting."""
        with self._snapshot(wait_seconds=0) as db:
            first = None if db is None else db.execute("select min(position) from spooled").fetchone()[0]
        return first is None or first > position

    def depth(self) -> int:
        """How many callbacks the spool has."""
        with self._snapshot() as db:
            if db is None:
                return 0
            # Counting the rows would take long. Groups are removed only at the front, so there are no gaps.
            first, last = db.execute(
                "select (select min(position) from spooled), (select max(position) from spooled)"
            ).fetchone()
        return 0 if first is None else int(last - first + 1)

    def callbacks(self) -> Iterator[Callback]:
        """All callbacks, the oldest first, read in small steps."""
        after = 0
        while True:
            with self._snapshot() as db:
                next_rows = f"select {_COLUMNS} from spooled where position > ? order by position limit ?"
                rows: list[_Row] = [] if db is None else db.execute(next_rows, (after, REMOVED_AT_ONCE)).fetchall()
            if not rows:
                return
            yield from map(_callback, rows)
            after = rows[-1][2]

    def clean(self) -> bool:
        """Free the space of an empty spool, and so delete what is left of removed bodies in its files.

        Returns False if it is not empty, or is in use now: try again later.
        """
        with self._snapshot() as db:
            if db is None:
                return True
            if db.execute("select 1 from spooled limit 1").fetchone() is not None:
                return False
            log = self.path.with_name(f"{self.path.name}-wal")
            if not db.execute("pragma freelist_count").fetchone()[0] and not (log.exists() and log.stat().st_size):
                return True
        try:
            with closing(sqlite3.connect(self.path, timeout=0, isolation_level=None)) as db:
                db.execute("pragma secure_delete = on")
                db.execute("pragma temp_store = memory")  # without this, `vacuum` writes a temporary file
                db.execute("vacuum")
                (busy, _, _) = db.execute("pragma wal_checkpoint(truncate)").fetchone()
                return not busy
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _is_busy(error):
                return False
            raise SpoolFailed(f"The spool {self.path} could not be cleaned: {error}") from error

    def close(self) -> None:
        """Close the file. If a thread hangs in it, its connection stays open."""
        with suppress(SpoolFailed), self._holding(self._lock):
            if self._opened is not None:
                self._opened.close()
                self._opened = None
        with suppress(SpoolFailed), self._holding(self._reading_lock):
            if self._reading is not None:
                self._reading.close()
                self._reading = None

    def _check_room(self, db: sqlite3.Connection, more_bytes: int) -> None:
        (pages,), (free,), (size,) = (
            db.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size + more_bytes > self._max_bytes:
            raise SpoolFailed(f"The spool is full: it has {self._max_bytes} bytes (SPOOL_MAX_BYTES).")

    @contextmanager
    def _holding(self, lock: threading.Lock, wait_seconds: float | None = None) -> Iterator[None]:
        """Acquire the lock, or raise SpoolFailed: a disk that hangs must block only one thread."""
        if not lock.acquire(timeout=BUSY_SECONDS if wait_seconds is None else wait_seconds):
            raise SpoolFailed(f"The spool {self.path} could not be used: another thread waits for its disk.")
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _transaction(self, wait_seconds: float | None = None) -> Iterator[sqlite3.Connection]:
        """A transaction that writes, one at a time. Errors of SQLite and the disk become SpoolFailed."""
        with self._holding(self._lock, wait_seconds):
            try:
                db = _retry_while_busy(self._open, wait_seconds)
                _retry_while_busy(lambda: db.execute("begin immediate"), wait_seconds)
                try:
                    yield db
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:
                        db.execute("rollback")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise SpoolFailed(f"The spool {self.path} could not be used: {error}") from error

    @contextmanager
    def _snapshot(self, wait_seconds: float | None = None) -> Iterator[sqlite3.Connection | None]:
        """A connection for reading, which neither waits for writers nor blocks them. None: there is no spool yet."""
        with self._holding(self._reading_lock, wait_seconds):
            try:
                if self._reading is None and self.path.exists():
                    self._reading = _retry_while_busy(self._open_to_read, wait_seconds)
                yield self._reading
            except (sqlite3.Error, OSError) as error:
                raise SpoolFailed(f"The spool {self.path} could not be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._opened is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
            try:
                self.path.chmod(0o600)
                db.execute("pragma journal_mode = wal")
                db.execute("pragma synchronous = full")
                db.execute("pragma secure_delete = on")
                db.execute(_SCHEMA)
            except BaseException:
                db.close()
                raise
            self._opened = db
        return self._opened

    def _open_to_read(self) -> sqlite3.Connection | None:
        db = sqlite3.connect(self.path, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            if _has_table(db):  # if not, another process is just creating it
                db.execute("pragma query_only = on")
                return db
        except BaseException:
            db.close()
            raise
        db.close()
        return None


def _has_table(db: sqlite3.Connection) -> bool:
    return db.execute("select 1 from sqlite_master where name = 'spooled'").fetchone() is not None


def _is_busy(error: sqlite3.Error) -> bool:
    return error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _retry_while_busy(do: Callable[[], _T], wait_seconds: float | None) -> _T:
    """Retry while another process is using the file, for at most this long (None: BUSY_SECONDS).

    SQLite itself does not wait for the switch to WAL, and all processes of a machine open the file at the same time.
    """
    end = time.monotonic() + (BUSY_SECONDS if wait_seconds is None else wait_seconds)
    while True:
        try:
            return do()
        except sqlite3.OperationalError as error:
            if not _is_busy(error) or time.monotonic() > end:
                raise
        time.sleep(RETRY_SECONDS)


def _callback(row: _Row) -> Callback:
    _, _, _, batch_id, submission_no, received_at_us, content_type, content_encoding, body = row
    return Callback(
        SubmissionKey(batch_id, submission_no),
        _EPOCH + timedelta(microseconds=received_at_us),
        content_type,
        content_encoding,
        body,
    )
