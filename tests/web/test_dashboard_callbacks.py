"""Callbacks that need attention: found by reason, shown safely, and replayed after a preview."""

from __future__ import annotations

import gzip
import json
import re

import pytest

from receiver.database.pool import Connection
from receiver.intake.journal import ERASED_BODY
from receiver.results.reading.unreadable import REASONS
from receiver.web.dashboard.body_text import body_text
from tests.factories import (
    deliver,
    differences,
    give_way_once,
    journal,
    make_batch,
    make_callback,
    phone_number,
    read_batch,
    result_body,
    settle_all,
    states,
)
from tests.web.browsing import Browser, text_of
from tests.web.page_rules import broken_rules


def callbacks_on(page: str) -> list[int]:
    listed = page.split('id="list"')[1]
    return [int(number.replace(",", "")) for number in re.findall(r"Callback </span>([\d,]+)</a>", listed)]


def deliver_troubles(conn: Connection) -> tuple[int, list[int]]:
    """A batch with a result and more callbacks: two unreadable, one without a number, one unmatched, one conflict."""
    batch_id = make_batch(conn)
    ids = deliver(
        conn,
        batch_id,
        result_body(phone_number(0)),
        b"{broken",
        b"{broken too",
        b'{"status": "completed"}',
        result_body(phone_number(9)),
        result_body(phone_number(0), "failed", last_event=5),
    )
    return batch_id, ids


def test_callbacks_that_need_attention_are_counted_by_reason_and_listed(reader_at: Browser, conn: Connection) -> None:
    _, ids = deliver_troubles(conn)
    page = reader_at.get("/callbacks")
    assert broken_rules(page) == []
    reasons = page.split('class="stack reasons"')[1].split("</table>")[0]
    counted = re.findall(r'state=(\w+)&amp;reason=(\w+)#list.*?data-label="Callbacks">(\d+)', reasons, re.DOTALL)
    assert counted == [
        ("unreadable", "malformed_json", "2"),
        ("unreadable", "no_phone_number", "1"),
        ("unmatched", "number_not_in_submission", "1"),
        ("conflict", "other_result_stands", "1"),
    ]
    assert callbacks_on(page) == ids[:0:-1]
    assert REASONS["malformed_json"] in page
    assert "Preview replay" not in page


NARROWED = {
    "state=unreadable": [3, 2, 1],
    "state=unreadable&reason=malformed_json": [2, 1],
    "state=unreadable&reason=nonsense": [],
    "state=any": [5, 4, 3, 2, 1, 0],
    "state=applied": [0],
    "state=waiting": [],
    "batch_id=99": [],
    "state=nonsense&reason=malformed_json": [],
    "batch_id=nonsense": [],
    "state=any&before=nonsense": [],
    "batch_id=x&before=-1": [],
}


def test_list_is_filtered(reader_at: Browser, conn: Connection) -> None:
    _, ids = deliver_troubles(conn)
    for query, expected in NARROWED.items():
        page = reader_at.get(f"/callbacks?{query}")
        assert broken_rules(page) == [], query
        assert callbacks_on(page) == [ids[index] for index in expected], query


