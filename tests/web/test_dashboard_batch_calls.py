"""The calls of a batch: filters, pages, search for a number, hidden numbers, and downloads."""

from __future__ import annotations

import csv
import json
import re
from io import BytesIO, StringIO

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.queueing.acceptance import Limits, accept
from receiver.queueing.parameters import BatchParameters
from tests.factories import deliver, make_batch, phone_number, result_body
from tests.web.browsing import Browser, text_of, visitor
from tests.web.page_rules import HOSTILE, broken_rules, numbers, rows_on


@pytest.fixture
def mixed(conn: Connection) -> int:
    """Sixty calls: the first and the last completed, the second failed, the third has only a step."""
    batch_id = make_batch(conn, numbers(60))
    deliver(
        conn,
        batch_id,
        result_body(phone_number(0)),
        result_body(phone_number(1), "failed"),
        result_body(phone_number(2), "dialing"),
        result_body(phone_number(59)),
    )
    return batch_id


NARROWED = {
    "state=final": [1, 2, 60],
    "outcome=completed": [1, 60],
    "state=final&outcome=failed": [2],
    "state=pending&outcome=failed": [],
    "state=overdue": [],
    "state=refused": [],
    "after=58": [59, 60],
    "after=58&outcome=completed": [60],
    "after=9999999999999999999999": [],
    "after=0&outcome=failed": [2],
    "state=&outcome=&search=&after=": list(range(1, 51)),
}


def test_calls_are_filtered(reader_at: Browser, mixed: int) -> None:
    found = {}
    for query in NARROWED:
        page = reader_at.get(f"/batches/{mixed}?{query}")
        assert broken_rules(page) == [], query
        found[query] = rows_on(page)
    assert found == NARROWED


@pytest.mark.parametrize(
    ("query", "word"),
    [("state=nonsense", "state"), ("outcome=odd", "outcome"), ("after=-5", "page"), ("search=abc", "Search for")],
)
def test_wrong_filter_is_named_and_no_calls_are_shown(reader_at: Browser, mixed: int, query: str, word: str) -> None:
    for more in ("", "&outcome=failed"):
        page = reader_at.get(f"/batches/{mixed}?{query}{more}")
        assert rows_on(page) == [] and "No call matches" not in page
        assert word in text_of(page.partition('id="calls-list"')[2])
        assert broken_rules(page) == []
    reader_at.get(f"/batches/99?{query}", 404)


def test_link_to_a_search_shows_no_calls_in_another_session(
    app: Flask, conn: Connection, queuer_at: Browser, mixed: int
) -> None:
    address = queuer_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number="6175550001").location
    path = address.removesuffix("#calls")
    assert rows_on(queuer_at.get(path)) == [2]
    other = visitor(app, conn, "admin", "another person")
    page = other.get(path)
    assert rows_on(page) == []
    assert "This link belongs to a search for a phone number." in text_of(page)
    assert "Show all calls" in text_of(page)


def test_calls_are_paged_and_keep_their_filter(reader_at: Browser, mixed: int) -> None:
    page = reader_at.get(f"/batches/{mixed}?state=pending")
    assert rows_on(page) == list(range(3, 53))
    onward = re.search(r'rel="next" href="([^"]+)"', page)
    assert onward is not None
    assert onward[1] == f"/batches/{mixed}?state=pending&amp;after=52#calls"
    assert rows_on(reader_at.get(onward[1].replace("&amp;", "&").removesuffix("#calls"))) == list(range(53, 60))


def test_number_is_found_in_any_format_and_never_part_of_an_address(queuer_at: Browser, mixed: int) -> None:
    for spelling in ("+1 (617) 555-0001", "617.555.0001", "tel:16175550001;ani=8009957586", " 6175550001 "):
        answer = queuer_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number=spelling)
        assert answer.status_code == 303
        assert not re.search(r"5550001|0001", answer.location)
        page = queuer_at.get(answer.location.removesuffix("#calls"))
        assert rows_on(page) == [2], spelling
        assert not re.search(r'(?:href|action|hx-get)="[^"]*5550001', page)


def test_downloads_of_a_search_have_only_its_calls(queuer_at: Browser, mixed: int) -> None:
    answer = queuer_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number="(617) 555-0001")
    page = queuer_at.get(answer.location.removesuffix("#calls"))
    menu = page.split('id="downloads"')[1].split("</details>")[0]
    path = re.findall(r'href="([^"]*calls\.csv\?search[^"]*)"', menu)[0].replace("&amp;", "&")
    rows = list(csv.DictReader(StringIO(queuer_at.client.get(path).data.decode("utf-8-sig"))))
    assert [row["phone_number"] for row in rows] == ["+16175550001"]
    assert "calls that match" not in queuer_at.get(f"/batches/{mixed}")


def test_number_without_calls_finds_nothing(reader_at: Browser, mixed: int) -> None:
    for number in ("+442079460000", "nonsense", "\u0661\u0662", "9" * 5000, HOSTILE):
        answer = reader_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number=number)
        page = reader_at.get(answer.location.removesuffix("#calls"))
        assert rows_on(page) == []
        assert "No call matches." in text_of(page)
        assert broken_rules(page) == []


def test_local_number_is_read_with_the_country_of_the_batch(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, ["020 7946 0000"], default_region="GB")
    answer = queuer_at.post(f"/batches/{batch_id}/search", form_at=f"/batches/{batch_id}", number="020 7946 0000")
    assert rows_on(queuer_at.get(answer.location.removesuffix("#calls"))) == [1]


