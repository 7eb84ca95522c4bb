"""Erases one phone number everywhere, on request. All counts and outcomes stay.

A call keeps its row, its result and its times. Its number is replaced by its negative row number, its line of the CSV
by `erased` and then empty cells, and its bodies by a marker. A call that was not sent yet is not sent. From other
texts, only the number is removed.

Everything is first searched without locks. Then the rows that were found are locked, read again and changed, a few rows
per transaction, in the order of `receiver.database.locks`. So no concurrent change is lost. A callback that is received
later contains the number again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, TypeVar

import psycopg

from receiver.changes.audit import record_change
from receiver.changes.events import Events
from receiver.database.locks import STRIPES, lock_batches, own_results, wait_for_copies
from receiver.database.pool import Connection
from receiver.errors import ReceiverError
from receiver.intake.journal import Callback
from receiver.model import masked
from receiver.phone_numbers.masking import Mentions
from receiver.queueing.submissions import header_line
from receiver.queueing.suppressions import erase_suppression
from receiver.release.calls import refuse_calls
from receiver.release.resolution import NOBODY_LEFT
from receiver.release.states import refresh_state
from receiver.results.erased_bodies import erase_bodies, erase_mentions, list_bodies, list_waiting, mentions_number
from receiver.results.erased_texts import blank_line, is_in_draft, without_number
from receiver.results.stored_texts import Key, Table, find_rows, list_tables, read_locked, write_texts

CHANGED_AT_ONCE = 500
"""The most rows that one transaction changes, because settlement waits for it."""

_T = TypeVar("_T")


class NotErasable(ReceiverError):
    """The number is in use now. What is in use was not changed."""

    code = "in_use"


@dataclass(frozen=True, slots=True)
class Erased:
    """How much was erased, or would be. `contacts`: rows of other calls that mention the number. `texts`: all other
    texts, such as names, answers and notes. `searched`: rows and bodies that were searched, rounded down.
    """

    calls: int = 0
    contacts: int = 0
    skipped: int = 0
    callbacks: int = 0
    texts: int = 0
    drafts: int = 0
    suppressions: int = 0
    awaited: int = 0
    """The part of `calls` that may still get a result, whose callback will contain the number again."""
    searched: int = field(default=0, compare=False)

    def __add__(self, other: Erased) -> Erased:
        return Erased(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))


def count_calls(conn: Connection, phone_number: int) -> tuple[int, int]:
    """How many calls to the number there are, and in how many batches. Fast, because there is an index."""
    counted = "select count(*), count(distinct batch_id) from call where phone_number = %s"
    calls, batches = conn.execute(counted, (phone_number,)).fetchall()[0]
    return calls, batches


def erase(conn: Connection, phone_number: int, spooled: Iterable[Callback] = (), *, by: str) -> Iterator[Erased]:
    """Erase a number (E.164 without the plus sign) in steps. `by`: for the audit trail.

    Yields what each step erased; the caller commits, or rolls back for a dry run. It can be repeated. Raises
    NotErasable at once if callbacks with the number wait to be settled, in the database or among `spooled`, and at the
    end if a batch was in use.
    """
    yield from _Erasure(conn, phone_number, by).run(spooled)


class _Erasure:
    def __init__(self, conn: Connection, phone_number: int, by: str) -> None:
        self._conn = conn
        self._by = by
        self._phone_number = phone_number
        self._mentions = Mentions(phone_number)
        self._in_use: set[int] = set()
        """Batches that could not be changed."""
        self._erased: set[tuple[Any, ...]] = set()
        """Rows that were searched and changed: a dry run would find them a second time."""
        self._seen_waiting = 0
        """Callbacks up to this id do not mention the number, or are settled."""

    def run(self, spooled: Iterable[Callback]) -> Iterator[Erased]:
        self._check_unsettled(spooled)
        # In the transaction of the first step: also if a later step fails, the trail says who erased something.
        record_change(self._conn, self._by, "erase", details={"phone_number": masked(self._phone_number)})
        yield Erased(suppressions=erase_suppression(self._conn, self._phone_number))
        # Drafts first. A draft that is being queued is locked: when it can be deleted, its batch exists.
        for (draft_id,) in self._conn.execute("select draft_id from draft order by draft_id").fetchall():
            if is_in_draft(self._conn, draft_id, self._mentions):
                deleted = self._conn.execute("delete from draft where draft_id = %s", (draft_id,)).rowcount
                yield Erased(drafts=deleted)
        called = self._list_called()
        yield from map(self._erase_calls, called)
        copied = []
        for table in list_tables(self._conn):
            for erased in self._erase_texts(table):
                if table.name in ("batch", "call") and erased.contacts + erased.texts and table not in copied:
                    copied.append(table)
                yield erased
        yield from self._erase_bodies()
        # Batches that were queued in the meantime. A follow-up may have copied rows before they were erased.
        wait_for_copies(self._conn)
        yield Erased()
        yield from map(self._erase_calls, sorted(set(self._list_called()) - set(called)))
        for table in copied:
            yield from self._erase_texts(table)
        if self._in_use:
            batches = ", ".join(map(str, sorted(self._in_use)))
            raise NotErasable(
                "Everything else is erased, but these batches are being sent, or have callbacks that are not yet"
                f" settled: {batches}. Repeat the erasure in a moment."
            )

    def _check_unsettled(self, spooled: Iterable[Callback]) -> None:
        """Refuse if callbacks are not settled: an erased call would not be found for them, and would get no result."""
        if any(mentions_number(self._mentions, callback) for callback in spooled):
            raise NotErasable(
                "Nothing was erased, because callbacks in this machine's spool contain the number. Wait until they have"
                " reached the database, then repeat the erasure."
            )
        for piece in list_waiting(self._conn):
            if any(mentions_number(self._mentions, body) for body in piece):
                raise NotErasable(
                    "Nothing was erased, because callbacks that contain the number are not settled yet. Start a worker,"
                    " then repeat the erasure."
                )
            self._seen_waiting = piece[-1].callback_id

    def _list_called(self) -> list[int]:
        found = self._conn.execute(
            "select distinct batch_id from call where phone_number = %s order by batch_id", (self._phone_number,)
        )
        return [batch_id for (batch_id,) in found]

    def _erase_calls(self, batch_id: int) -> Erased:
        """Erase the calls to the number in one batch, and their callbacks. Unsent calls are refused."""
        conn = self._conn
        # No settlement may run at the same time: it may already have found the call by its number.
        own_results(conn, [batch_id])
        lock_batches(conn, [batch_id])
        called = conn.execute(
            "select submission_no, row, line from call where batch_id = %s and phone_number = %s order by row",
            (batch_id, self._phone_number),
        ).fetchall()
        states = self._lock_submissions(batch_id, {submission_no for submission_no, *_ in called})
        waiting = chain.from_iterable(list_waiting(conn, self._seen_waiting, batch_id))
        if "sending" in states.values() or any(mentions_number(self._mentions, body) for body in waiting):
            self._in_use.add(batch_id)
            return Erased()
        rows = [row for _, row, _ in called]
        given = {"batch_id": batch_id, "rows": rows}
        received = conn.execute(
            "select callback_id from result where batch_id = %(batch_id)s and row = any(%(rows)s)"
            " union select callback_id from set_aside where batch_id = %(batch_id)s and row = any(%(rows)s)",
            given,
        ).fetchall()
        self._erased.update(("call", batch_id, row) for row in rows)
        self._erased.update(("callback", batch_id, callback_id) for (callback_id,) in received)
        for _, row, line in called:
            conn.execute(
                "update call set line = %s, phone_number = %s where batch_id = %s and row = %s",
                (blank_line(line), -row, batch_id, row),
            )
        callbacks = erase_bodies(conn, batch_id, [callback_id for (callback_id,) in received])
        events = Events()
        for submission_no, state in states.items():
            if state == "pending":
                refuse_calls(conn, batch_id, [submission_no], events, erased_only=True)
        self._update_unsent(batch_id, states, events)
        conn.execute("update result set area = null where batch_id = %(batch_id)s and row = any(%(rows)s)", given)
        conn.execute("delete from poll where batch_id = %(batch_id)s and row = any(%(rows)s)", given)
        awaited = conn.execute(
            "select from outstanding where batch_id = %(batch_id)s and not refused and row = any(%(rows)s)", given
        ).rowcount
        events.write(conn)
        return Erased(calls=len(rows), callbacks=callbacks, awaited=awaited)

    def _lock_submissions(self, batch_id: int, numbers: Iterable[int] | None = None) -> dict[int, str]:
        """Lock submissions (by default all) of a locked batch; returns their states by number."""
        condition = "" if numbers is None else " and submission_no = any(%s)"
        return dict(
            self._conn.execute(
                f"select submission_no, state from submission where batch_id = %s{condition}"
                " order by submission_no for update",
                (batch_id, *(() if numbers is None else (list(numbers),))),
            ).fetchall()
        )

    def _update_unsent(self, batch_id: int, states: dict[int, str], events: Events) -> None:
        """Recompute the size of unsent submissions, and refuse those without calls."""
        conn = self._conn
        numbers = [number for number, state in states.items() if state in ("pending", "unknown")]
        batch = conn.execute("select columns from batch where batch_id = %s", (batch_id,)).fetchone()
        if not numbers or batch is None:
            return
        measured: dict[int, int] = dict(
            conn.execute(
                "select submission_no, sum(octet_length(line) + 2) from call c where batch_id = %s"
                " and submission_no = any(%s) and phone_number > 0 and not exists (select from withdrawn w"
                " where w.batch_id = c.batch_id and w.row = c.row) group by submission_no",
                (batch_id, numbers),
            ).fetchall()
        )
        header_bytes = len(header_line(batch[0]).encode()) + 2
        for number in numbers:
            conn.execute(
                "update submission set csv_bytes = %s where batch_id = %s and submission_no = %s",
                (header_bytes + measured.get(number, 0), batch_id, number),
            )
            if number not in measured and states[number] == "pending":
                conn.execute(
                    "update submission set state = 'refused', answered_at = now(), error = %s, error_code = 'erased'"
                    " where batch_id = %s and submission_no = %s",
                    (NOBODY_LEFT, batch_id, number),
                )
                events.add("submission.refused", batch_id, number)
                refresh_state(conn, [batch_id], events)

    def _erase_texts(self, table: Table) -> Iterator[Erased]:
        """Erase the number from all texts of a table."""
        again = True
        while again:
            again = False
            for searched, rows in find_rows(self._conn, table, self._mentions.sieve):
                keys = [
                    row.key
                    for row in rows
                    if (table.name, *row.key) not in self._erased
                    and without_number(table.name, row.texts, self._mentions)
                ]
                for some in _pieces(keys):
                    erased = self._change(table, some)
                    self._erased.update((table.name, *key) for key in some)
                    # If a text is part of the key, a concurrent erasure may have changed the key.
                    again = again or (erased.texts < len(some) and not table.columns.keys().isdisjoint(table.key))
                    yield erased
                if searched:
                    yield Erased(searched=searched)

    def _change(self, table: Table, keys: Sequence[Key]) -> Erased:
        if table.key[0] != "batch_id":
            own_results(self._conn, range(STRIPES))  # a settlement may suppress a number
            return Erased(texts=self._write(table, keys))
        by_batch: defaultdict[int, list[Key]] = defaultdict(list)
        for key in keys:
            by_batch[key[0]].append(key)
        own_results(self._conn, by_batch)
        lock_batches(self._conn, by_batch)
        total, events = Erased(), Events()
        for batch_id, its_keys in by_batch.items():
            match table.name:
                case "call":
                    total += Erased(contacts=self._change_lines(table, batch_id, its_keys, events))
                case "skipped":
                    total += Erased(skipped=self._write(table, its_keys))
                case "batch":
                    total += Erased(texts=self._change_batch(table, batch_id, events))
                case _:
                    total += Erased(texts=self._write(table, its_keys))
        events.write(self._conn)
        return total

    def _change_lines(self, table: Table, batch_id: int, keys: Sequence[Key], events: Events) -> int:
        """Change rows of other calls, unless they are being sent."""
        found = self._conn.execute(
            "select row, submission_no from call where batch_id = %s and row = any(%s)",
            (batch_id, [row for _, row in keys]),
        ).fetchall()
        submission_of: dict[int, int] = dict(found)
        states = self._lock_submissions(batch_id, set(submission_of.values()))
        still = [key for key in keys if states.get(submission_of.get(key[1], 0)) != "sending"]
        if len(still) < len(keys):
            self._in_use.add(batch_id)
        changed = self._write(table, still)
        self._update_unsent(batch_id, states, events)
        return changed

    def _change_batch(self, table: Table, batch_id: int, events: Events) -> int:
        """Change the name of a batch and its names of columns, which are sent with each submission."""
        states = self._lock_submissions(batch_id)
        if "sending" in states.values():
            self._in_use.add(batch_id)
            return 0
        changed = self._write(table, [(batch_id,)])
        self._update_unsent(batch_id, states, events)
        return changed

    def _write(self, table: Table, keys: Sequence[Key]) -> int:
        changed = 0
        for row in read_locked(self._conn, table, keys):
            texts = without_number(table.name, row.texts, self._mentions)
            if texts:
                _write_unique(self._conn, table, row.key, texts)
                changed += 1
        return changed

    def _erase_bodies(self) -> Iterator[Erased]:
        """Erase the number from callbacks for other calls, or for no call."""
        for piece in list_bodies(self._conn):
            by_batch: defaultdict[int, list[int]] = defaultdict(list)
            for body in piece:
                is_erased = ("callback", body.batch_id, body.callback_id) in self._erased
                if not is_erased and mentions_number(self._mentions, body):
                    by_batch[body.batch_id].append(body.callback_id)
            for batch_id, callback_ids in by_batch.items():
                for some in _pieces(callback_ids):
                    own_results(self._conn, [batch_id])
                    lock_batches(self._conn, [batch_id])
                    changed, waiting = erase_mentions(self._conn, self._mentions, batch_id, some)
                    if waiting:
                        self._in_use.add(batch_id)
                    yield Erased(callbacks=changed)
            yield Erased(searched=len(piece))


def _write_unique(conn: Connection, table: Table, key: Key, texts: dict[str, Any]) -> None:
    """Write texts. If the table already has a row with the same unique text, a number is added."""
    number = 1
    while True:
        numbered = {
            column: f"{text} {number}" if number > 1 and isinstance(text, str) else text
            for column, text in texts.items()
        }
        try:
            with conn.transaction():
                write_texts(conn, table, key, numbered)
            return
        except psycopg.errors.UniqueViolation:
            number += 1


def _pieces(items: Sequence[_T]) -> Iterator[Sequence[_T]]:
    return (items[at : at + CHANGED_AT_ONCE] for at in range(0, len(items), CHANGED_AT_ONCE))
