"""Follow-ups: which calls of an earlier batch are called again, each at most once.

The chosen calls are queued like the contacts of a CSV. Each is linked to its earlier call; a unique key of the links
ensures that no call is followed up twice. The links of several follow-ups form a chain for each first call.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from psycopg.rows import dict_row
from psycopg.types.json import Json

from receiver.database.arrays import bigints, columns, integers
from receiver.database.locks import keep_batch, share_copies
from receiver.database.pool import Connection
from receiver.errors import Fault, NotFound, ReceiverError
from receiver.model import OUTCOMES
from receiver.queueing.batches import PARAMETER_COLUMNS
from receiver.queueing.contacts import Contact
from receiver.queueing.form_fields import days_text, hours_text
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.queueing.recent import FindRecent
from receiver.queueing.stored_rows import BLOCK_ROWS, OF_BLOCK, get_stored_rows, read_block
from receiver.queueing.suppressions import find_suppressed
from receiver.text.csv_line import read_csv_line

FOLLOWED_OUTCOMES = tuple(outcome for outcome in OUTCOMES if outcome != "completed")
DEFAULT_OUTCOMES = ("failed", "rejected")
INCLUDABLE = ("refused", "withdrawn", "overdue")

LEFT_OUT = (
    "skipped",
    "completed",
    "pending",
    "unknown",
    "overdue",
    "refused",
    "withdrawn",
    "suppressed",
    "followed_up",
    "recent",
    "erased",
    "not_chosen",
)
"""Why a row is not followed up. It is counted under the first reason that applies."""

CALL_STATE = """case when r.outcome is not null then 'final' when o.row is not null then 'refused'
    when w.row is not null or s.state = 'withdrawn' then 'withdrawn'
    when s.overdue_at is not null then 'overdue' else 'pending' end"""
"""SQL: the state of a call, from its submission `s`, its result `r`, and its rows in `withdrawn` `w` and among the
refused ones in `outstanding` `o`."""


def list_reasons(left_out: Mapping[str, int]) -> str:
    return ", ".join(f"{rows} {reason.replace('_', ' ')}" for reason, rows in left_out.items() if rows)


class NothingToFollowUp(ReceiverError):
    """No call was chosen."""

    code = "nothing_to_follow_up"

    def __init__(self, left_out: Mapping[str, int]) -> None:
        message = f"No call of this batch can be followed up. Left out: {list_reasons(left_out)}."
        super().__init__(message, left_out=left_out)


@dataclass(frozen=True, slots=True)
class FollowUp:
    """Which calls of a batch are chosen: those with these outcomes, and in these other states (of INCLUDABLE)."""

    batch_id: int
    outcomes: Collection[str] = DEFAULT_OUTCOMES
    include: Collection[str] = ()


class _Call(NamedTuple):
    row: int
    phone_number: int
    line: str
    state: str
    outcome: str | None
    in_doubt: bool
    followed_up: bool


class ChosenCalls:
    """The chosen calls as contacts, numbered from 1. Each iteration chooses again, in blocks.

    `left_out`: how many rows were not chosen, by reason, after an iteration. It reads over `conn` only when a block
    begins. Raises NotFound.
    """

    warnings: tuple[Fault, ...] = ()

    def __init__(self, conn: Connection, wanted: FollowUp) -> None:
        self._conn = conn
        self._wanted = wanted
        self.leave_out_recent: FindRecent = lambda _: {}
        self._stored = get_stored_rows(conn, wanted.batch_id)
        self.columns: tuple[str, ...] = tuple(self._stored.columns)
        self.first_batch_id = self._stored.first_batch_id
        self.simulated = self._stored.simulated
        self._rows = array("i")
        self.left_out = dict.fromkeys(LEFT_OUT, 0)

    @property
    def chosen(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Contact]:
        self._rows = array("i")
        self.left_out = dict.fromkeys(LEFT_OUT, 0) | {"skipped": self._stored.skipped}
        for block in self._stored.blocks():
            calls = [_Call(*row) for row in read_block(self._conn, _BLOCK, block)]
            numbers = [call.phone_number for call in calls if call.phone_number > 0]
            suppressed, recent = find_suppressed(self._conn, numbers), self.leave_out_recent(numbers)
            answered = list_answered(self._conn, self._wanted.batch_id, [call.row for call in calls])
            for call in calls:
                reason = "completed" if call.row in answered else self._reason(call, suppressed, recent)
                if reason is not None:
                    self.left_out[reason] += 1
                    continue
                self._rows.append(call.row)
                destination, *cells = read_csv_line(call.line)
                yield Contact(len(self._rows), destination, call.phone_number, None, tuple(cells))

    def _reason(self, call: _Call, suppressed: Collection[int], recent: Collection[int]) -> str | None:
        """Why the call is left out; None: it is chosen."""
        if call.outcome == "completed":
            return "completed"
        if call.state in ("pending", "overdue") and call.in_doubt:
            return "unknown"
        if call.state == "pending" or (call.state in INCLUDABLE and call.state not in self._wanted.include):
            return call.state
        if call.phone_number in suppressed:
            return "suppressed"
        if call.followed_up:
            return "followed_up"
        if call.phone_number in recent:
            return "recent"
        if call.phone_number < 0:
            return "erased"
        return "not_chosen" if call.state == "final" and call.outcome not in self._wanted.outcomes else None

    def link(self, batch_id: int) -> bool:
        """Store that the batch is made of the chosen calls. False: another follow-up or a purge was faster; roll back.

        A chosen row that was skipped has no call, and is not linked.
        """
        self._conn.execute(
            "update batch set follows = %s, first_batch_id = %s, left_out = %s where batch_id = %s",
            (self._wanted.batch_id, self.first_batch_id, Json(self.left_out), batch_id),
        )
        if not keep_batch(self._conn, self._wanted.batch_id):
            return False
        for at in range(0, len(self._rows), BLOCK_ROWS):
            rows = self._rows[at : at + BLOCK_ROWS]
            linked, queued = self._conn.execute(
                _LINK,
                {
                    "batch_id": self._wanted.batch_id,
                    "rows": integers(rows),
                    "next_batch_id": batch_id,
                    "next_rows": integers(range(at + 1, at + 1 + len(rows))),
                },
            ).fetchall()[0]
            if linked < queued:
                return False
        return True


_BLOCK = f"""
select c.row, c.phone_number, c.line, {CALL_STATE}, r.outcome, s.state = 'unknown', f.row is not null
from (select * from call where {OF_BLOCK}) c join submission s using (batch_id, submission_no)
    left join (select row, outcome from result where {OF_BLOCK}) r using (row)
    left join (select row from outstanding where {OF_BLOCK} and refused) o using (row)
    left join (select row from withdrawn where {OF_BLOCK}) w using (row)
    left join (select row from follow_up where {OF_BLOCK}) f using (row)
