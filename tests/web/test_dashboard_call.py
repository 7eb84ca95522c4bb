"""The page of one call: its timeline, its details and its callbacks; and safe text from outside."""

from __future__ import annotations

import re

import pytest

from receiver.database.pool import Connection
from receiver.web.dashboard.number_masking import hide_numbers
from receiver.web.dashboard.safe_text import disclosed, visible
from tests.factories import REFUSED, answer_submissions, deliver, make_batch, phone_number, result_body
from tests.web.browsing import Browser, text_of
from tests.web.page_rules import broken_rules


def test_page_shows_the_timeline_the_facts_and_the_callbacks(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, ["(617) 555-0000"])
    ids = deliver(
        conn,
        batch_id,
        result_body(phone_number(0), attempts="2"),
        result_body(phone_number(0), attempts="2"),
        result_body(phone_number(0), "failed", last_event=30),
    )
    page = queuer_at.get(f"/batches/{batch_id}/calls/1")
    text = text_of(page)
    assert broken_rules(page) == []
    assert "+16175550000" in text and "Destination in the CSV (617) 555-0000" in text
    assert "Attempts 2 of 3" in text and "Talk time 30 s" in text and "name Ana" in text
    assert "1 attempt within 1 min: waiting 5 s, ringing 55 s." in page
    received = page.split('class="received"')[1].split("</ol>")[0]
    assert re.findall(r"badge-(\w+)", received) == ["applied", "duplicate", "conflict"]
    assert "It repeats an earlier callback." in text_of(received)
    assert [f"/callbacks/{callback_id}" in received for callback_id in ids] == [True] * 3
    assert f'href="/batches/{batch_id}"' in page


