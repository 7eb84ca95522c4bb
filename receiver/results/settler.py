"""Settles waiting callbacks, group by group: the main loop of a worker."""

from __future__ import annotations

import faulthandler
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from uuid import UUID, uuid4

from receiver.changes.events import Events
from receiver.database.locks import share_results
from receiver.database.pool import GAVE_WAY, Connection, DatabaseUnavailable, Pool, connection, reading
from receiver.database.worker_metrics import Measurements
from receiver.logs import about
from receiver.results.bodies import Read, read_bodies
from receiver.results.groups import LeftGroup, forget_group, halve_group, list_left_groups, mark_group
from receiver.results.lanes import GROUP_BYTES, Lanes
from receiver.results.settlement import set_aside_unsettled, settle_read
from receiver.results.stored import Waiting, find_waiting, get_stored, lock_waiting_ids, remove_waiting

SETTLE = "settle"
"""The name of the measured times from receipt to settlement."""

READING_SECONDS = 120.0
"""The process ends if reading the bodies of one group takes longer. Usually it takes half a second. The group is then
treated as one that killed its settler."""

ALONE_TRIES = 2
"""How often a callback that is alone in its group may kill its settler before it is marked as unreadable."""

_TRIES = 5

STANDARD_ERROR = 2
"""Its file descriptor: `sys.stderr` may be replaced."""

log = logging.getLogger(__name__)


class Settler:
    """Settles waiting callbacks. Several may work at the same time, each in its own process (`_end_if_stuck`)."""

    def __init__(
        self, pool: Pool, measurements: Measurements | None = None, suppress_statuses: Collection[str] = ()
    ) -> None:
        self._pool = pool
        self._suppress_statuses = suppress_statuses
        self._measurements = measurements
        self._group_id = uuid4()
        self._lanes = Lanes()
        self._current = self._group_id, list[int]()
        """The group that is being settled: its id and its callbacks."""
        self.behind = False
        """Whether more callbacks waited than were settled at last."""

    def settle_group(self) -> int:
        """Settle the next group; returns how many callbacks it had. Raises DatabaseUnavailable."""
        for _ in range(_TRIES):
            self._current, self.behind = (self._group_id, []), False
            try:
                return self._settle_next()
            except GAVE_WAY:
                self._lanes = Lanes()  # another worker blocked it; nothing was written
            except DatabaseUnavailable:
                self._lanes = Lanes()
                raise
            except Exception:
                if not self._current[1]:
                    raise
                message = "a group of callbacks could not be settled; settling smaller groups"
                log.exception(message, extra=about("settle_group_failed"))
                self._lanes, self.behind = Lanes(), True
                return self._divide(*self._current)
        return 0

    def _settle_next(self) -> int:
        with connection(self._pool) as conn:
            left = list_left_groups(conn, self._group_id)
            found = self._lanes.lock_next(conn, [callback_id for group in left for callback_id in group.callback_ids])
            read = self._settle(conn, found, self._group_id) if found else []
        more = self._lanes.note_settled(read)
        self._observe(read)
        settled = len(read)
        due = [group for group in left if group.due]
        if due:
            settled += self._settle_left(due[0])
        self.behind = settled > 0 and (more or len(due) > 1)
        return settled

    def _settle(self, conn: Connection, found: list[Waiting], group_id: UUID, tries: int = 1) -> list[Read]:
        """Settle callbacks that this transaction has locked, up to the size of a group; returns these."""
        callback_ids = [waiting.callback_id for waiting in found]
        self._current = group_id, callback_ids
        share_results(conn, {waiting.batch_id for waiting in found})
        with reading(self._pool) as other:
            mark_group(other, group_id, callback_ids, tries)
        stored = get_stored(conn, [waiting[:2] for waiting in found])
        with _end_if_stuck():
            read = read_bodies(stored, GROUP_BYTES)
        events = Events()
        settle_read(conn, read, events, self._suppress_statuses)
        unread = {each.callback_id for each in stored[len(read) :]}
        remove_waiting(conn, [waiting.callback_id for waiting in found if waiting.callback_id not in unread])
        events.write(conn)
        return read

    def _settle_left(self, group: LeftGroup) -> int:
        """Settle a group that another settler has begun, if that settler died. Returns the number of settled
        callbacks."""
        with connection(self._pool) as conn:
            found = lock_waiting_ids(conn, group.callback_ids)
            if len(found) < len(find_waiting(conn, group.callback_ids)):
                return 0  # it is being settled
            if group.tries > 0 and len(found) > 1:
                halve_group(conn, group.group_id, [each.callback_id for each in found])
                log.warning(
                    "a process died while it settled a group of %d callbacks; settling smaller groups", len(found),
                    extra=about("settle_group_left", callbacks=len(found)),
                )  # fmt: skip
                return 0
            if not found or group.tries >= ALONE_TRIES:
                return self._give_up(conn, group.group_id, found)
            read = self._settle(conn, found, group.group_id, group.tries + 1)
            if len(read) == len(found):
                forget_group(conn, group.group_id)
            else:
                mark_group(conn, group.group_id, [each.callback_id for each in found[len(read) :]], tries=0)
        self._observe(read)
        return len(read)

    def _divide(self, group_id: UUID, callback_ids: list[int]) -> int:
        """Halve a group that cannot be settled, or give up its only callback. Returns the number of settled
        callbacks."""
        with connection(self._pool) as conn:
            if len(callback_ids) > 1:
                halve_group(conn, group_id, callback_ids)
                return 0
            return self._give_up(conn, group_id, lock_waiting_ids(conn, callback_ids))

    def _give_up(self, conn: Connection, group_id: UUID, found: Sequence[Waiting]) -> int:
        """Mark callbacks that cannot be settled as unreadable, and forget their group; returns how many they are. They
        can be replayed once the fault is fixed."""
        share_results(conn, [waiting.batch_id for waiting in found])
        for each in found:
            log.error(
                "callback %d cannot be settled", each.callback_id,
                extra=about("callback_not_settled", batch_id=each.batch_id, callback_id=each.callback_id),
            )  # fmt: skip
        set_aside_unsettled(conn, get_stored(conn, [waiting[:2] for waiting in found]))
        remove_waiting(conn, [waiting.callback_id for waiting in found])
        forget_group(conn, group_id)
        return len(found)

    def _observe(self, read: Sequence[Read]) -> None:
        if self._measurements is not None:
            now = datetime.now(UTC)
            self._measurements.observe(SETTLE, [(now - each.stored.received_at).total_seconds() for each in read])


@contextmanager
def _end_if_stuck() -> Iterator[None]:
    """End this process if the block takes too long, even if it never releases Python's lock.

    A process has only one such timer.
    """
    faulthandler.dump_traceback_later(READING_SECONDS, exit=True, file=STANDARD_ERROR)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
