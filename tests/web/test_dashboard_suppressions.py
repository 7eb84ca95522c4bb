"""Suppressions, and the audit trail, as people see them."""

from __future__ import annotations

from io import BytesIO

import pytest
from flask import Flask

from receiver.changes.audit import ChangeFilter, list_changes, record_change
from receiver.database.pool import Connection
from receiver.queueing.suppressions import list_suppressions, suppress, suppress_all
from tests.factories import make_batch, phone_number
from tests.results.test_erasure import erase_all
from tests.web.browsing import Browser, text_of

NUMBER = phone_number(34)


def test_number_is_added_found_and_removed(admin_at: Browser, conn: Connection) -> None:
    answer = admin_at.post(
        "/suppressions/add", form_at="/suppressions", phone_number="617 555 0034", reason="opted_out", note="by mail"
    )
    assert (answer.status_code, answer.location) == (303, "/suppressions")
    page = text_of(admin_at.get("/suppressions"))
    assert "+16175550034 is not called any more." in page and "opted_out by mail admin of a person" in page
    admin_at.post("/suppressions/add", form_at="/suppressions", phone_number="617 555 0034", reason="", note="")
    assert "was already suppressed" in text_of(admin_at.get("/suppressions"))
    (entry,) = list_suppressions(conn, 10)
    conn.rollback()
    path = f"/suppressions/{entry.id}/remove"
    assert "+16175550034 was suppressed by admin of a person" in text_of(admin_at.get(path))
    assert admin_at.post(path).location == "/suppressions"
    assert "No number is suppressed." in text_of(admin_at.get("/suppressions"))
    admin_at.get(path, 404)
    actions = [(each.actor, each.action) for each in list_changes(conn, ChangeFilter(), 10)]
    assert actions == [("admin of a person", "unsuppress"), ("admin of a person", "suppress")]


def test_search_keeps_the_number_out_of_the_address(queuer_at: Browser, conn: Connection) -> None:
    suppress_all(conn, {phone_number(at): "odd" if at % 2 else "even" for at in range(4)}, by="Ana")
    conn.commit()
    answer = queuer_at.post("/suppressions/search", form_at="/suppressions", number="(617) 555-0003", reason="")
    assert answer.status_code == 303 and "555" not in answer.location
    page = text_of(queuer_at.get(answer.location.partition("#")[0]))
    assert "+16175550003" in page and "+16175550001" not in page
    answer = queuer_at.post("/suppressions/search", form_at="/suppressions", number="", reason="even")
    assert answer.location == "/suppressions?reason=even#list"
    page = text_of(queuer_at.get("/suppressions?reason=even"))
    assert "+16175550002" in page and "+16175550003" not in page
    assert "Links do not contain the number" in text_of(queuer_at.get("/suppressions?search=unknown"))
    assert "Nothing matches." in text_of(queuer_at.get("/suppressions?reason=none"))
    assert "does not exist" in text_of(queuer_at.get("/suppressions?before=x"))


def test_faulty_number_is_named_and_what_was_typed_stays(queuer_at: Browser, conn: Connection) -> None:
    answer = queuer_at.post("/suppressions/add", form_at="/suppressions", phone_number="555", reason="why", note="")
    assert answer.status_code == 422
    assert 'id="phone-number-fault"' in answer.text and 'value="why"' in answer.text
    answer = queuer_at.post(
        "/suppressions/add", form_at="/suppressions", phone_number="6175550034", reason="x" * 201, note="a\nb"
    )
    assert answer.status_code == 422
    assert 'id="reason-fault"' in answer.text and 'id="note-fault"' in answer.text
    assert list_suppressions(conn, 10) == []


def test_file_is_added_and_its_faults_are_shown(queuer_at: Browser, conn: Connection) -> None:
    csv = BytesIO(f"phone_number,reason\n{NUMBER},\n555,\n{NUMBER},\n".encode())
    answer = queuer_at.post("/suppressions/file", form_at="/suppressions", file_reason="May", csv=(csv, "numbers.csv"))
    page = text_of(answer.text)
    assert answer.status_code == 200
    assert "1 number added. 1 row already suppressed. 1 row not valid" in page and "Row 2 3 555 " in page
    (entry,) = list_suppressions(conn, 10)
    conn.rollback()
    assert (entry.phone_number, entry.reason, entry.created_by) == (NUMBER, "May", "queue of a person")
    wrong = queuer_at.post(
        "/suppressions/file", form_at="/suppressions", file_reason="", csv=(BytesIO(b"a\n1\n"), "a.csv")
    )
    assert wrong.status_code == 422 and "must be named" in text_of(wrong.text)
    none = queuer_at.post("/suppressions/file", form_at="/suppressions", file_reason="")
    assert none.status_code == 422 and "Choose a CSV file" in text_of(none.text)