def test_searches_of_several_tabs_are_separate_and_the_oldest_is_dropped(queuer_at: Browser, mixed: int) -> None:
    addresses = [
        queuer_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number=str(number)).location
        for number in numbers(7)
    ]
    found = [rows_on(queuer_at.get(address.removesuffix("#calls"))) for address in addresses]
    assert found[2:] == [[3], [4], [5], [6], [7]]
    assert found[:2] == [[], []]
    empty = queuer_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number="  ")
    assert "search" not in empty.location


def test_search_needs_the_csrf_token(reader_at: Browser, mixed: int) -> None:
    assert reader_at.client.post(f"/batches/{mixed}/search", data={"number": "6175550001"}).status_code == 403


def test_hostile_rows_are_shown_safely_on_a_small_page(reader_at: Browser, conn: Connection) -> None:
    cells = [HOSTILE, "\u202e\u200b" * 5000, '"' * 9999, "<" * 10_000, "Z\u0334\u0321\u0327\u0328\u0354\u0329" * 500]
    csv_rows = StringIO()
    writer = csv.writer(csv_rows)
    writer.writerow(["destination", f"name {HOSTILE}"])
    for index in range(50):
        writer.writerow([phone_number(index), cells[index % len(cells)]])
    parameters = BatchParameters(application_id=7, deployment_id=3, name=HOSTILE * 3)
    batch_id = accept(conn, BytesIO(csv_rows.getvalue().encode()), parameters, Limits(10_000, 3600)).batch_id
    conn.commit()
    page = reader_at.get(f"/batches/{batch_id}")
    assert broken_rules(page) == []
    assert len(rows_on(page)) == 50
    assert "\u202e" not in page and "\u200b" not in page
    assert "more characters" in page


# Hidden numbers and downloads ---------------------------------------------------------------------


def test_reader_sees_only_the_last_four_digits_by_default(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, ["(617) 555-0001"])
    page = reader_at.get(f"/batches/{batch_id}")
    assert "+•••••••0001" in page and "6175550001" not in page
    answer = reader_at.post("/numbers", form_at=f"/batches/{batch_id}", whole="1", next=f"/batches/{batch_id}")
    assert (answer.status_code, answer.location) == (303, f"/batches/{batch_id}")
    assert "+16175550001" in reader_at.get(f"/batches/{batch_id}")
    reader_at.post("/numbers", form_at=f"/batches/{batch_id}", whole="0", next="https://evil.example/")
    assert "6175550001" not in reader_at.get(f"/batches/{batch_id}")


def test_searched_number_is_hidden_like_the_others(reader_at: Browser, mixed: int) -> None:
    answer = reader_at.post(f"/batches/{mixed}/search", form_at=f"/batches/{mixed}", number="(617) 555-0001")
    page = reader_at.get(answer.location.removesuffix("#calls"))
    assert "(•••) •••-0001" in page and "555-0001" not in page and "5550001" not in page


def test_queuer_sees_whole_numbers_and_can_hide_them(queuer_at: Browser, mixed: int) -> None:
    assert "+16175550001" in queuer_at.get(f"/batches/{mixed}")
    queuer_at.post("/numbers", form_at=f"/batches/{mixed}", whole="0")
    assert "+16175550001" not in queuer_at.get(f"/batches/{mixed}")


def test_switch_redirects_only_within_the_service(reader_at: Browser, mixed: int) -> None:
    answer = reader_at.post("/numbers", form_at=f"/batches/{mixed}", whole="1", next="https://evil.example/")
    assert answer.location == "/"


def test_downloads_equal_those_of_the_api(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [*numbers(2), "555"], on_invalid="skip")
    deliver(conn, batch_id, result_body(phone_number(1)))
    answer = reader_at.client.get(f"/batches/{batch_id}/calls.csv")
    assert answer.headers["Content-Disposition"].startswith(f'attachment; filename="{batch_id} calls.csv"')
    assert answer.headers["Cache-Control"] == "no-store"
    assert answer.data.startswith(b"\xef\xbb\xbf")  # for Excel
    rows = list(csv.DictReader(StringIO(answer.data.decode("utf-8-sig"))))
    assert [(row["phone_number"], row["state"]) for row in rows] == [
        ("+16175550000", "pending"),
        ("+16175550001", "final"),
    ]
    lines = reader_at.client.get(f"/batches/{batch_id}/calls.ndjson").text.splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == [None, "completed"]
    only = reader_at.client.get(f"/batches/{batch_id}/calls.csv?state=final&outcome=completed").data.decode("utf-8-sig")
    assert [row["phone_number"] for row in csv.DictReader(StringIO(only))] == ["+16175550001"]
    (line,) = reader_at.client.get(f"/batches/{batch_id}/calls.ndjson?state=pending").text.splitlines()
    assert json.loads(line)["row"] == 1
    own = reader_at.client.get(f"/batches/{batch_id}/calls.csv?state=pending&columns=own").text
    assert own == "destination,name\r\n16175550000,Ana\r\n"
    for faulty in ("state=odd", "search=unknown"):
        assert reader_at.client.get(f"/batches/{batch_id}/calls.csv?{faulty}").status_code == 404
    skipped = list(
        csv.DictReader(StringIO(reader_at.client.get(f"/batches/{batch_id}/skipped.csv").data.decode("utf-8-sig")))
    )
    assert [(row["destination"], row["row"]) for row in skipped] == [("555", "3")]
    assert f"/batches/{batch_id}/skipped.csv" in reader_at.get(f"/batches/{batch_id}")