def test_call_with_only_a_step_is_not_shown_with_a_result(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    (step,) = deliver(conn, batch_id, result_body(phone_number(0), "dialing"))
    of_call = text_of(queuer_at.get(f"/batches/{batch_id}/calls/1"))
    of_callback = text_of(queuer_at.get(f"/callbacks/{step}"))
    for text in (of_call, of_callback):
        assert "It is the latest status of its call. The call has no result yet." in text
        assert "is the result" not in text
    assert "No result has been received yet. It is due by" in of_call and "Result received" not in of_call
    of_batch = text_of(queuer_at.get(f"/batches/{batch_id}"))
    assert "1 row: 1 call, none ended yet, 1 pending." in of_batch
    assert "1 callback: 1 applied." in of_batch
    assert "No result" in of_batch


def test_call_without_a_result_says_when_it_is_due(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    assert "No result has been received yet. It is due by" in text_of(reader_at.get(f"/batches/{batch_id}/calls/1"))
    overdue = make_batch(conn, past_due=True)
    page = reader_at.get(f"/batches/{overdue}/calls/1")
    assert broken_rules(page) == []
    assert "A late result is still recorded." in text_of(page)


def test_refused_call_says_that_nobody_was_called(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: REFUSED)
    assert "Nobody was called" in text_of(reader_at.get(f"/batches/{batch_id}/calls/1"))


def test_missing_call_is_a_404_page(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    assert f"Batch {batch_id} has no call in row 2." in reader_at.get(f"/batches/{batch_id}/calls/2", 404)
    reader_at.get("/batches/99/calls/1", 404)
    reader_at.get(f"/batches/{batch_id}/calls/{'9' * 18}", 404)


def test_reader_sees_no_whole_number_anywhere(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, ["tel:+16175550000;ani=8009957586"])
    conn.execute("update call set line = 'tel:+16175550000;ani=8009957586,call (617) 555-0000 or 6175550000'")
    ids = deliver(conn, batch_id, result_body(phone_number(0)))
    for path in (f"/batches/{batch_id}/calls/1", f"/callbacks/{ids[0]}", f"/callbacks/{ids[0]}?as=received"):
        page = reader_at.get(path)
        assert "0000" in page
        assert not re.search(r"5550000|555-0000|9957586", page), path
    assert "•••-0000 or ••••••0000" in reader_at.get(f"/batches/{batch_id}/calls/1")


HOSTILE_VARIABLES = {
    "<script>alert(1)</script>": '"><img src=x onerror=alert(1)>',
    "\u202egnp.exe\u2066": "\u200b\u200c\u200e\ufeff" * 2000,
    "<" * 10_000: "&" * 10_000,
    "=cmd|' /C calc'!A0": "\x1b[31mred\x07",
    "{{ 7 * 7 }}": "{% raw %}",
}


def test_hostile_variables_are_shown_safely(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    for name, text in HOSTILE_VARIABLES.items():
        conn.execute("update batch set columns = %s", ([name],))
        conn.execute("update call set line = %s", (f'{phone_number(0)},"{text.replace(chr(34), chr(34) * 2)}"',))
        conn.commit()
        page = reader_at.get(f"/batches/{batch_id}/calls/1")
        assert broken_rules(page) == []
        assert "<script>" not in page and "<img" not in page and "49" not in text_of(page).split("Variables")[1]
        assert not re.search("[\u202a-\u202e\u2066-\u2069\u200b-\u200f\ufeff\x1b\x07]", page)


def test_page_of_a_call_with_hundreds_of_columns_stays_small(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    columns = [f"column {index}" for index in range(600)]
    conn.execute("update batch set columns = %s", (columns,))
    conn.execute("update call set line = %s", (",".join([str(phone_number(0)), *["<" * 400] * 600]),))
    conn.commit()
    page = reader_at.get(f"/batches/{batch_id}/calls/1")
    assert broken_rules(page) == []
    assert re.search(r"And \d+ more variables: see the download of all calls\.", text_of(page))


def test_events_with_hostile_names_and_times_are_shown_safely(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    events = [{"event": "</td><script>\u202e" * 20, "timestamp": at} for at in (1, "1772366400", None, "x", 9e99)]
    deliver(conn, batch_id, result_body(phone_number(0), "<b>done</b>", events=events * 150))
    page = reader_at.get(f"/batches/{batch_id}/calls/1")
    assert broken_rules(page) == []
    assert "<script>" not in page and "<b>done" not in page


def test_thousand_callbacks_for_one_call_are_listed_in_part(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    deliver(conn, batch_id, *[result_body(phone_number(0))] * 200)
    page = reader_at.get(f"/batches/{batch_id}/calls/1")
    assert broken_rules(page) == []
    assert "And 150 more." in text_of(page)


# Numbers in text ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("+16175551234", "+•••••••1234"),
        ("16175551234;ani=8009957586;postd=2", "•••••••1234;ani=••••••7586;postd=2"),
        ("(617) 555-1234", "(•••) •••-1234"),
        ("617.555.1234", "•••.•••.1234"),
        ("tel:+44 20 7946 0958", "tel:+•• •• •••• 0958"),
        ('{"phone_number": "\'6175551234\'"}', '{"phone_number": "\'••••••1234\'"}'),
        ("12345678901234567890", "••••••••••••••••7890"),
        ("\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668", "••••\u0665\u0666\u0667\u0668"),
    ],
)
def test_number_in_a_text_shows_only_its_last_four_digits(text: str, hidden: str) -> None:
    assert hide_numbers(text) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "2026-12-01 09:30",
        "2026-12-01T09:30:00Z",
        "555-1234",
        "1,234,567",
        '"timestamp": "1764590000"',
        '"queued_timestamp":1764590000,',
        "events%5B0%5D%5Btimestamp%5D=1764590000",
        "<timestamp>1764590000</timestamp>",
        "",
    ],
)
def test_other_digits_stay(text: str) -> None:
    assert hide_numbers(text) == text


@pytest.mark.parametrize("text", ['"timestamp": "6175551234"', '"timestamp": "17645900001"', "timestamps 1764590000"])
def test_field_name_timestamp_does_not_reveal_a_number(text: str) -> None:
    assert "•" in hide_numbers(text)


def test_long_text_of_digits_is_fast() -> None:
    for text in ("1 " * 50_000, "(1) " * 30_000, "+1" * 50_000, "1-" * 50_000, "timestamp " * 20_000):
        hide_numbers(text)


# Invisible characters -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Björn", "Björn"),
        ("\U0001f469\U0001f3fd-\U0001f52c", "\U0001f469\U0001f3fd-\U0001f52c"),
        ("a\u202eb", 'a<span class="hidden-character">U+202E</span>b'),
        ("\0\0\0", '<span class="hidden-character">NUL ×3</span>'),  # noqa: RUF001
        ("<&\"'>", "&lt;&amp;&#34;&#39;&gt;"),
        ("a\tb\nc", "a\tb\nc"),
        ("\ud800", '<span class="hidden-character">U+D800</span>'),
        ("e\u0301", "e\u0301"),
    ],
)
def test_hidden_characters_are_shown_as_codes(text: str, shown: str) -> None:
    assert disclosed(text) == shown


def test_only_the_first_hidden_characters_are_shown_as_codes() -> None:
    shown = disclosed("a\u202e" * 100)
    assert shown.count("U+202E") == 8
    assert shown.count("\ufffd") == 92


def test_long_text_is_cut_and_the_rest_counted() -> None:
    assert visible("x" * 1300) == f'<bdi>{"x" * 300}</bdi> <span class="cut">… 1,000 more characters</span>'


def test_stacked_accents_are_cut() -> None:
    assert len(visible("Z" + "\u0334" * 200)) < 50