def test_each_scope_sees_what_it_may_do(
    reader_at: Browser, queuer_at: Browser, admin_at: Browser, conn: Connection
) -> None:
    found, _ = suppress(conn, NUMBER, by="Ana")
    conn.commit()
    page = text_of(reader_at.get("/suppressions"))
    assert "•••••••0034" in page and "6175550034" not in page and "Suppress a number" not in page
    page = text_of(queuer_at.get("/suppressions"))
    assert "Suppress a number" in page and "Remove" not in page
    assert "Remove" in text_of(admin_at.get("/suppressions"))
    assert reader_at.post("/suppressions/add", form_at="/suppressions", phone_number="6175550001").status_code == 403
    queuer_at.get(f"/suppressions/{found.id}/remove", 403)
    queuer_at.get("/audit", 403)


def test_erased_entry_is_shown_as_erased(admin_at: Browser, conn: Connection) -> None:
    suppress(conn, NUMBER, by="Ana", reason="opted_out")
    conn.commit()
    erase_all(conn, NUMBER)
    page = text_of(admin_at.get("/suppressions"))
    assert "erased opted_out" in page
    answer = admin_at.post("/suppressions/search", form_at="/suppressions", number=str(NUMBER), reason="")
    assert "erased opted_out" in text_of(admin_at.get(answer.location.partition("#")[0]))


def test_long_list_has_pages(queuer_at: Browser, conn: Connection) -> None:
    suppress_all(conn, dict.fromkeys(phone_number(at) for at in range(60)), by="Ana")
    conn.commit()
    page = queuer_at.get("/suppressions")
    assert f"+{phone_number(59)}" in page and f"+{phone_number(5)}<" not in page
    (entry,) = list_suppressions(conn, 1, phone_numbers=[phone_number(10)])
    older = f"/suppressions?before={entry.id}#list"
    assert older in page
    page = queuer_at.get(older.partition("#")[0])
    assert f"+{phone_number(9)}" in page and f"+{phone_number(10)}<" not in page


# Audit


def test_audit_page_shows_changes_and_narrows_them(admin_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [NUMBER])
    record_change(conn, "Ana", "pause", batch_id=batch_id, note="<b>too loud</b>")
    record_change(conn, "Ben", "change", batch_id=batch_id, details={"changed": ["name", "labels"]})
    record_change(conn, "Ben", "a later action", details={"name": "x"})
    conn.commit()
    page = admin_at.get("/audit")
    text = text_of(page)
    assert "Ana paused a batch" in text and "<b>too loud</b>" in text and "<b>too" not in page
    assert "changed: name, labels" in text and "a later action" in text
    text = text_of(admin_at.get("/audit?actor=Ana"))
    assert "too loud" in text and "labels" not in text
    text = text_of(admin_at.get("/audit?action=change"))
    assert "labels" in text and "too loud" not in text
    text = text_of(admin_at.get(f"/audit?batch_id={batch_id}"))
    assert "too loud" in text and "a later action" not in text
    assert "No change matches. Show all" in text_of(admin_at.get("/audit?to=2020-01-01"))


@pytest.mark.parametrize("query", ["action=dance", "batch_id=x", "from=soon", "to=x", "before=x", "actor=%00"])
def test_audit_page_says_what_it_does_not_understand(admin_at: Browser, conn: Connection, query: str) -> None:
    record_change(conn, "Ana", "pause", note="too loud")
    conn.commit()
    page = text_of(admin_at.get(f"/audit?{query}"))
    assert "too loud" not in page and "No change matches." not in page


def test_audit_page_has_pages(admin_at: Browser, conn: Connection) -> None:
    for number in range(60):
        record_change(conn, "Ana", "pause", note=f"note {number}.")
    conn.commit()
    page = admin_at.get("/audit?actor=Ana")
    assert "note 59." in page and "note 5." not in page
    (older,) = [part.partition('"')[0] for part in page.split('href="') if part.startswith("/audit?before=")]
    page = admin_at.get(older.replace("&amp;", "&"))
    assert "note 9." in page and "note 10." not in page


def test_keys_made_and_revoked_on_pages_are_in_the_trail(app: Flask, admin_at: Browser, conn: Connection) -> None:
    admin_at.post("/keys", name="Ben", scope="read", own_key=admin_at.key, expires_on="")
    (prefix,) = conn.execute("select prefix from api_key where name = 'Ben'").fetchone() or ()
    conn.rollback()
    admin_at.post(f"/keys/{prefix}/revoke", own_key=admin_at.key)
    entries = [(each.actor, each.action, each.details) for each in list_changes(conn, ChangeFilter(), 10)]
    assert entries == [
        ("admin of a person", "revoke_key", {"name": "Ben"}),
        ("admin of a person", "make_key", {"name": "Ben", "scope": "read"}),
    ]
