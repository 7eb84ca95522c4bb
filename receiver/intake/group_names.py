"""The names of a writer's groups: Postgres and the spool know each group by (writer, sequence)."""

from __future__ import annotations

import time
from collections.abc import Sequence
from uuid import uuid4

from receiver.intake.journal import Callback, Group
from receiver.intake.spool import Spool, SpoolFailed

NAMES = 20
"""How many names the writer may take at once (`_renew`). Each is a row of `journal_writer` for WRITER_DAYS."""

NAME_SECONDS = 60.0
"""How long it takes until it may take another."""


class GroupNames:
    """Names groups, in the writer's thread. A writer's groups must reach the journal in their order."""

    def __init__(self, spool: Spool) -> None:
        self._spool = spool
        self._writer_id, self._sequence = uuid4(), 0
        self._spooled_up_to: int | None = None
        self._paid_until = 0.0

    def group(self, callbacks: Sequence[Callback], *, directly: bool) -> Group:
        """The callbacks as the next group. `directly`: it goes to the journal, not to the spool."""
        if directly:
            self._renew()
        self._sequence += 1
        return Group(self._writer_id, self._sequence, tuple(callbacks))

    def spooled(self, position: int) -> None:
        """The group that was named last is in the spool, at this position."""
        self._spooled_up_to = position

    def may_go_on(self) -> bool:
        """Whether groups may go directly to the journal: under the present name, or under one more."""
        # A database that is back only for moments would take a name, and so a row, each time.
        return self._is_drained() or self._paid_until - time.monotonic() <= (NAMES - 1) * NAME_SECONDS

    def _renew(self) -> None:
        """Take a new name if the spool still holds groups of the present one: the next group goes past them."""
        if not self._is_drained():
            self._writer_id, self._sequence = uuid4(), 0
            self._paid_until = max(time.monotonic(), self._paid_until) + NAME_SECONDS
        self._spooled_up_to = None

    def _is_drained(self) -> bool:
        """Whether nothing that goes by the present name is in the spool."""
        try:
            return self._spooled_up_to is None or self._spool.is_past(self._spooled_up_to)
        except SpoolFailed:
            return False