def test_list_is_paged(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    ids = deliver(conn, batch_id, *[b"nothing"] * 60, *[result_body(phone_number(9))] * 60)
    seen = []
    path = "/callbacks"
    while path:
        page = reader_at.get(path)
        seen += callbacks_on(page)
        onward = re.search(r'rel="next" href="([^"]+)#list"', page)
        path = onward[1].replace("&amp;", "&") if onward else ""
    assert seen == ids[::-1]


def test_page_says_that_nothing_needs_attention(reader_at: Browser, conn: Connection) -> None:
    deliver(conn, make_batch(conn), result_body(phone_number(0)))
    page = reader_at.get("/callbacks")
    assert broken_rules(page) == []
    assert "Every callback was readable" in text_of(page)


# One callback -------------------------------------------------------------------------------------


def page_of(
    browser: Browser, conn: Connection, body: bytes, content_type: str = "application/json", query: str = ""
) -> str:
    ids = journal(conn, make_callback(make_batch(conn), body, content_type=content_type))
    settle_all(conn)
    page = browser.get(f"/callbacks/{ids[0]}{query}")
    assert broken_rules(page) == []
    return page


def body_on(page: str) -> str:
    return text_of(page.split('id="body"')[1].split("</section>")[0])


def test_callback_is_shown_with_its_formatted_body(queuer_at: Browser, conn: Connection) -> None:
    page = page_of(queuer_at, conn, result_body(phone_number(0)))
    assert "  &#34;status&#34;: &#34;completed&#34;" in page
    assert "It is the result of its call." in page and "application/json" in page
    received = page_of(queuer_at, conn, b'{"status":"completed"}', query="?as=received")
    assert '{"status":"completed"}' in body_on(received)


HOSTILE_BODIES = [
    b"<script>alert(1)</script>",
    b'{"status": "</pre><img src=x onerror=alert(1)>\\u202e\\u0000"}',
    "\u202e\u200b".encode() * 9000,
    b"<" * 65_536,
    b'"' * 65_536,
    b"[" * 65_536,
    b"1" * 65_536,
    b"a=" + b"&a=" * 20_000,
    bytes(range(256)) * 256,
    b"\xff\xfe" + "{\u202e}".encode("utf-16-le") * 100,
    b"",
]


def test_hostile_body_is_shown_safely_on_a_small_page(queuer_at: Browser, conn: Connection) -> None:
    for body in HOSTILE_BODIES:
        page = page_of(queuer_at, conn, body, '"><script>alert(2)</script>')
        assert "<script>alert" not in page and "<img" not in page, body[:40]
        assert not re.search("[\u202a-\u202e\u200b\0]", page), body[:40]


def test_binary_body_is_shown_as_a_dump_unless_numbers_are_hidden(
    reader_at: Browser, queuer_at: Browser, conn: Connection
) -> None:
    body = b"\x00\x01\x02\x03" * 8 + b"6175550000" + bytes(600)
    assert "00000020  36 31 37 35 35 35 30 30" in page_of(queuer_at, conn, body).replace("\u00a0", " ")
    page = page_of(reader_at, conn, body)
    assert "36 31 37" not in page
    assert "may contain a phone number" in page


def test_compressed_body_is_shown_as_text(queuer_at: Browser, conn: Connection) -> None:
    assert '"status": "completed"' in body_on(page_of(queuer_at, conn, gzip.compress(result_body(phone_number(0)))))


def test_body_is_downloaded_byte_for_byte_as_octet_stream(queuer_at: Browser, conn: Connection) -> None:
    body = b"<script>alert(1)</script>\x00\xff"
    ids = journal(conn, make_callback(make_batch(conn), body, content_type="text/html"))
    answer = queuer_at.client.get(f"/callbacks/{ids[0]}/body")
    assert answer.data == body
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["Content-Disposition"].startswith("attachment;")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_reader_cannot_download_a_body_while_numbers_are_hidden(reader_at: Browser, conn: Connection) -> None:
    ids = journal(conn, make_callback(make_batch(conn), b"6175550000"))
    assert "Choose “Show whole numbers” first" in reader_at.get(f"/callbacks/{ids[0]}/body", 403)
    assert f"/callbacks/{ids[0]}/body" not in reader_at.get(f"/callbacks/{ids[0]}")
    reader_at.post("/numbers", form_at=f"/callbacks/{ids[0]}", whole="1")
    assert reader_at.get(f"/callbacks/{ids[0]}/body") == "6175550000"


def test_erased_body_says_so(queuer_at: Browser, conn: Connection) -> None:
    assert "erased" in body_on(page_of(queuer_at, conn, ERASED_BODY))


def test_missing_callback_is_a_404_page(reader_at: Browser) -> None:
    assert "Callback 99 does not exist." in reader_at.get("/callbacks/99", 404)


@pytest.mark.parametrize(
    ("body", "form", "text"),
    [
        (b'{"a":1,"a":2}', "text", '{"a":1,"a":2}'),  # if it were formatted, one of the two would be lost
        (b"a%5B0%5D=x&b=&c=%E2%82%AC", "form", "a[0] = x\nb = \nc = €"),
        (b"<a><b>1</b></a>", "XML", "<a>\n<b>1</b>\n</a>"),
        (b'[1,{"\\u00e9":null}]', "JSON", '[\n  1,\n  {\n    "é": null\n  }\n]'),
        (b"just words", "text", "just words"),
        (b"{" * 5000, "text", "{" * 5000),
    ],
)
def test_body_is_formatted_by_its_format(body: bytes, form: str, text: str) -> None:
    shown = body_text(body, "")
    assert (shown.form, shown.text, shown.left) == (form, text, "")
    assert body_text(body, "", as_received=True).text == body.decode()


def test_long_body_is_cut_and_the_rest_counted() -> None:
    assert body_text(b"x" * 10_000, "").left == "2,000 more characters"
    assert body_text(bytes(1024), "").left == "512 more bytes"


# Replay -------------------------------------------------------------------------------------------


def settled_wrongly(conn: Connection) -> tuple[int, int]:
    """A readable callback that an earlier release stored as unreadable."""
    batch_id = make_batch(conn)
    (callback_id,) = journal(conn, make_callback(batch_id, b"{broken"))
    settle_all(conn)
    conn.execute("update callback set packing = 0, body = %s", (result_body(phone_number(0)),))
    conn.commit()
    return batch_id, callback_id


def test_preview_shows_what_would_change_and_changes_nothing(admin_at: Browser, conn: Connection) -> None:
    batch_id, callback_id = settled_wrongly(conn)
    answer = admin_at.post("/callbacks/replay", form_at="/callbacks", state="unreadable", reason="malformed_json")
    assert answer.status_code == 200
    assert broken_rules(answer.text) == []
    text = text_of(answer.text)
    assert "Settling 1 callback again: 1 change: 1 from unreadable to applied." in text
    assert f"batch {batch_id}, row 1" in text
    assert f'name="ids" value="{callback_id}"' in answer.text
    assert states(conn, [callback_id]) == [("unreadable", "malformed_json")]
    assert read_batch(conn, batch_id).counts["final"] == 0
    assert differences(conn) == []


def test_confirmed_replay_settles_the_previewed_callbacks(admin_at: Browser, conn: Connection) -> None:
    batch_id, callback_id = settled_wrongly(conn)
    answer = admin_at.post("/callbacks/replay", form_at="/callbacks", ids=str(callback_id), confirmed="1")
    assert (answer.status_code, answer.location) == (303, "/callbacks")
    assert "1 callback settled again: 1 change: 1 from unreadable to applied." in admin_at.get("/callbacks")
    assert states(conn, [callback_id]) == [("applied", None)]
    assert read_batch(conn, batch_id).counts["completed"] == 1
    assert differences(conn) == []


def test_replay_is_repeated_after_a_deadlock(admin_at: Browser, conn: Connection) -> None:
    batch_id, callback_id = settled_wrongly(conn)
    give_way_once(conn)
    answer = admin_at.post("/callbacks/replay", form_at="/callbacks", ids=str(callback_id), confirmed="1")
    assert (answer.status_code, answer.location) == (303, "/callbacks")
    assert read_batch(conn, batch_id).counts["completed"] == 1


def test_replay_that_changes_nothing_offers_nothing_to_confirm(admin_at: Browser, conn: Connection) -> None:
    _, ids = deliver_troubles(conn)
    answer = admin_at.post("/callbacks/replay", form_at="/callbacks", ids=f"{ids[1]},{ids[2]},x,-5")
    assert broken_rules(answer.text) == []
    assert "Settling 2 callbacks again: nothing changes." in text_of(answer.text)
    assert 'name="confirmed"' not in answer.text


NOTHING: list[dict[str, str]] = [{}, {"ids": ""}, {"ids": "99"}, {"state": "nonsense"}, {"state": "waiting"}]


def test_replay_of_nothing_says_so(admin_at: Browser) -> None:
    for fields in NOTHING:
        answer = admin_at.post("/callbacks/replay", form_at="/callbacks", **fields)
        assert "There is nothing to settle again" in text_of(answer.text), fields


def test_too_many_ids_are_refused(admin_at: Browser) -> None:
    ids = ",".join(str(number) for number in range(1001))
    answer = admin_at.post("/callbacks/replay", form_at="/callbacks", ids=ids)
    assert answer.status_code == 422
    assert "At most 1,000 at a time" in answer.text


def test_replay_needs_the_scope_admin_and_the_csrf_token(
    queuer_at: Browser, admin_at: Browser, conn: Connection
) -> None:
    _, ids = deliver_troubles(conn)
    assert "callbacks/replay" not in queuer_at.get(f"/callbacks/{ids[1]}")
    assert queuer_at.post("/callbacks/replay", form_at="/callbacks", ids=str(ids[1])).status_code == 403
    assert admin_at.client.post("/callbacks/replay", data={"ids": str(ids[1])}).status_code == 403
    assert json.loads(admin_at.client.get("/healthz").data)["status"] == "ok"
