"""The overview and the list of batches: content, filters, and hostile names."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.release.control import pause_batch
from receiver.release.presence import register_worker
from tests.factories import (
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    make_batch,
    phone_number,
    purge_batch,
    result_body,
)
from tests.web.browsing import Browser, text_of, visitor
from tests.web.page_rules import broken_rules

NUMBERS = [phone_number(index) for index in range(4)]


@pytest.fixture
def browser(app: Flask, conn: Connection) -> Browser:
    register_worker(conn, "test", 1)
    conn.commit()
    return visitor(app, conn, "read")


def attention_of(page: str) -> str:
    return text_of(page.partition('id="attention-title"')[2].partition("</section>")[0].partition(">")[2])


def rows_of(page: str) -> list[str]:
    """The ids of the listed batches."""
    return re.findall(r'class="quiet">#(\d+) ', page)


def test_empty_service_says_what_to_do(browser: Browser, app: Flask, conn: Connection) -> None:
    page = browser.get("/")
    assert attention_of(page) == "Needs attention Nothing needs attention. Every call is in progress or has a result."
    assert broken_rules(page) == [] and "you need a key of scope queue" in text_of(page)
    queuer = visitor(app, conn, "queue")
    page = queuer.get("/")
    assert "First steps" in page and 'href="/batches/new/sample.csv"' in page
    assert '<dl class="figures">' not in page and 'aria-label="Filter the overview"' not in page
    assert "No batch has been queued yet." in browser.get("/batches")
    assert "Queue the first one" in queuer.get("/batches")
    assert "No results yet." in browser.get("/?from=2026-01-01")
    make_batch(conn, NUMBERS)
    assert "First steps" not in browser.get("/")


def test_what_needs_attention_links_to_the_right_page(browser: Browser, conn: Connection) -> None:
    overdue = make_batch(conn, NUMBERS, past_due=True)
    unknown = make_batch(conn, NUMBERS, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    refused = make_batch(conn, NUMBERS[:1], send=False)
    answer_submissions(conn, lambda _: REFUSED)
    asked = make_batch(conn, NUMBERS)
    deliver(conn, asked, b"nothing of use", result_body(phone_number(99)))
    page = browser.get("/")
    words = attention_of(page)
    for text in ("4 calls overdue in 1 batch", "1 submission unknown", "4 calls may or may not be made"):
        assert text in words
    for text in ("1 submission refused", "1 call will not be made", "1 callback unreadable", "1 callback unmatched"):
        assert text in words
    for needs, batch_id in (("overdue", overdue), ("unknown", unknown), ("refused", refused)):
        (link,) = re.findall(rf'href="(/batches\?[^"]*needs={needs}[^"]*)"', page)
        assert rows_of(browser.get(link.replace("&amp;", "&"))) == [str(batch_id)]
    for state in ("unreadable", "unmatched"):
        assert f'href="/callbacks?state={state}"' in page


def test_old_batches_need_attention_unless_days_are_chosen(browser: Browser, conn: Connection) -> None:
    old = make_batch(conn, NUMBERS, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    conn.execute("update batch set created_at = now() - interval '31 days' where batch_id = %s", (old,))
    purged = make_batch(conn, NUMBERS)
    purge_batch(conn, purged)
    conn.execute("delete from batch where batch_id = %s", (purged,))
    conn.commit()
    deliver(conn, purged, result_body(NUMBERS[0]))
    page = browser.get("/")
    assert "1 submission unknown" in attention_of(page) and "1 callback unmatched" in attention_of(page)
    assert "Checked only" not in attention_of(page)
    (link,) = re.findall(r'href="(/batches\?[^"]*needs=unknown[^"]*)"', page)
    assert rows_of(browser.get(link.replace("&amp;", "&"))) == [str(old)]
    assert "Calls 0 Ended 0" in text_of(page)
    today = datetime.now(UTC).date()
    for query, batches in (
        (f"from={today - timedelta(days=7)}", f"created from {today - timedelta(days=7):%-d %b %Y}"),
        (f"to={today - timedelta(days=40)}", f"created to {today - timedelta(days=40):%-d %b %Y}"),
        ("application_id=9&deployment_id=8", "of application 9 of deployment 8"),
    ):
        assert attention_of(browser.get(f"/?{query}")) == (
            "Needs attention Nothing needs attention. Every call of these batches is in progress or has a result."
            f" Checked only batches {batches}. Check all batches"
        )


def test_missing_worker_and_waiting_callbacks_are_shown(browser: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    conn.execute("update worker set seen_at = now() - interval '1 hour'")
    conn.execute("insert into waiting values (1, %s, now() - interval '5 minutes')", (batch_id,))
    conn.commit()
    words = attention_of(browser.get("/"))
    assert "No worker is running" in words
    assert "The oldest callback has been waiting for 5 min." in words


def test_totals_and_chart_show_the_results(browser: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    bodies = [result_body(NUMBERS[0]), result_body(NUMBERS[1], "failed"), result_body(NUMBERS[2], "odd")]
    deliver(conn, batch_id, *bodies)
    page = browser.get("/?from=2026-03-01&interval=hour")
    words = text_of(page)
    assert "Calls 4 Ended 3 75% Completed 1 33% Failed 1 33% Canceled 0 0%" in words
    assert "completed 1 failed 1 other 1" in words
    assert "Overdue 0 Refused 0" in words
    running = text_of(page.partition('id="running-title"')[2].partition("</section>")[0])
    assert "75% of 4 calls" in running and "1 completed" in running and "1 pending" in running


def test_days_begin_in_the_viewers_time_zone(browser: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS[:1])
    conn.execute("update batch set created_at = '2026-03-01T02:00:00Z' where batch_id = %s", (batch_id,))
    conn.commit()
    assert rows_of(browser.get("/batches?from=2026-03-01&to=2026-03-01")) == [str(batch_id)]
    browser.post("/time-zone", time_zone="America/New_York")
    assert rows_of(browser.get("/batches?from=2026-03-01&to=2026-03-01")) == []
    page = browser.get("/batches?from=2026-02-28&to=2026-02-28")
    assert rows_of(page) == [str(batch_id)]
    assert (
        '<time datetime="2026-03-01T02:00:00Z" title="Saturday, 28 February 2026, 21:00:00 America/New_York">' in page
    )


def test_filters_are_in_the_address_and_in_the_form(browser: Browser, conn: Connection) -> None:
    first = make_batch(conn, name="December reminders", application_id=1)
    second = make_batch(conn, name="Flu clinic", application_id=2, send=False)
    for query, found in (
        ("name=REMIND", [first]),
        ("name=%25", []),
        ("application_id=2", [second]),
        ("application_id=2&deployment_id=4", []),
        ("state=queueing", [second]),
        ("state=queued&name=december", [first]),
        ("from=2020-01-01&to=2020-01-02", []),
        ("needs=running", [second, first]),
    ):
        assert rows_of(browser.get(f"/batches?{query}")) == [str(batch_id) for batch_id in found], query
    page = browser.get("/batches?name=%22Flu%22&state=queueing&application_id=2&from=2026-01-01")
    for shown in ('value="&#34;Flu&#34;"', '<option value="queueing" selected>', 'value="2026-01-01"', 'value="2"'):
        assert shown in page


def test_list_is_narrowed_to_what_batches_are_doing(browser: Browser, conn: Connection) -> None:
    ended = make_batch(conn, send=False, name="First list")
    calling = make_batch(conn, send=False, name="Second list")
    answer_submissions(conn)
    deliver(conn, ended, result_body(phone_number(0)))
    paused, scheduled = (make_batch(conn, send=False, calls_per_minute=1) for _ in range(2))
    pause_batch(conn, paused, by="Ana")
    conn.commit()
    listed = {"": [scheduled, paused, calling, ended], "scheduled": [scheduled], "running": [calling]}
    listed |= {"paused": [paused], "overdue": [], "ended": [ended], "calling": [calling]}
    for phase, ids in listed.items():
        page = browser.get(f"/batches?phase={phase}")
        assert broken_rules(page) == []
        assert [int(batch_id) for batch_id in rows_of(page)] == ids, phase
    assert re.search(r'href="/batches\?name=list&amp;phase=running">', browser.get("/batches?name=list&phase=ended"))
    page = browser.get("/batches?name=list&phase=ended")
    assert 'name="phase" value="ended"' in page and re.search(r'phase=ended" aria-current="page">Ended', page)
    badges = [re.findall(r'badge-(\w+)"', row) for row in browser.get("/batches").split("<tr>")[2:]]
    assert badges == [["scheduled"], ["paused"], ["calling"], ["ended"]]


def test_list_is_paged_by_signed_cursors(browser: Browser, conn: Connection) -> None:
    made = [make_batch(conn, name=f"Number {number}", send=False) for number in range(53)]
    path, seen = "/batches?name=number", []
    for size in (25, 25, 3):
        page = browser.get(path)
        assert len(rows_of(page)) == size
        seen += rows_of(page)
        older = re.findall(r'href="([^"]+)" rel="next"', page)
        path = older[0].replace("&amp;", "&") if older else ""
    assert not path
    assert seen == [str(batch_id) for batch_id in reversed(made)]
    for cursor in ("x", "WzFd", "%00", "." * 300):
        page = browser.get(f"/batches?cursor={cursor}")
        assert rows_of(page) == [] and "This page of the list does not exist" in page


FAULTY = [
    "-1",
    "1.0",
    "x",
    "%00",
    "%F0%9F%92%A3",
    "9" * 400,
    "%D9%A1",
    "1e400",
    "2026-13-01",
    "0001-01-01",
    "9999-12-31",
]


def test_wrong_filter_is_named_and_ignored(browser: Browser, conn: Connection) -> None:
    make_batch(conn)
    for path, names in (
        ("/", ("application_id", "deployment_id", "from", "to", "interval")),
        ("/batches", ("application_id", "deployment_id", "from", "to", "state")),
    ):
        for name in names:
            for text in FAULTY:
                page = browser.get(f"{path}?{name}={text}")
                assert f'id="{name.replace("_", "-")}-fault"' in page, (path, name, text)
                assert "not valid" in page
                if path == "/batches":
                    assert rows_of(page) == []
    page = browser.get("/batches?from=2026-02-02&to=2026-02-01")
    assert "The last day is before the first day." in page
    for text in ("x" * 201, "%00", "%ED%A0%80", "%0a", "' or 1=1 --", "\u202e"):
        browser.get(f"/batches?name={text}")


def test_too_long_series_is_a_fault(browser: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, NUMBERS)
    deliver(conn, batch_id, result_body(NUMBERS[0]))
    page = browser.get("/?from=1990-01-01&interval=hour")
    assert 'id="interval-fault"' in page
    assert "Not drawn" in page and "No results yet" not in page
    tomorrow = (datetime.now(UTC) + timedelta(days=2)).date()
    browser.get(f"/?from={tomorrow}")


NAMES = [
    "<script>alert(1)</script>",
    "\" autofocus onfocus='alert(1)'",
    "'; drop table batch; --",
    "\u202egnp.exe\u202c",
    "{{ 7 * 7 }} {% raw %}",
    "تذكير بالموعد",
    "🎉👨‍👩‍👧" * 20,
    "a" * 200,
    "&lt;b&gt; &amp;",
    "   ",
]


def test_hostile_names_are_shown_as_isolated_text(browser: Browser, conn: Connection) -> None:
    for name in NAMES:
        make_batch(conn, name=name)
    make_batch(conn, name="z" * 10_000)  # forms refuse it, but a restored database may have it
    for path in ("/", "/batches"):
        page = browser.get(path)
        assert "<script>alert" not in page and not re.search(r"<[^>]*\son[a-z]+=", page)
        assert len(page.encode()) < 100_000
    page = browser.get("/batches")
    words = text_of(page)
    for name in NAMES[:-1]:
        assert " ".join(name.split()).replace("\u202e", "U+202E").replace("\u202c", "U+202C") in words, name
    assert "Batch 10" in words
    assert "\u202e" not in page


def test_live_region_polls_the_same_address(browser: Browser) -> None:
    page = browser.get('/?application_id=7&from=2026-01-01&x="><b>')
    assert (
        'hx-get="/?application_id=7&amp;from=2026-01-01&amp;x=' in page
        and "<b>" not in page.partition("<main")[2][:3000]
    )
    assert 'hx-trigger="every 5s" hx-select="#live"' in page


def test_simulated_batches_are_marked_and_counted_separately(browser: Browser, conn: Connection) -> None:
    real = make_batch(conn, NUMBERS)
    simulated = make_batch(conn, NUMBERS[:3], simulated=True)
    deliver(conn, simulated, result_body(NUMBERS[0]))
    page = text_of(browser.get("/"))
    assert "The figures above include simulated calls: 3 rows in 1 batch, 1 ended, 2 pending, 0 overdue." in page
    assert "python -m receiver purge --simulated" in page
    for path in ("/", "/batches"):
        listed = text_of(browser.get(path))
        assert f"#{simulated} · application 7, deployment 3 · simulated" in listed
        assert f"#{real} · application 7, deployment 3 · simulated" not in listed
    assert "simulated: nobody is called" in text_of(browser.get(f"/batches/{simulated}"))
    assert "simulated" not in text_of(browser.get(f"/batches/{real}"))


def test_batch_that_waits_for_the_other_kind_of_provider_needs_attention(browser: Browser, conn: Connection) -> None:
    make_batch(conn, NUMBERS)
    waiting = make_batch(conn, NUMBERS[:3], send=False, simulated=True)
    page = browser.get("/")
    assert "1 batch waiting for the simulator: 3 calls will not be made here." in attention_of(page)
    assert 'href="/batches?needs=provider"' in page
    assert rows_of(browser.get("/batches?needs=provider")) == [str(waiting)]
