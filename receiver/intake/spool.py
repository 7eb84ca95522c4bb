"""Where callbacks go while the database is away: SQLite on local disk, fully synced.

One file a machine, shared by its web processes. It keeps groups, not callbacks, so that draining
is `write_group` over again: a group that the database had stored after all stores nothing more,
and a drain that is killed half-way is simply begun again.

Whoever reads has a connection of its own and takes no lock: SQLite's write-ahead log gives it a
snapshot. What is removed is overwritten, in steps so short that who appends does not notice, and
`clean` gives the room of an empty spool back: bodies are personal data, and must not stay behind.
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
"""How long another program that writes to the file may be waited for. Ours write for milliseconds."""

RETRY_SECONDS = 0.005
"""Between two tries. SQLite would wait by itself, but for longer each time."""

REMOVED_AT_ONCE = 64
"""Callbacks of one step of `remove`, which keeps others from writing: at most 4 MiB to overwrite."""

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

_INSERT = (
    "insert into spooled (writer_id, sequence, batch_id, submission_no, received_at_us, content_type,"
    " content_encoding, body) values (?, ?, ?, ?, ?, ?, ?, ?)"
)


class SpoolFailed(ReceiverError):
    """The local disk did not take the group: full, over its bound, or broken."""

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
        """Keep a group; returns its position. On return it is on disk. Raises SpoolFailed, having kept nothing."""
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
        """Keep a body of the longest kind and forget it, in one synced transaction: nobody else ever sees it.

        Raises SpoolFailed where a callback could not be kept.
        """
        with self._transaction() as db:
            self._check_room(db, BODY_BYTES)
            db.execute(_INSERT, (str(UUID(int=0)), 0, 0, 0, 0, "", "", os.urandom(BODY_BYTES)))
            db.execute("delete from spooled where position = last_insert_rowid()")
            # Positions without a gap: `depth` goes by them.
            db.execute("update sqlite_sequence set seq = seq - 1 where name = 'spooled'")

    def oldest(self, limit: int) -> list[tuple[int, Group]]:
        """The oldest groups with the position each ends at: whole groups, about `limit` callbacks in all."""
        rows: list[_Row] = []
        with self._snapshot() as db:
            if db is None:
                return []
            # Read only as far as needed: what lies behind may be millions.
            with closing(
                db.execute(
                    "select writer_id, sequence, position, batch_id, submission_no, received_at_us, content_type,"
                    " content_encoding, body from spooled order by position"
                )
            ) as found:
                for row in found:
                    if len(rows) >= limit and row[:2] != rows[-1][:2]:
                        break
                    rows.append(row)
        return [
            (members[-1][2], Group(UUID(writer_id), sequence, tuple(_callback(row) for row in members)))
            for (writer_id, sequence), members in (
                (name, list(run)) for name, run in groupby(rows, key=itemgetter(0, 1))
            )
        ]

    def remove(self, position: int, patience_seconds: float | None = None) -> None:
        """Forget all groups up to this position: they are stored elsewhere. Their bodies are overwritten.

        Where this is interrupted in the middle of a group, the rest of it is known by its name to be stored.
        """
        last: int | None = None
        while last != position:
            if last is not None:
                time.sleep(0.001)  # so that whoever waits to append comes first
            with self._transaction(patience_seconds) as db:
                last = db.execute(
                    "select max(position) from (select position from spooled where position <= ?"
                    " order by position limit ?)",
                    (position, REMOVED_AT_ONCE),
                ).fetchone()[0]
                if last is None:
                    return
                db.execute("delete from spooled where position <= ?", (last,))

    def is_past(self, position: int) -> bool:
        """Whether all groups up to this position have been removed. Raises SpoolFailed rather than wait."""
        with self._snapshot(patience_seconds=0) as db:
            first = None if db is None else db.execute("select min(position) from spooled").fetchone()[0]
        return first is None or first > position

    def depth(self) -> int:
        """How many callbacks it holds."""
        with self._snapshot() as db:
            if db is None:
                return 0
            # Groups only ever leave from the front; counting them would take long.
            first, last = db.execute(
                "select (select min(position) from spooled), (select max(position) from spooled)"
            ).fetchone()
        return 0 if first is None else int(last - first + 1)

    def callbacks(self) -> Iterator[Callback]:
        """All that it holds, the oldest first, read a few at a time."""
        after = 0
        while True:
            with self._snapshot() as db:
                rows: list[_Row] = (
                    []
                    if db is None
                    else db.execute(
                        "select writer_id, sequence, position, batch_id, submission_no, received_at_us, content_type,"
                        " content_encoding, body from spooled where position > ? order by position limit ?",
                        (after, REMOVED_AT_ONCE),
                    ).fetchall()
                )
            if not rows:
                return
            yield from map(_callback, rows)
            after = rows[-1][2]

    def clean(self) -> bool:
        """Give back the room of an empty spool, and with it what its files still hold of removed bodies.

        False where it is not empty, or is being used at this moment: try again later. Nobody waits for this.
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
                db.execute("pragma temp_store = memory")  # else `vacuum` writes a file elsewhere
                db.execute("vacuum")
                (busy, _, _) = db.execute("pragma wal_checkpoint(truncate)").fetchone()
                return not busy
        except (sqlite3.Error, OSError) as error:
            if isinstance(error, sqlite3.Error) and _is_busy(error):
                return False
            raise SpoolFailed(f"The spool {self.path} could not be cleaned: {error}") from error

    def close(self) -> None:
        """Close the file. A thread that hangs in it keeps its connection."""
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
    def _holding(self, lock: threading.Lock, patience_seconds: float | None = None) -> Iterator[None]:
        """Hold it, or raise SpoolFailed: a disk that hangs keeps the thread that waits for it, but no other one."""
        if not lock.acquire(timeout=BUSY_SECONDS if patience_seconds is None else patience_seconds):
            raise SpoolFailed(f"The spool {self.path} could not be used: another thread waits for its disk.")
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _transaction(self, patience_seconds: float | None = None) -> Iterator[sqlite3.Connection]:
        """One that writes, one at a time; whatever SQLite or the disk says against it is SpoolFailed."""
        with self._holding(self._lock, patience_seconds):
            try:
                db = _patiently(self._open, patience_seconds)
                _patiently(lambda: db.execute("begin immediate"), patience_seconds)
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
    def _snapshot(self, patience_seconds: float | None = None) -> Iterator[sqlite3.Connection | None]:
        """A connection to read with, which neither waits for who writes nor keeps them waiting; None: no spool yet."""
        with self._holding(self._reading_lock, patience_seconds):
            try:
                if self._reading is None and self.path.exists():
                    self._reading = _patiently(self._open_to_read, patience_seconds)
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
            if _has_table(db):  # else another process is just making it
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


def _patiently(do: Callable[[], _T], patience_seconds: float | None) -> _T:
    """Do it, again and again while another program is in the way, for at most so long, or for BUSY_SECONDS.

    SQLite itself does not wait for a switch to WAL: the processes of a machine all open the file at once.
    """
    end = time.monotonic() + (BUSY_SECONDS if patience_seconds is None else patience_seconds)
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
