"""Divide a batch into submissions, so that in each one every number appears at most once and all zones are the same.


The first row with a number goes to the first layer, the second row with it to the second layer, and so on. Each layer
is divided into submissions of `SUBMISSION_ROWS` rows. So the token and the number together identify one call.

A number with different keys to press after connecting (`postd`) is a different destination, not a duplicate (provider
page: The CSV). It still needs another submission, because a callback contains only the number.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice

from receiver.errors import Fault, InvalidInput
from receiver.phone_numbers.destination import usually_spelled
from receiver.queueing.contacts import Contact, Contacts, InvalidRow
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.recent import FindRecent, RecentBatch
from receiver.queueing.row_zones import NoCommonHours, RowZones
from receiver.schedule import slice_rows
from receiver.text.csv_line import csv_line

FAULTS_NAMED = 100
"""How many faults an answer lists. The others are only counted."""

SAMPLE_ROWS = 10
"""How many rows a preview shows as they were read."""

DUPLICATE, SUPPRESSED, RECENT = "duplicate", "suppressed", "recent"

_OPTIONS = {DUPLICATE: "on_duplicate", RECENT: "on_recent"}

BLOCK_ROWS, BLOCK_CHARACTERS = 5_000, 2 << 20
"""Rows whose numbers are looked up among the suppressed ones at once: so many, or as many as are about so long."""

FindSuppressed = Callable[[Sequence[int]], Collection[int]]
"""Says which of these numbers must not be called."""


@dataclass(slots=True)
class SubmissionDraft:
    """A submission while its rows are read. `csv_bytes`: the bytes that will be sent, including the header."""

    submission_no: int
    first_row: int
    csv_bytes: int
    zones: tuple[str, ...] = ()
    calls: int = 0
    last_row: int = 0


@dataclass(frozen=True, slots=True)
class PlannedCall:
    """A row that becomes a call. `line`: its line in the CSV that is sent, without the line end."""

    row: int
    phone_number: int
    submission_no: int
    line: str


@dataclass(frozen=True, slots=True)
class SkippedRow:
    """A row that is skipped, and the reason."""

    row: int
    code: str
    message: str
    line: str
    line_no: int | None
    """Its line in a spreadsheet."""


@dataclass(slots=True)
class Plan:
    """Reads the contacts once and decides for each row whether it becomes a call. After that it contains the totals.

    `faults`: the rows that are refused or skipped, at most `FAULTS_NAMED` of `faults_total`.
    """

    contacts: Contacts
    parameters: BatchParameters
    submission_rows: int
    """Most rows of a submission. With a pace, they are fewer."""
    now: datetime
    find_suppressed: FindSuppressed = lambda _: ()
    find_recent: FindRecent = lambda _: {}
    zones: RowZones | None = None
    """If there are calling hours."""
    rows: int = 0
    invalid: int = 0
    suppressed: int = 0
    recent: int = 0
    recent_batches: Counter[RecentBatch] = field(default_factory=Counter)
    """Of each recent batch, how many rows have a number of it."""
    duplicates: int = 0
    refused: int = 0
    """Rows for which the complete batch is refused."""
    refusals: list[Fault] = field(default_factory=list)
    """These rows, at most `FAULTS_NAMED`."""
    submissions: list[SubmissionDraft] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    faults_total: int = 0
    sample: list[Contact | InvalidRow] = field(default_factory=list)
    """The first rows."""
    unusual: int = 0
    """Calls whose destination has characters that the provider may not accept."""
    first_unusual: Contact | None = None

    def __post_init__(self) -> None:
        self.submission_rows = slice_rows(self.parameters.calls_per_minute, self.submission_rows)
        if self.parameters.hours is not None:
            self.zones = RowZones(self.parameters, self.contacts.columns, self.now)

    def __iter__(self) -> Iterator[PlannedCall | SkippedRow]:
        for block in self.blocks():
            yield from block

    def blocks(self) -> Iterator[Iterator[PlannedCall | SkippedRow]]:
        """The rows in pieces, each read to its end before the next. Only between them are the contacts read and
        their numbers looked up, so that this may use the connection that the rows are copied over."""
        # Of each set of zones, and of each layer, the submission that its next row goes to.
        open_drafts: dict[tuple[tuple[str, ...], int], SubmissionDraft] = {}
        numbers = _Numbers()
        rows = iter(self.contacts)
        while block := _read_block(rows):
            called = [row.phone_number for row in block if isinstance(row, Contact)]
            suppressed, recent = self.find_suppressed(called), self.find_recent(called)
            yield self._planned(block, suppressed, recent, open_drafts, numbers)

    def _planned(
        self,
        block: Sequence[Contact | InvalidRow],
        suppressed: Collection[int],
        recent: Mapping[int, Sequence[RecentBatch]],
        open_drafts: dict[tuple[tuple[str, ...], int], SubmissionDraft],
        numbers: _Numbers,
    ) -> Iterator[PlannedCall | SkippedRow]:
        header_bytes, policies = len(self.header.encode()) + 2, self.parameters
        for contact in block:
            self.rows += 1
            if self.rows <= SAMPLE_ROWS:
                self.sample.append(contact)
            if isinstance(contact, InvalidRow):
                self.invalid += 1
                yield self._skip(contact, contact.code, contact.message, policies.on_invalid)
                continue
            if suppressed and contact.phone_number in suppressed:
                self.suppressed += 1
                yield self._skip(contact, SUPPRESSED, "This number is suppressed.", "skip")
                continue
            if contact.phone_number in recent:
                self.recent += 1
                self.recent_batches.update(recent[contact.phone_number])
                if policies.on_recent != "allow":
                    found = " and ".join(f"batch {each.id}" for each in recent[contact.phone_number][:3])
                    message = f"This number was queued recently, in {found}."
                    yield self._skip(contact, RECENT, message, policies.on_recent)
                    continue
            zones: tuple[str, ...] = ()
            if self.zones is not None:
                try:
                    zones = self.zones.of(contact)
                except NoCommonHours as error:
                    self.invalid += 1
                    yield self._skip(contact, error.code, str(error), policies.on_invalid)
                    continue
            keep = policies.on_duplicate == "keep"
            layer, earlier_row = numbers.add(contact.phone_number, contact.postd, contact.row, keep)
            if earlier_row is not None:
                self.duplicates += 1
                if not keep:
                    yield self._skip(contact, DUPLICATE, f"Same number as row {earlier_row}.", policies.on_duplicate)
                    continue
            draft = open_drafts.get((zones, layer))
            if draft is None or draft.calls == self.submission_rows:
                draft = SubmissionDraft(len(self.submissions) + 1, contact.row, header_bytes, zones)
                self.submissions.append(draft)
                open_drafts[zones, layer] = draft
            if not usually_spelled(contact.destination):
                self.unusual += 1
                self.first_unusual = self.first_unusual or contact
            line = csv_line((contact.destination, *contact.cells))
            draft.calls += 1
            draft.last_row = contact.row
            draft.csv_bytes += len(line.encode()) + 2
            yield PlannedCall(contact.row, contact.phone_number, draft.submission_no, line)

    @property
    def calls_of(self) -> Counter[tuple[str, ...]]:
        """How many calls each set of zones has."""
        counted: Counter[tuple[str, ...]] = Counter()
        for draft in self.submissions:
            counted[draft.zones] += draft.calls
        return counted

    @property
    def header(self) -> str:
        return header_line(self.contacts.columns)

    def _skip(self, row: Contact | InvalidRow, code: str, message: str, policy: str) -> SkippedRow:
        fault = Fault(row.row, code, message, row.line_no, row.destination)
        self.faults_total += 1
        if len(self.faults) < FAULTS_NAMED:
            self.faults.append(fault)
        if policy == "refuse":
            self.refused += 1
            if len(self.refusals) < FAULTS_NAMED:
                self.refusals.append(fault)
        return SkippedRow(row.row, code, message, csv_line((row.destination, *row.cells)), row.line_no)

    def check(self) -> None:
        """Call this after the last row. Raises InvalidInput if the batch cannot be queued."""
        if self.refused:
            options = sorted({_OPTIONS.get(fault.code, "on_invalid") for fault in self.refusals})
            raise InvalidInput(
                f"Some rows cannot be called. Correct them, or leave them out ({', '.join(options)}: skip).",
                self.refusals,
                faults_total=self.refused,
                code="invalid_csv",
            )
        if not self.submissions:
            raise InvalidInput(
                "No row is left to call.",
                self.faults or [Fault("csv", "no_rows", "The file has no row that can be called.")],
                faults_total=max(self.faults_total, 1),
                code="invalid_csv",
            )


def _read_block(rows: Iterator[Contact | InvalidRow]) -> list[Contact | InvalidRow]:
    """The next rows: `BLOCK_ROWS`, or as many as hold `BLOCK_CHARACTERS`."""
    block: list[Contact | InvalidRow] = []
    characters = 0
    for row in islice(rows, BLOCK_ROWS):
        block.append(row)
        characters += sum(map(len, row.cells))
        if characters > BLOCK_CHARACTERS:
            break
    return block


def header_line(columns: Sequence[str]) -> str:
    """The header that is sent: `destination` first, and the other columns as the user wrote them."""
    return csv_line(("destination", *columns))


class _Numbers:
    """The first row of each number. Our own hash table: it needs 24 to 48 bytes for each, a dict over 100."""

    def __init__(self) -> None:
        self._bits = 12
        self._slots, self._rows = _free_slots(self._bits)
        self._used = 0
        # Only for numbers that appear more than once, or with keys to press, which is rare: the first row of each.
        self._postds: dict[int, dict[str | None, int]] = {}
        self._layers: dict[int, int] = {}

    def add(self, number: int, postd: str | None, row: int, keep: bool) -> tuple[int, int | None]:
        """The layer of this row, and the first row with the same destination, if there is one."""
        first_row = self._insert(number, row)
        if first_row is None:
            if postd is not None:
                self._postds[number] = {postd: row}
            return 0, None
        postds = self._postds.setdefault(number, {None: first_row})
        earlier_row = postds.get(postd)
        if earlier_row is not None and not keep:
            return 0, earlier_row
        postds.setdefault(postd, row)
        layer = self._layers[number] = self._layers.get(number, 0) + 1
        return layer, earlier_row

    def _insert(self, number: int, row: int) -> int | None:
        """Open addressing with linear probing. Numbers are never 0, so 0 marks a free slot. Returns the number's row if
        it is there already."""
        slots, mask = self._slots, len(self._slots) - 1
        slot = (number * 0x9E3779B97F4A7C15 >> 20) & mask
        while (found := slots[slot]) != 0:
            if found == number:
                return self._rows[slot]
            slot = (slot + 1) & mask
        slots[slot], self._rows[slot] = number, row
        self._used += 1
        if self._used * 2 > mask:
            self._grow()
        return None

    def _grow(self) -> None:
        numbers, rows = self._slots, self._rows
        self._bits += 1
        self._slots, self._rows = slots, _ = _free_slots(self._bits)
        mask = len(slots) - 1
        for number, row in zip(numbers, rows, strict=True):
            if number:
                slot = (number * 0x9E3779B97F4A7C15 >> 20) & mask
                while slots[slot]:
                    slot = (slot + 1) & mask
                slots[slot], self._rows[slot] = number, row


def _free_slots(bits: int) -> tuple[array[int], array[int]]:
    """Numbers and their rows."""
    return array("q", bytes(8 << bits)), array("i", bytes(4 << bits))
