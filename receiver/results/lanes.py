"""Which waiting callbacks a group is made of: fair to all batches, and without walking over what was settled.

Callbacks wait in the order of their ids, in the common lane. A batch that fills a good part of a full group is crowded:
it gets a lane of its own, and the common lane passes over it. Each group takes what waits in the common lane first, and
then from one crowded batch, in turn. So others wait no longer than a group takes, however much one batch sends and
however much its bodies cost. A crowded batch returns to the common lane once nothing is left in its own.

Each lane remembers up to where it was looked through, its floor. Ids are given before the commit, and web processes
commit beside each other, so the floor stays `STRAGGLER_SECONDS` behind; what was committed later still is found by a
look from the low-water mark (receiver/database/low_water_mark.py), which is done the more rarely the longer it takes.
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
"""Most callbacks that one transaction settles."""

GROUP_BYTES = 1 << 20
"""About the most bytes of bodies that one transaction settles: as they are stored, and as they are when unpacked."""

CROWDED_SHARE = 0.25
"""Of a full group: a batch that has this much of it is crowded."""

WHOLE_LOOK_SECONDS = 2.0
"""How often a lane is looked through from the low-water mark."""

STRAGGLER_SECONDS = 1.0
"""How long after its neighbours a callback may be committed and still be found by the next look."""

_WHOLE_LOOKS = 100
"""One part in so many of the time goes to looks from the low-water mark: an upload can hold it back for minutes."""

_FEWEST_CALLBACKS = 8


class Look(NamedTuple):
    """Callbacks that are locked now; `more`: others wait in the same lane."""

    found: list[Waiting]
    more: bool


class Lane:
    """Up to where the callbacks of one crowded batch, or of all other batches, were looked through."""

    def __init__(self) -> None:
        # When it was looked at, and the id below which nothing was left then.
        self._looks: deque[tuple[float, int]] = deque()
        self._whole_look_at = 0.0
        self._most = GROUP_CALLBACKS

    def look(
        self,
        conn: Connection,
        limit: int,
        *,
        batch_id: int | None = None,
        without_batches: Sequence[int] = (),
        without_ids: Sequence[int] = (),
    ) -> Look:
        """Lock what is to be settled next, of one batch or of all but some."""
        began = time.monotonic()
        whole = began >= self._whole_look_at
        # What others hold back from us, or never vacuumed, is below this; unless the look finds that more waits.
        newest = newest_callback(conn) if whole or without_batches else None
        floor = 0 if whole else self._floor(began)
        limit = min(limit, self._most)
        found = lock_waiting(
            conn, limit, floor=floor, batch_id=batch_id, without_batches=without_batches, without_ids=without_ids
        )
        full = len(found) == limit
        if found:
            self._looks.append((began, found[0].callback_id))
        if newest is not None and not full:
            self._looks.append((began, newest))
        if whole:
            took = time.monotonic() - began
            self._whole_look_at = began + max(WHOLE_LOOK_SECONDS, took * _WHOLE_LOOKS)
        fitting = _fitting(found)
        return Look(fitting, full or len(fitting) < len(found))

    def settled(self, settled: int, found: int) -> None:
        """A group was full with so many of those found: the next look locks few more than that."""
        if settled == found:
            self._most = min(2 * self._most, GROUP_CALLBACKS)
        elif settled:
            self._most = max(2 * settled, _FEWEST_CALLBACKS)

    def _floor(self, now: float) -> int:
        before = now - STRAGGLER_SECONDS
        while len(self._looks) > 1 and self._looks[1][0] <= before:
            self._looks.popleft()
        return self._looks[0][1] if self._looks and self._looks[0][0] <= before else 0


def _fitting(found: list[Waiting]) -> list[Waiting]:
    """As many of them as `GROUP_BYTES` allow, at least one."""
    total = 0
    for place, waiting in enumerate(found):
        total += waiting.body_bytes
        if total > GROUP_BYTES:
            return found[: max(place, 1)]
    return found


class Lanes:
    """The common lane, and those of crowded batches."""

    def __init__(self) -> None:
        self._common = Lane()
        self._crowded: dict[int, Lane] = {}
        """In the order of their turns."""
        self._turn = 0
        self._looks: tuple[Look, Look | None] = Look([], False), None
        """What the latest look found: in the common lane, and in that of the batch `_turn`."""

    def look(self, conn: Connection, without_ids: Sequence[int] = ()) -> list[Waiting]:
        """Lock the callbacks of the next group, in the order in which they are to be read."""
        limit = GROUP_CALLBACKS // 2 if self._crowded else GROUP_CALLBACKS
        common = self._common.look(conn, limit, without_batches=list(self._crowded), without_ids=without_ids)
        crowded = None
        if self._crowded:
            self._turn = batch_id = next(iter(self._crowded))
            lane = self._crowded[batch_id] = self._crowded.pop(batch_id)  # at the end of the turns
            crowded = lane.look(conn, GROUP_CALLBACKS - len(common.found), batch_id=batch_id, without_ids=without_ids)
        self._looks = common, crowded
        return [*common.found, *(crowded.found if crowded else ())]

    def settled(self, read: Sequence[Read]) -> bool:
        """Take note that so many of those that the look found were read, and settled. Returns whether more waits."""
        common, crowded = self._looks
        of_common = read[: len(common.found)]
        self._common.settled(len(of_common), len(common.found))
        if common.more or len(of_common) < len(common.found):
            self._find_crowded(of_common)
        if crowded is not None:
            of_crowded = len(read) - len(of_common)
            self._crowded[self._turn].settled(of_crowded, len(crowded.found))
            if not crowded.more and of_crowded == len(crowded.found):
                del self._crowded[self._turn]
        return common.more or bool(self._crowded) or len(of_common) < len(common.found)

    def _find_crowded(self, read: Sequence[Read]) -> None:
        """Give batches that filled a good part of a full group lanes of their own."""
        shares: defaultdict[int, float] = defaultdict(float)
        for stored, _, unpacked_bytes in read:
            of_bytes = (len(stored.packed_body) + unpacked_bytes) / GROUP_BYTES
            shares[stored.batch_id] += 1 / GROUP_CALLBACKS + of_bytes
        for batch_id, share in shares.items():
            if share >= CROWDED_SHARE:
                self._crowded.setdefault(batch_id, Lane())
