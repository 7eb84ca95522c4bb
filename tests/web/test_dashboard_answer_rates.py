"""Answer rates by attempt, hour, weekday and area, and those of two batches compared."""

from __future__ import annotations

import re

import pytest

from receiver.database.pool import Connection
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.browsing import Browser, text_of
from tests.web.page_rules import HOSTILE, broken_rules, numbers


@pytest.fixture
def called(conn: Connection) -> int:
    """Five calls: two completed at once, one at the third attempt; one failed after three; one without attempts."""
    batch_id = make_batch(conn, numbers(5), name=f"December {HOSTILE}")
    deliver(
        conn,
        batch_id,
        result_body(phone_number(0), attempts="1"),
        result_body(phone_number(1), attempts="1"),
        result_body(phone_number(2), attempts="3"),
        result_body(phone_number(3), "failed", attempts="3"),
        result_body(phone_number(4), "failed", attempts=None),
    )
    return batch_id


def table_of(page: str, by: str) -> dict[str, list[str]]:
    """The figures of a section by name."""
    section = page.split(f'id="by-{by}"')[1].split("</section>")[0]
    rows = re.findall(r'<th scope="row">(.*?)</th>(.*?)</tr>', section)
    return {name: re.findall(r'<td class="figure">(.*?)</td>', cells) for name, cells in rows}


def test_rates_of_a_batch_have_a_picture_and_a_table(reader_at: Browser, called: int) -> None:
    page = reader_at.get(f"/answer-rates?batch_id={called}")
    assert broken_rules(page) == []
    assert f'href="/batches/{called}"' in page and "60% of 5 ended calls completed" in text_of(page)
    # An attempt counts for each call that had it; only calls with a reported number are counted.
    assert table_of(page, "attempt") == {"1": ["4", "2", "50%"], "3": ["2", "1", "50%"]}
    hours = table_of(page, "hour_of_day")
    assert len(hours) == 24 and hours["12:00"] == ["5", "3", "60%"] and hours["13:00"][0] == "0"
    assert table_of(page, "weekday")["Sun"] == ["5", "3", "60%"] and len(table_of(page, "weekday")) == 7
    assert table_of(page, "area") == {"+1617": ["5", "3", "60%"]}
    for by in ("attempt", "hour_of_day", "weekday", "area"):
        assert f'id="rates-{by}"' in page
    assert '<desc id="rates-attempt-desc">1: 50%, 3: 50%. The table has the figures.</desc>' in page


def test_two_batches_are_compared(reader_at: Browser, conn: Connection, called: int) -> None:
    other = make_batch(conn, numbers(2), name="January")
    deliver(conn, other, result_body(phone_number(0)), result_body(phone_number(1), "failed"))
    page = reader_at.get(f"/answer-rates?batch_id={called}&with={other}")
    assert broken_rules(page) == []
    assert table_of(page, "area") == {"+1617": ["5", "3", "60%", "2", "1", "50%"]}
    assert table_of(page, "attempt")["3"] == ["2", "1", "50%", "0", "0", "–"]  # noqa: RUF001 a dash
    assert re.findall(r'colspan="3" class="figure">(.*?)</th>', page)[:2] == [f"Batch {called}", f"Batch {other}"]
    for query, words in {
        f"with={other}": "Choose a batch to compare with.",
        "batch_id=x": "Enter a whole number.",
        "label=x": "Enter a name, a colon and a value.",
        "by=moon": "The address names a breakdown that does not exist.",
    }.items():
        page = reader_at.get(f"/answer-rates?{query}")
        assert words in text_of(page) and 'id="by-' not in page, query
        assert broken_rules(page) == []
    assert "Batch 99 does not exist." in reader_at.get("/answer-rates?batch_id=99", 404)


def test_rates_of_all_calls_are_those_of_the_chosen_days(reader_at: Browser, called: int) -> None:
    assert "No call has ended in this period yet." in text_of(reader_at.get("/answer-rates"))
    page = reader_at.get("/answer-rates?from=2026-03-01&to=2026-03-01&application_id=7")
    assert table_of(page, "area") == {"+1617": ["5", "3", "60%"]}
    assert f'href="/answer-rates?batch_id={called}"' in reader_at.get(f"/batches/{called}")


def test_calls_of_many_results_are_counted_only_on_request(
    reader_at: Browser, called: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("receiver.web.dashboard.answer_rates.FEW_RESULTS", 4)
    page = reader_at.get(f"/answer-rates?batch_id={called}")
    assert len(table_of(page, "weekday")) == 7 and table_of(page, "attempt") == table_of(page, "area") == {}
    assert broken_rules(page) == []
    link = re.findall(r'href="(\?[^"]*by=area)#by-area"', page)[0].replace("&amp;", "&")
    page = reader_at.get(f"/answer-rates{link}")
    assert table_of(page, "area") == {"+1617": ["5", "3", "60%"]} and table_of(page, "attempt") == {}
