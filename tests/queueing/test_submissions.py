"""Divide a CSV into submissions in which each number appears once."""

from __future__ import annotations

import csv
import io
import random
from collections import Counter, defaultdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.errors import InvalidInput
from receiver.queueing.submissions import (
    FAULTS_NAMED,
    Plan,
    PlannedCall,
    SkippedRow,
    _Numbers,
    header_line,
)
from tests.queueing.queueing import contacts_csv, csv_of, number, plan


def layout(planned: Plan) -> list[list[int]]:
    """The rows of each submission, in order."""
    rows: defaultdict[int, list[int]] = defaultdict(list)
    for each in planned:
        if isinstance(each, PlannedCall):
            rows[each.submission_no].append(each.row)
    return [rows[number] for number in sorted(rows)]


def of_destinations(*destinations: str) -> bytes:
    return csv_of((destination, "") for destination in destinations)


def sent(planned: Plan, read: list[PlannedCall | SkippedRow]) -> dict[int, bytes]:
    """What is sent for each submission, put together as the sender does."""
    sent: defaultdict[int, str] = defaultdict(lambda: header_line(planned.contacts.columns) + "\r\n")
    for each in read:
        if isinstance(each, PlannedCall):
            sent[each.submission_no] += each.line + "\r\n"
    return {submission_no: sent[submission_no].encode() for submission_no in sorted(sent)}


def test_batch_is_cut_where_it_is_longer_than_a_submission() -> None:
    assert layout(plan(contacts_csv(7), 3)) == [[1, 2, 3], [4, 5, 6], [7]]
    assert layout(plan(contacts_csv(6), 3)) == [[1, 2, 3], [4, 5, 6]]
    assert layout(plan(contacts_csv(3), 1)) == [[1], [2], [3]]


def test_drafts_say_what_each_submission_holds() -> None:
    planned = plan(contacts_csv(7), 3)
    contents = sent(planned, list(planned))
    assert [(each.submission_no, each.calls, each.first_row, each.last_row) for each in planned.submissions] == [
        (1, 3, 1, 3),
        (2, 3, 4, 6),
        (3, 1, 7, 7),
    ]
    assert [each.csv_bytes for each in planned.submissions] == [len(contents[1]), len(contents[2]), len(contents[3])]


def test_kept_duplicates_go_to_further_submissions() -> None:
    a, b, c = number(1), number(2), number(3)
    planned = plan(of_destinations(a, b, a, c, a, b), on_duplicate="keep")
    assert layout(planned) == [[1, 2, 4], [3, 6], [5]]
    assert (planned.rows, planned.duplicates, planned.faults_total) == (6, 3, 0)


def test_submissions_of_kept_duplicates_are_cut_as_well() -> None:
    pair = [number(index) for index in range(3)]
    assert layout(plan(of_destinations(*pair, *pair, *pair), 2, on_duplicate="keep")) == [
        [1, 2],
        [3],
        [4, 5],
        [6],
        [7, 8],
        [9],
    ]


def test_same_number_in_another_spelling_is_a_duplicate() -> None:
    spellings = ("6175550001", "16175550001", "tel:+16175550001", "(617) 555-0001", "6175550001;ani=8009957586")
    planned = plan(of_destinations(*spellings), on_duplicate="skip")
    assert layout(planned) == [[1]]
    assert planned.duplicates == 4


@pytest.mark.parametrize("policy", ["refuse", "skip", "keep"])
def test_same_number_with_other_keys_is_another_destination_under_every_policy(policy: str) -> None:
    a = number(1)
    planned = plan(of_destinations(f"{a};postd=1", a, f"{a};postd=2"), on_duplicate=policy)
    assert layout(planned) == [[1], [2], [3]]
    assert planned.duplicates == 0
    planned.check()


def test_same_number_with_the_same_keys_is_a_duplicate() -> None:
    a = number(1)
    destinations = (a, f"{a};postd=1", f"{a};postd=1", a, f"{a};postd=1")
    skipping = plan(of_destinations(*destinations), on_duplicate="skip")
    assert layout(skipping) == [[1], [2]]
    assert skipping.duplicates == 3
    assert layout(plan(of_destinations(*destinations), on_duplicate="keep")) == [[1], [2], [3], [4], [5]]


def test_skipped_rows_are_handed_on_as_the_user_wrote_them() -> None:
    content = csv_of([(number(1), "Ana, the 1st"), ("911", "Böse\nZeile"), (number(1), "Ana")])
    planned = list(plan(content, on_invalid="skip", on_duplicate="skip"))
    assert [(each.row, each.code, each.line) for each in planned if isinstance(each, SkippedRow)] == [
        (2, "destination_emergency", '911,"Böse\nZeile"'),
        (3, "duplicate", f"{number(1)},Ana"),
    ]


