"""The budget of a submission: pure, as several processes share it through the database, and over HTTP."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta

import pytest

from receiver.changes.audit import SYSTEM
from receiver.database.pool import Connection, Pool, open_pool
from receiver.intake import budget as budget_module
from receiver.intake.budget import Budget, Told, add_stored
from receiver.intake.budget_reports import BudgetReports
from receiver.model import SubmissionKey
from receiver.results.retention import purge
from tests.factories import make_batch, phone_number
from tests.waiting import eventually

KEY = SubmissionKey(1, 1)


def take(budget: Budget, times: int, key: SubmissionKey = KEY) -> int:
    """How many of them may be stored."""
    return sum(budget.take(key) for _ in range(times))


def learn(budget: Budget, stored: int, calls: int) -> None:
    unreported = budget.list_unreported(10)
    budget.learn(unreported, {each.key: Told(stored, calls) for each in unreported})


def test_submission_may_have_so_many_for_each_call_and_never_fewer_than_the_least() -> None:
    assert budget_module.LEAST_CALLBACKS == 10_000
    for calls, wanted in ((0, 10_000), (4, 10_000), (200, 12_800)):
        budget = Budget(64, 10_000)
        assert budget.take(KEY)
        learn(budget, 1, calls)
        assert 1 + take(budget, 20_000) == wanted


def test_unknown_submission_counts_as_the_largest() -> None:
    """While the database is away: no genuine callback may be refused."""
    assert take(Budget(64, 300), 50_000) == 64 * 300
    assert take(Budget(64, 1), 50_000) == 10_000


def test_callback_that_could_not_be_stored_is_given_back() -> None:
    budget = Budget(64, 1)
    assert take(budget, 20_000) == 10_000
    budget.give_back(KEY)
    assert take(budget, 5) == 1


def test_each_submission_has_a_budget_of_its_own() -> None:
    budget = Budget(64, 1)
    assert take(budget, 20_000) == take(budget, 20_000, SubmissionKey(1, 2)) == 10_000


def test_report_is_due_at_the_first_callback_and_then_seldom() -> None:
    budget = Budget(64, 10_000)
    budget.take(KEY)
    assert budget.due.is_set()
    budget.due.clear()
    learn(budget, 1, 10_000)
    assert take(budget, 19_000) and not budget.due.is_set(), "far from 640,000"
    assert take(budget, 2_000) and budget.due.is_set()


def test_what_is_taken_while_a_report_is_under_way_is_in_the_next() -> None:
    budget = Budget(64, 10_000)
    take(budget, 3)
    first = budget.list_unreported(10)
    take(budget, 2)
    budget.learn(first, {KEY: Told(3, 1)})
    assert [each.callbacks for each in budget.list_unreported(10)] == [2]
    assert take(budget, 20_000) == 10_000 - 5


def test_report_that_failed_is_made_again() -> None:
    budget = Budget(64, 10_000)
    take(budget, 3)
    budget.list_unreported(10)
    assert [each.callbacks for each in budget.list_unreported(10)] == [3]


def test_few_of_many_submissions_are_reported_at_once_the_largest_first() -> None:
    budget = Budget(64, 10_000)
    for number in range(1, 6):
        take(budget, number, SubmissionKey(number, 1))
    assert [(each.key.batch_id, each.callbacks) for each in budget.list_unreported(2)] == [(4, 4), (5, 5)]


@pytest.fixture
def pool(database_url: str) -> Iterator[Pool]:
    with closing(open_pool(database_url, max_size=2, name="budget")) as pool:
        yield pool


def test_processes_share_a_budget_to_within_a_factor_of_two(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many as may share it, in any order, each reporting when it must, some being started again meanwhile."""
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
        if reports._budget.take(key):
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


def test_reports_at_once_do_not_block_each_other(conn: Connection, pool: Pool) -> None:
    budgets = [Budget(64, 10_000) for _ in range(2)]
    for budget in budgets:
        for batch_id in random.sample(range(1, 500), 200):
            take(budget, 2, SubmissionKey(batch_id, 1))
    running = [BudgetReports(pool, budget) for budget in budgets]
    for reports in running:
        reports.start()
    for reports in running:
        reports.stop()
    assert [budget.list_unreported(1_000) for budget in budgets] == [[], []]
    assert conn.execute("select sum(stored) from callback_budget").fetchone() == (800,)


def test_what_was_stored_while_the_database_was_away_is_reported_when_it_is_back(
    conn: Connection, pool: Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.intake.budget_reports.REPORT_SECONDS", 0.05)
    conn.execute("alter table callback_budget rename to away")
    conn.commit()
    budget = Budget(64, 10_000)
    reports = BudgetReports(pool, budget)
    reports.start()
    try:
        assert take(budget, 500) == 500
        conn.execute("alter table away rename to callback_budget")
        conn.commit()
        eventually(lambda: conn.execute("select stored from callback_budget").fetchall() == [(500,)])
    finally:
        conn.rollback()
        reports.stop()


def test_purge_forgets_the_count(conn: Connection, pool: Pool) -> None:
    batch_id = make_batch(conn, [phone_number(0)])
    budget = Budget(64, 10_000)
    take(budget, 3, SubmissionKey(batch_id, 1))
    add_stored(conn, budget.list_unreported(10))
    conn.execute("update batch set created_at = now() - interval '9 days', due_at = now() - interval '9 days'")
    conn.commit()
    for _ in purge(conn, timedelta(days=1), by=SYSTEM):
        conn.commit()
    assert conn.execute("select count(*) from batch").fetchone() == (0,)
    assert conn.execute("select count(*) from callback_budget").fetchone() == (0,)
