"""Chooses the waiting callbacks of the next group: fair to all batches, and without scanning settled rows again.

Callbacks wait in the order of their ids, in the common lane. A batch that fills a large part of a full group is busy:
it gets its own lane, and the common lane skips it. Each group consists of callbacks of the common lane, and then of one
busy batch, in turn. So other batches never wait longer than for one group, even if a busy batch sends very much. A busy
batch returns to the common lane when its own lane is empty.

Each lane has a floor, the id below which it need not scan. Ids are assigned before the commit, and web processes commit
at the same time. So the floor stays `STRAGGLER_SECONDS` behind. Callbacks that are committed even later are found by a
full scan from the low-water mark (receiver/database/low_water_mark.py). The longer a full scan takes, the rarer it is.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Sequence
from typing import NamedTuple

from receiver.database.pool import Connection
from receiver.results.bodies import Read
from receiver.results.stored import Waiting, lock_waiting, newest_callback

GROUP_CALLBACKS = 500
"""The most callbacks that one transaction settles."""

GROUP_BYTES = 1 << 20
"""About the most bytes of bodies that one transaction settles, both as stored and decompressed."""

BUSY_SHARE = 0.25
"""A batch that has this share of a full group is busy."""

FULL_SCAN_SECONDS = 2.0
"""The least time between two full scans of a lane."""

STRAGGLER_SECONDS = 1.0
"""A callback that is committed this long after its neighbours is still found without a full scan."""

_FULL_SCANS = 100
"""Full scans take at most 1 / _FULL_SCANS of the time: a long upload can make them slow for minutes."""

_FEWEST_CALLBACKS = 8


class Locked(NamedTuple):
    """Callbacks that are locked now. `more`: others wait in the same lane."""

    found: list[Waiting]
    more: bool


class Lane:
    """The callbacks of one busy batch, or of all other batches, and how far they were scanned."""

    def __init__(self, batch_id: int | None = None) -> None:
        self._batch_id = batch_id
        # (time of a scan, id below which nothing was left then)
        self._scans: deque[tuple[float, int]] = deque()
        self._full_scan_at = 0.0
        self._limit = GROUP_CALLBACKS

    def lock(
        self, conn: Connection, limit: int, without_ids: Sequence[int], without_batches: Sequence[int] = ()
    ) -> Locked:
        """Lock the next callbacks, of the lane's batch or of all but some."""
        began = time.monotonic()
        is_full_scan = began >= self._full_scan_at
        # If the scan finds fewer callbacks than its limit, only locked and dead rows are left below this id.
        newest = newest_callback(conn) if is_full_scan or without_batches else None
        floor = 0 if is_full_scan else self._floor(began)
        limit = min(limit, self._limit)
        batch_id = self._batch_id
        found = lock_waiting(
            conn, limit, floor=floor, batch_id=batch_id, without_batches=without_batches, without_ids=without_ids
        )
        full = len(found) == limit
        if found:
            self._scans.append((began, found[0].callback_id))
        if newest is not None and not full:
            self._scans.append((began, newest))
        if is_full_scan:
            seconds = time.monotonic() - began
            self._full_scan_at = began + max(FULL_SCAN_SECONDS, seconds * _FULL_SCANS)
        fitting = _fitting(found)
        return Locked(fitting, full or len(fitting) < len(found))

    def note_settled(self, settled: int, locked: int) -> None:
        """Record that only `settled` of the locked callbacks fitted into the group. The next scan locks only a few
        more."""
        if settled == locked:
            self._limit = min(2 * self._limit, GROUP_CALLBACKS)
        elif settled:
            self._limit = max(2 * settled, _FEWEST_CALLBACKS)

    def _floor(self, now: float) -> int:
        before = now - STRAGGLER_SECONDS
        while len(self._scans) > 1 and self._scans[1][0] <= before:
            self._scans.popleft()
        return self._scans[0][1] if self._scans and self._scans[0][0] <= before else 0


def _fitting(found: list[Waiting]) -> list[Waiting]:
    """The first callbacks that together do not exceed `GROUP_BYTES`, at least one."""
    total = 0
    for place, waiting in enumerate(found):
        total += waiting.body_bytes
        if total > GROUP_BYTES:
            return found[: max(place, 1)]
    return found


class Lanes:
    """The common lane, and the lanes of busy batches."""

    def __init__(self) -> None:
        self._common = Lane()
        self._busy: dict[int, Lane] = {}
        """In the order of their turns."""
        self._turn = 0
        self._locked: tuple[Locked, Locked | None] = Locked([], False), None
        """What was locked last: in the common lane, and in the lane of the batch `_turn`."""

    def lock_next(self, conn: Connection, without_ids: Sequence[int] = ()) -> list[Waiting]:
        """Lock the callbacks of the next group, in the order in which they will be read."""
        limit = GROUP_CALLBACKS // 2 if self._busy else GROUP_CALLBACKS
        common = self._common.lock(conn, limit, without_ids, list(self._busy))
        busy = None
        if self._busy:
            self._turn = batch_id = next(iter(self._busy))
            lane = self._busy[batch_id] = self._busy.pop(batch_id)  # at the end of the turns
            busy = lane.lock(conn, GROUP_CALLBACKS - len(common.found), without_ids)
        self._locked = common, busy
        return [*common.found, *(busy.found if busy else ())]

    def note_settled(self, read: Sequence[Read]) -> bool:
        """Record which of the locked callbacks were settled. Returns whether more callbacks wait."""
        common, busy = self._locked
        common_read = read[: len(common.found)]
        self._common.note_settled(len(common_read), len(common.found))
        if common.more or len(common_read) < len(common.found):
            self._find_busy(common_read)
        if busy is not None:
            busy_read = len(read) - len(common_read)
            self._busy[self._turn].note_settled(busy_read, len(busy.found))
            if not busy.more and busy_read == len(busy.found):
                del self._busy[self._turn]
        return common.more or bool(self._busy) or len(common_read) < len(common.found)

    def _find_busy(self, read: Sequence[Read]) -> None:
        """Give each batch that filled a large part of a full group its own lane."""
        shares: defaultdict[int, float] = defaultdict(float)
        for stored, _, unpacked_bytes in read:
            share_of_bytes = (len(stored.packed_body) + unpacked_bytes) / GROUP_BYTES
            shares[stored.batch_id] += 1 / GROUP_CALLBACKS + share_of_bytes
        for batch_id, share in shares.items():
            if share >= BUSY_SHARE:
                self._busy.setdefault(batch_id, Lane(batch_id))
