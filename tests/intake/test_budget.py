"""The budget of a submission: in one process, shared through the database, and over HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import Connection, Pool, open_pool
from receiver.intake import budget as budget_module
from receiver.intake.budget import Budget, Total, add_stored
from receiver.intake.budget_reports import BudgetReports
from receiver.model import SubmissionKey
from receiver.results.retention import purge
from tests.factories import make_batch, phone_number
from tests.waiting import eventually

KEY = SubmissionKey(1, 1)


def reserve(budget: Budget, times: int, key: SubmissionKey = KEY) -> int:
    """How many of them can be reserved."""
    return sum(budget.reserve(key) for _ in range(times))


def update(budget: Budget, stored: int, calls: int) -> None:
    unreported = budget.list_unreported(10)
    budget.update(unreported, {key: Total(stored, calls) for key in unreported})


def test_budget_depends_on_the_calls_and_has_a_minimum() -> None:
    assert budget_module.LEAST_CALLBACKS == 10_000
    for calls, wanted in ((0, 10_000), (4, 10_000), (200, 12_800)):
        budget = Budget(64, 10_000)
        assert budget.reserve(KEY)
        update(budget, 1, calls)
        assert 1 + reserve(budget, 20_000) == wanted


def test_unknown_submission_counts_as_the_largest() -> None:
    """While the database is unavailable, no genuine callback may be refused."""
    assert reserve(Budget(64, 300), 50_000) == 64 * 300
    assert reserve(Budget(64, 1), 50_000) == 10_000


def test_callback_that_could_not_be_stored_is_released() -> None:
    budget = Budget(64, 1)
    assert reserve(budget, 20_000) == 10_000
    budget.release(KEY)
    assert reserve(budget, 5) == 1


def test_each_submission_has_its_own_budget() -> None:
    budget = Budget(64, 1)
    assert reserve(budget, 20_000) == reserve(budget, 20_000, SubmissionKey(1, 2)) == 10_000


def test_report_is_due_at_the_first_callback_and_then_rarely() -> None:
    budget = Budget(64, 10_000)
    budget.reserve(KEY)
    assert budget.due.is_set()
    budget.due.clear()
    update(budget, 1, 10_000)
    assert reserve(budget, 19_000) and not budget.due.is_set(), "far from 640,000"
    assert reserve(budget, 2_000) and budget.due.is_set()


def test_callbacks_stored_during_a_report_are_in_the_next() -> None:
    budget = Budget(64, 10_000)
    reserve(budget, 3)
    first = budget.list_unreported(10)
    reserve(budget, 2)
    budget.update(first, {KEY: Total(3, 1)})
    assert budget.list_unreported(10) == {KEY: 2}
    assert reserve(budget, 20_000) == 10_000 - 5


def test_failed_report_is_repeated() -> None:
    budget = Budget(64, 10_000)
    reserve(budget, 3)
    budget.list_unreported(10)
    assert budget.list_unreported(10) == {KEY: 3}


def test_largest_counts_of_many_submissions_are_reported_first() -> None:
    budget = Budget(64, 10_000)
    for number in range(1, 6):
        reserve(budget, number, SubmissionKey(number, 1))
    assert budget.list_unreported(2) == {SubmissionKey(5, 1): 5, SubmissionKey(4, 1): 4}


def test_only_more_submissions_than_are_kept_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(budget_module, "KEPT_SUBMISSIONS", 2)
    budget = Budget(64, 10_000)
    others = [SubmissionKey(number, 1) for number in (2, 3)]
    for key in (KEY, others[0]):
        budget.reserve(key)
    update(budget, 10_000, 1)
    budget.list_unreported(10)
    assert not budget.reserve(KEY), "its budget is known to be used up"
    budget.reserve(others[1])
    assert budget.list_unreported(10) == {others[1]: 1}
    assert budget.reserve(KEY), "its budget must be read again"


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with closing(open_pool(database_url, max_size=2, name="budget")) as pool:
        yield pool


def test_processes_share_a_budget_to_within_a_factor_of_two(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The most processes that may share it, in any order. Each reports when it must, and some are restarted."""
    monkeypatch.setattr(budget_module, "LEAST_CALLBACKS", 6_400)
    batch_id = make_batch(conn, [phone_number(0)])
    key = SubmissionKey(batch_id, 1)
    processes = [BudgetReports(pool, Budget(64, 10_000)) for _ in range(budget_module.SHARING)]
    random.seed(5)
    stored, refused = 0, 0
    while refused < 2_000:
        place = random.randrange(len(processes))
        if random.random() < 0.0005:
            processes[place].report()
            processes[place] = BudgetReports(pool, Budget(64, 10_000))
        reports = processes[place]
        if reports._budget.reserve(key):
            stored += 1
        else:
            refused += 1
        if reports._budget.due.is_set():
            reports._budget.due.clear()
            reports.report()
    assert 6_400 <= stored <= 2 * 6_400
    for reports in processes:
        reports.report()
    assert conn.execute("select stored from callback_budget where batch_id = %s", (batch_id,)).fetchone() == (stored,)


def test_concurrent_reports_do_not_deadlock(conn: Connection, pool: Pool) -> None:
    budgets = [Budget(64, 10_000) for _ in range(2)]
    for budget in budgets:
        for batch_id in random.sample(range(1, 500), 200):
            reserve(budget, 2, SubmissionKey(batch_id, 1))
    running = [BudgetReports(pool, budget) for budget in budgets]
    for reports in running:
        reports.start()
    for reports in running:
        reports.stop()
    assert [budget.list_unreported(1_000) for budget in budgets] == [{}, {}]
    assert conn.execute("select sum(stored) from callback_budget").fetchone() == (800,)


def test_callbacks_stored_while_the_database_was_unavailable_are_reported_later(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.intake.budget_reports.REPORT_SECONDS", 0.05)
    conn.execute("alter table callback_budget rename to away")
    conn.commit()
    budget = Budget(64, 10_000)
    reports = BudgetReports(pool, budget)
    reports.start()
    try:
        assert reserve(budget, 500) == 500
        conn.execute("alter table away rename to callback_budget")
        conn.commit()
        eventually(lambda: conn.execute("select stored from callback_budget").fetchall() == [(500,)])
    finally:
        conn.rollback()
        reports.stop()


def test_purge_deletes_the_count(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    budget = Budget(64, 10_000)
    reserve(budget, 3, SubmissionKey(batch_id, 1))
    add_stored(conn, budget.list_unreported(10))
    conn.execute("update batch set created_at = now() - interval '9 days', due_at = now() - interval '9 days'")
    conn.commit()
    for _ in purge(conn, timedelta(days=1), by=SYSTEM):
        conn.commit()
    assert conn.execute("select count(*) from batch").fetchone() == (0,)
    assert conn.execute("select count(*) from callback_budget").fetchone() == (0,)
