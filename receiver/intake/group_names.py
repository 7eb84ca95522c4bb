"""Names the groups of a writer: (writer, sequence), in Postgres and in the spool."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from uuid import uuid4

from receiver.intake.journal import Callback, Group
from receiver.intake.spool import Spool, SpoolFailed

NAMES = 20
"""How many writer ids may be used within a short time (`_renew`). Each is a row of `journal_writer` for WRITER_DAYS."""

NAME_SECONDS = 60.0
"""After each such time, one more writer id may be used."""

_NOT_YET_SPOOLED = -1
"""Used instead of a position in the spool: the group will be written there soon."""


class GroupNames:
    """Names groups, in the thread that writes them. The groups of a writer id must reach the journal in order."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._writer_id, self._sequence = uuid4(), 0
        self._spooled_up_to: int | None = None
        self._used_until = 0.0  # each new writer id moves it forward by NAME_SECONDS
        self._lock = threading.Lock()

    def group(self, callbacks: Sequence[Callback], *, directly: bool) -> Group:
        """The callbacks as the next group. `directly`: it goes to the journal, not to the spool."""
        if directly:
            self._renew()
        self._sequence += 1
        return Group(self._writer_id, self._sequence, tuple(callbacks))

    def mark_failed(self) -> None:
        """The group that was named last goes to the spool."""
        self._spooled_up_to = _NOT_YET_SPOOLED

    def spooled(self, group: Group, position: int | None) -> None:
        """The group is in the spool, at this position; None: it could not be stored there. Any thread may call it."""
        with self._lock:
            if group.writer_id == self._writer_id:
                self._spooled_up_to = position

    def may_use_journal(self) -> bool:
        """Whether groups may go directly to the journal: with the current writer id, or with a new one."""
        # If the database is available only for short times, each time would need a new writer id, and so a row.
        return self._is_drained() or self._used_until - time.monotonic() <= (NAMES - 1) * NAME_SECONDS

    def _renew(self) -> None:
        """Use a new writer id if groups of the current one are or will be in the spool: the next group would be written
        before them."""
        with self._lock:
            if not self._is_drained():
                self._writer_id, self._sequence = uuid4(), 0
                self._used_until = max(time.monotonic(), self._used_until) + NAME_SECONDS
            self._spooled_up_to = None

    def _is_drained(self) -> bool:
        """Whether no group of the current writer id is in the spool, or will be."""
        up_to = self._spooled_up_to
        try:
            return up_to is None or (up_to != _NOT_YET_SPOOLED and self._spool.is_past(up_to))
        except SpoolFailed:
            return False
