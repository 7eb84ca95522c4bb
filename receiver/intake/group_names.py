"""The names of a writer's groups: Postgres and the spool know each group by (writer, sequence)."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from uuid import uuid4

from receiver.intake.journal import Callback, Group
from receiver.intake.spool import Spool, SpoolFailed

NAMES = 20
"""How many names the writer may take at once (`_renew`). Each is a row of `journal_writer` for WRITER_DAYS."""

NAME_SECONDS = 60.0
"""How long it takes until it may take another."""


_ON_ITS_WAY = -1
"""Instead of a position in the spool: the group is not there yet."""


class GroupNames:
    """Names groups, in the thread that writes them. A writer's groups must reach the journal in their order."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._writer_id, self._sequence = uuid4(), 0
        self._spooled_up_to: int | None = None
        self._paid_until = 0.0
        self._lock = threading.Lock()

    def group(self, callbacks: Sequence[Callback], *, directly: bool) -> Group:
        """The callbacks as the next group. `directly`: it goes to the journal, not to the spool."""
        if directly:
            self._renew()
        self._sequence += 1
        return Group(self._writer_id, self._sequence, tuple(callbacks))

    def handed_over(self) -> None:
        """The group that was named last goes to the spool after all."""
        self._spooled_up_to = _ON_ITS_WAY

    def spooled(self, group: Group, position: int | None) -> None:
        """The group is in the spool, at this position; None: it could not be kept there. Any thread may call it."""
        with self._lock:
            if group.writer_id == self._writer_id:
                self._spooled_up_to = position

    def may_go_on(self) -> bool:
        """Whether groups may go directly to the journal: under the present name, or under one more."""
        # A database that is back only for moments would take a name, and so a row, each time.
        return self._is_drained() or self._paid_until - time.monotonic() <= (NAMES - 1) * NAME_SECONDS

    def _renew(self) -> None:
        """Take a new name if groups of the present one are in the spool, or on their way: the next goes past them."""
        with self._lock:
            if not self._is_drained():
                self._writer_id, self._sequence = uuid4(), 0
                self._paid_until = max(time.monotonic(), self._paid_until) + NAME_SECONDS
            self._spooled_up_to = None

    def _is_drained(self) -> bool:
        """Whether nothing that goes by the present name is in the spool, or on its way there."""
        up_to = self._spooled_up_to
        try:
            return up_to is None or (up_to != _ON_ITS_WAY and self._spool.is_past(up_to))
        except SpoolFailed:
            return False