order by c.row
"""

_LINK = """
with queued as (
    select g.row, g.next_row from unnest(%(rows)b::integer[], %(next_rows)b::integer[]) as g (row, next_row)
        join call c on c.batch_id = %(next_batch_id)s and c.row = g.next_row
), linked as (
    insert into follow_up (batch_id, row, next_batch_id, next_row)
    select %(batch_id)s, row, %(next_batch_id)s, next_row from queued order by row
    on conflict (batch_id, row) do nothing returning row
)
select (select count(*) from linked), (select count(*) from queued)
"""


def list_answered(conn: Connection, batch_id: int, rows: Collection[int]) -> set[int]:
    """Those of a batch's calls of which an earlier call, or one before that, is completed."""
    found = conn.execute(
        """
        with recursive earlier as (
            select next_row, batch_id, row from follow_up
            where next_batch_id = %(batch_id)s and next_row = any(%(rows)b)
            union all
            select e.next_row, f.batch_id, f.row from earlier e
                join follow_up f on f.next_batch_id = e.batch_id and f.next_row = e.row
        )
        select distinct next_row from earlier join result using (batch_id, row) where outcome = 'completed'
        """,
        {"batch_id": batch_id, "rows": integers(rows)},
        prepare=True,
    )
    return {row for (row,) in found}


def list_unreleased(conn: Connection, calls: Collection[tuple[int, int]]) -> list[tuple[int, int]]:
    """The unreleased calls, (batch_id, row), that follow up these calls or their follow-ups."""
    return conn.execute(
        """
        with recursive later as (
            select next_batch_id as batch_id, next_row as row
            from unnest(%b::bigint[], %b::integer[]) as g (batch_id, row) join follow_up using (batch_id, row)
            union all
            select next_batch_id, next_row from later join follow_up using (batch_id, row)
        )
        select batch_id, row
        from later join call using (batch_id, row) join submission s using (batch_id, submission_no)
        where s.state = 'pending' order by batch_id, row
        """,
        columns(calls, bigints, integers),
        prepare=True,
    ).fetchall()


def follow_up_parameters(conn: Connection, batch_id: int, given: Mapping[str, Any]) -> BatchParameters:
    """The parameters of a follow-up: those given (None, "": without it), else the earlier batch's, but not its window.

    The follow-up is stored in the same transaction: what is read here, such as a name, can contain a number that an
    erasure removes meanwhile. Raises NotFound, InvalidInput.
    """
    share_copies(conn)
    with conn.cursor(row_factory=dict_row) as cursor:
        earlier = cursor.execute(
            f"select {PARAMETER_COLUMNS}, reattempt_wait_seconds as reattempt_wait, opens_minute,"
            " closes_minute, labels from batch where batch_id = %s",
            (batch_id,),
        ).fetchone()
    if earlier is None:
        raise NotFound(f"Batch {batch_id} does not exist.")
    opens, closes, days = (earlier.pop(name) for name in ("opens_minute", "closes_minute", "calling_days"))
    if opens is not None:
        earlier["calling_hours"] = hours_text(opens, closes)
    if days is not None:
        earlier["calling_days"] = days_text(days)
    if not given.get("calling_hours", True):
        for name in ("calling_days", "time_zone", "time_zone_column"):
            earlier.pop(name, None)
    return read_parameters(earlier | dict(given) | {"on_duplicate": "keep"}, earlier["default_region"])