def test_refused_rows_are_named_and_counted() -> None:
    planned = plan(of_destinations(number(1), "nobody", number(1), "911"))
    list(planned)
    with pytest.raises(InvalidInput) as caught:
        planned.check()
    assert caught.value.code == "invalid_csv"
    assert [(fault.where, fault.code) for fault in caught.value.faults] == [
        (2, "destination_malformed"),
        (3, "duplicate"),
        (4, "destination_emergency"),
    ]
    assert (planned.invalid, planned.duplicates, planned.refused) == (2, 1, 3)


@pytest.mark.parametrize(("destination", "policy"), [("nobody", "on_invalid"), (number(1), "on_duplicate")])
def test_each_policy_refuses_its_own_kind_only(destination: str, policy: str) -> None:
    content = of_destinations(number(1), destination)
    policies = {"on_invalid": "skip", "on_duplicate": "skip"}
    refusing, skipping = plan(content, 10, **{**policies, policy: "refuse"}), plan(content, 10, **policies)
    assert len(list(refusing)) == len(list(skipping)) == 2
    with pytest.raises(InvalidInput):
        refusing.check()
    skipping.check()
    assert (skipping.refused, skipping.faults_total) == (0, 1)


def test_faults_beyond_the_first_hundred_are_counted_only() -> None:
    planned = plan(of_destinations(*["nobody"] * 250))
    list(planned)
    with pytest.raises(InvalidInput) as caught:
        planned.check()
    assert len(caught.value.faults) == FAULTS_NAMED
    assert caught.value.faults_total == 250


def test_batch_of_which_every_row_was_skipped_is_refused() -> None:
    planned = plan(of_destinations("nobody", "911"), on_invalid="skip")
    list(planned)
    with pytest.raises(InvalidInput, match="No row is left to call"):
        planned.check()


_destinations = st.lists(
    st.tuples(st.integers(0, 12), st.sampled_from(["", ";postd=1", ";postd=2", ";ani=8009957586"])), max_size=60
)


@given(_destinations, st.integers(1, 7), st.sampled_from(["skip", "keep"]), st.sampled_from(['a,"b', "ü\r\n", ""]))
def test_every_kept_row_is_planned_once_and_every_number_once_in_its_submission(
    destinations: list[tuple[int, str]], submission_rows: int, policy: str, cell: str
) -> None:
    rows = [(number(index) + suffix, cell) for index, suffix in destinations] or [(number(0), cell)]
    planned = plan(csv_of(rows), submission_rows, on_duplicate=policy)
    read = list(planned)
    calls = [each for each in read if isinstance(each, PlannedCall)]
    skipped = [each for each in read if isinstance(each, SkippedRow)]

    assert [each.row for each in read] == list(range(1, len(rows) + 1)), "every row once, in the file's order"
    assert len(skipped) == (planned.duplicates if policy == "skip" else 0)
    unique = {(index, suffix.removeprefix(";ani=8009957586")) for index, suffix in destinations}
    assert planned.duplicates == len(rows) - max(len(unique), 1)
    counted = Counter((each.submission_no, each.phone_number) for each in calls)
    assert set(counted.values()) <= {1}, "token and number name one call"
    for draft, (submission_no, content) in zip(planned.submissions, sent(planned, read).items(), strict=True):
        own = [each.row for each in calls if each.submission_no == submission_no]
        assert (draft.submission_no, draft.calls) == (submission_no, len(own))
        assert (draft.first_row, draft.last_row) == (own[0], own[-1])
        assert 1 <= draft.calls <= submission_rows
        assert draft.csv_bytes == len(content)
        assert [*csv.reader(io.StringIO(content.decode(), newline=""))][1:] == [list(rows[row - 1]) for row in own]


def test_number_table_agrees_with_a_dictionary() -> None:
    draws = random.Random(20261123)
    table, layers = _Numbers(), dict[int, int]()
    destinations = dict[int, dict[str | None, int]]()
    # Neighbours as in a bought range, numbers of any length, and every tenth again.
    start = draws.randrange(12_000_000_000, 19_000_000_000)
    numbers = [*range(start, start + 60_000), *(draws.randrange(1, 10**15) for _ in range(120_000))]
    numbers += draws.choices(numbers, k=20_000)
    draws.shuffle(numbers)
    for row, value in enumerate(numbers, 1):
        postd = draws.choice((None, None, None, "1"))
        keep = draws.random() < 0.5
        known = destinations.setdefault(value, {})
        first_row = known.get(postd)
        layer = 0 if first_row is not None and not keep else layers.get(value, 0)
        assert table.add(value, postd, row, keep) == (layer, first_row)
        if first_row is None or keep:
            known.setdefault(postd, row)
            layers[value] = layer + 1


def test_number_table_stays_compact() -> None:
    table = _Numbers()
    for row, value in enumerate(range(16_000_000_000, 16_000_200_000)):
        table.add(value, None, row, False)
    assert sum(len(each) * each.itemsize for each in (table._slots, table._rows)) <= 32 * 200_000
