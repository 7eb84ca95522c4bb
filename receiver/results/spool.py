"""Where callbacks go while the database is away: SQLite on local disk, fully synced.

One file a machine, shared by its web processes. It keeps groups, not callbacks, so that draining
is `write_group` over again: a group that the database had stored after all stores nothing more,
and a drain that is killed half-way is simply begun again.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from uuid import UUID

from receiver.errors import ReceiverError
from receiver.model import SubmissionKey
from receiver.results.journal import Callback, Group

BUSY_SECONDS = 5.0
"""How long another process may be waited for."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

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


class SpoolFailed(ReceiverError):
    """The local disk did not take the group: full, over its bound, or broken."""

    code = "spool_failed"


class Spool:
    """A spool file. Safe to share between threads and between processes."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        self.path = path
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._opened: sqlite3.Connection | None = None

    def append(self, group: Group) -> None:
        """Keep a group. On return it is on disk. Raises SpoolFailed, having kept nothing."""
        with self._transaction() as db:
            (pages,), (free,), (size,) = (
                db.execute(f"pragma {name}").fetchone() for name in ("page_count", "freelist_count", "page_size")
            )
            if (pages - free) * size + sum(len(callback.body) for callback in group.callbacks) > self._max_bytes:
                raise SpoolFailed(f"The spool holds its {self._max_bytes} bytes (SPOOL_MAX_BYTES) already.")
            db.executemany(
                "insert into spooled (writer_id, sequence, batch_id, submission_no, received_at_us, content_type,"
                " content_encoding, body) values (?, ?, ?, ?, ?, ?, ?, ?)",
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

    def oldest(self, limit: int) -> list[tuple[int, Group]]:
        """The oldest groups with the position each ends at: whole groups, about `limit` callbacks in all."""
        if self._opened is None and not self.path.exists():
            return []
        rows: list[_Row] = []
        with self._transaction() as db:
            # Read only as far as needed: what lies behind may be millions.
            for row in db.execute(
                "select writer_id, sequence, position, batch_id, submission_no, received_at_us, content_type,"
                " content_encoding, body from spooled order by position"
            ):
                if len(rows) >= limit and row[:2] != rows[-1][:2]:
                    break
                rows.append(row)
        return [
            (members[-1][2], Group(UUID(writer_id), sequence, tuple(_callback(row) for row in members)))
            for (writer_id, sequence), members in (
                (name, list(run)) for name, run in groupby(rows, key=itemgetter(0, 1))
            )
        ]

    def remove(self, position: int) -> None:
        """Forget all groups up to this position: they are stored elsewhere."""
        with self._transaction() as db:
            db.execute("delete from spooled where position <= ?", (position,))

    def depth(self) -> int:
        """How many callbacks it holds."""
        if self._opened is None and not self.path.exists():
            return 0
        with self._transaction() as db:
            # Groups only ever leave from the front; counting them would hold up who spools.
            first, last = (db.execute(f"select {end}(position) from spooled").fetchone()[0] for end in ("min", "max"))
        return 0 if first is None else int(last - first + 1)

    def close(self) -> None:
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """One transaction at a time; whatever SQLite or the disk says against it is SpoolFailed."""
        with self._lock:
            try:
                db = self._open()
                db.execute("begin immediate")
                try:
                    yield db
                    db.execute("commit")
                except BaseException:
                    if db.in_transaction:
                        db.execute("rollback")
                    raise
            except (sqlite3.Error, OSError) as error:
                raise SpoolFailed(f"The spool {self.path} could not be used: {error}") from error

    def _open(self) -> sqlite3.Connection:
        if self._opened is None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            try:
                self.path.chmod(0o600)
                _write_ahead(db)
                db.execute("pragma synchronous = full")
                db.execute(_SCHEMA)
            except BaseException:
                db.close()
                raise
            self._opened = db
        return self._opened


def _write_ahead(db: sqlite3.Connection) -> None:
    """Switch to WAL, which SQLite does not wait for: the processes of a machine all open the file at once."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            db.execute("pragma journal_mode = wal")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > end:
                raise
        time.sleep(0.005)


def _callback(row: _Row) -> Callback:
    _, _, _, batch_id, submission_no, received_at_us, content_type, content_encoding, body = row
    return Callback(
        SubmissionKey(batch_id, submission_no),
        _EPOCH + timedelta(microseconds=received_at_us),
        content_type,
        content_encoding,
        body,
    )
