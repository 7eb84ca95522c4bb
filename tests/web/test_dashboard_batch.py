"""The page of one batch: its content, its live region, and resolving unknown submissions."""

from __future__ import annotations

import re

import pytest
from flask import Flask

from receiver.database.pool import Connection
from receiver.release.answer import Answer
from receiver.release.claim import Outgoing
from tests.factories import (
    ACCEPTED,
    REFUSED,
    UNKNOWN,
    answer_submissions,
    deliver,
    make_batch,
    phone_number,
    result_body,
)
from tests.web.browsing import Browser, text_of
from tests.web.page_rules import HOSTILE, broken_rules, numbers, rows_on


def test_page_shows_the_balance_the_outcomes_and_the_attempts(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [*numbers(5), "555"], on_invalid="skip", name="December reminders")
    deliver(
        conn,
        batch_id,
        result_body(phone_number(0), attempts="2"),
        result_body(phone_number(1), "failed", attempts="3"),
        result_body(phone_number(2), attempts="3", duration=90),
    )
    page = queuer_at.get(f"/batches/{batch_id}")
    text = text_of(page)
    assert broken_rules(page) == []
    assert "December reminders" in text and "Application 7, deployment 3" in text
    assert "6 rows: 1 skipped, 5 calls, 3 ended, 2 pending." in text
    assert "8 attempts for 3 ended calls, 2.7 per call on average." in text
    assert "2 min of talk time in 2 completed calls, 1 min each on average." in text
    assert "3 callbacks: 3 applied." in text and "1 submission: 1 accepted." in text
    attempts = re.findall(r'<th scope="row">(\d+)</th><td class="figure">(\d+)</td><td class="figure">(\d+)%', page)
    assert attempts == [("2", "1", "33"), ("3", "2", "67")]
    assert rows_on(page) == [1, 2, 3, 4, 5]


def test_page_says_what_the_batch_is_doing_and_what_the_words_mean(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [*numbers(3), "555"], on_invalid="skip", name="December \u202ereminders")

    def head() -> tuple[str, list[str]]:
        page = queuer_at.get(f"/batches/{batch_id}")
        title = re.search(r"<title>(.*?) · result_url receiver</title>", page)
        assert title and f'data-title="{title[1]} · result_url receiver"' in page
        return title[1], re.findall(r'badge-(\w+)">', page.split('class="balance"')[1].split("</p>")[0])

    assert head() == ("0% · December \ufffdreminders", ["calling"])
    deliver(conn, batch_id, result_body(phone_number(0)), result_body(phone_number(1), "rejected"))
    assert head()[0].startswith("67% ·")
    deliver(conn, batch_id, result_body(phone_number(2), "failed"))
    assert head() == ("Ended · December \ufffdreminders", ["ended"])
    page = queuer_at.get(f"/batches/{batch_id}")
    meanings = text_of(page.split('id="meanings"')[1].split("</details>")[0])
    assert f'href="/batches/{batch_id}/skipped.csv"' in page.split('id="balance"')[1].split("</dl>")[0]
    for word in ("Rejected The provider queued", "Refused The provider did not accept", "Skipped The row"):
        assert word in meanings
    assert "Withdrawn" not in meanings
    assert re.search(r"Ended \d+ \w+ \d{4}, [\d:]{8}, \d+ s after it was queued\.", text_of(page))
    assert "One bar for each quarter hour, UTC." in text_of(page)


def test_missing_batch_is_a_404_page(reader_at: Browser) -> None:
    assert "Batch 99 does not exist." in reader_at.get("/batches/99", 404)
    for part in ("live", "attempts", "submissions", "calls.csv", "calls.ndjson", "skipped.csv"):
        reader_at.get(f"/batches/99/{part}", 404)


def test_batch_whose_rows_were_all_skipped(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, [*numbers(1), "555"], on_invalid="skip")
    conn.execute("delete from call")
    conn.execute("delete from outstanding")
    conn.execute("update batch_count set rows = 2, skipped = 2")
    conn.commit()
    page = reader_at.get(f"/batches/{batch_id}")
    assert broken_rules(page) == []
    assert "This batch has no calls: every row was skipped." in text_of(page)


def test_live_region_is_polled_until_nothing_more_can_change(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(2))
    page = reader_at.get(f"/batches/{batch_id}")
    assert f'hx-get="/batches/{batch_id}/live"' in page and 'hx-trigger="every 2s"' in page
    deliver(conn, batch_id, result_body(phone_number(0)))
    live = reader_at.get(f"/batches/{batch_id}/live")
    assert "2 calls, 1 ended, 1 pending." in live and 'hx-trigger="every 2s"' in live
    assert broken_rules(live, whole=False) == []
    assert live.strip().startswith('<div id="live"')
    assert re.findall(r"badge-(\w+)", live.partition('id="calls-list"')[2]) == ["completed", "pending"]
    deliver(conn, batch_id, result_body(phone_number(1)))
    last = reader_at.get(f"/batches/{batch_id}/live", 286)
    assert 'data-phase="ended"' in last
    assert "2 calls, 2 ended." in last and "hx-trigger" not in last
    assert 'hx-ext="merge" hx-swap="merge">' in last, "an answer that arrives after this one is merged, too"
    assert re.findall(r"badge-(\w+)", last.partition('id="calls-list"')[2]) == ["completed", "completed"]
    narrowed = reader_at.get(f"/batches/{batch_id}/live?outcome=failed", 286)
    assert 'data-shown="outcome=failed"' in narrowed and "No call matches." in narrowed
    assert 'hx-trigger="every' not in reader_at.get(f"/batches/{batch_id}").split('id="calls"')[0]


def test_poll_without_changes_is_204(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(2))
    seen = re.search(r'"seen": "(\w+)"', reader_at.get(f"/batches/{batch_id}"))
    assert seen is not None
    assert reader_at.get(f"/batches/{batch_id}/live?seen={seen[1]}", 204) == ""
    deliver(conn, batch_id, result_body(phone_number(0)))
    assert "1 ended" in reader_at.get(f"/batches/{batch_id}/live?seen={seen[1]}")


def test_ended_session_redirects_htmx_to_the_sign_in(app: Flask, conn: Connection) -> None:
    batch_id = make_batch(conn)
    htmx = {"HX-Request": "true", "HX-Current-URL": f"http://localhost/batches/{batch_id}"}
    answer = Browser(app).client.get(f"/batches/{batch_id}/live", headers=htmx)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, f"/login?next=/batches/{batch_id}")
    assert answer.data == b""


def test_submissions_that_need_attention_come_first_with_advice(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(8), submission_rows=1, send=False)
    answers: dict[int, Answer] = {3: UNKNOWN, 5: REFUSED, 6: REFUSED, 7: UNKNOWN, 8: REFUSED}

    def answer(outgoing: Outgoing) -> Answer:
        return answers.get(outgoing.submission_no, ACCEPTED)

    answer_submissions(conn, answer)
    page = queuer_at.get(f"/batches/{batch_id}")
    assert broken_rules(page) == []
    doubts = page.split('id="doubts"')[1].split("</section>")[0]
    assert re.findall(r"<strong>Submission (\d)</strong>", doubts) == ["3", "7", "5"]
    text = text_of(doubts)
    assert "status 400:" in text and "data improperly formatted or invalid" in text
    assert "No answer came." in text and "not sent again automatically" in text
    assert "And 2 more submissions" in text
    everything = queuer_at.get(f"/batches/{batch_id}/submissions")
    assert broken_rules(everything) == []
    assert "8 submissions: 3 accepted, 3 refused, 2 unknown." in text_of(everything)


def test_page_says_that_the_provider_queued_fewer_calls(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(5), send=False, submission_rows=2)
    answer_submissions(conn, lambda sent: Answer("accepted", 200, calls_queued=0 if sent.submission_no < 3 else 1))
    said = "The provider queued 0 of 4 calls of 2 submissions. 4 may get no result."
    assert said in text_of(reader_at.get(f"/batches/{batch_id}"))


def test_refused_calls_that_were_seen_need_no_attention(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(2), submission_rows=1, send=False)
    answer_submissions(conn, lambda outgoing: REFUSED if outgoing.submission_no == 1 else UNKNOWN)
    path = f"/batches/{batch_id}"
    page = queuer_at.get(path)
    assert broken_rules(page) == []
    assert page.count('badge-refused"') == 2 and 'id="note-batch"' in page
    seen = re.search(r'"seen": "(\w+)"', page)
    assert seen is not None
    answer = queuer_at.post(f"{path}/acknowledge", form_at=path, note="Wrong deployment", next=path)
    assert (answer.status_code, answer.location) == (303, path)
    page = queuer_at.get(path)
    assert re.findall(r"<strong>Submission (\d)</strong>", page.split('id="doubts"')[1]) == ["2"]
    assert 'id="note-batch"' not in page
    assert queuer_at.get(f"{path}/live?seen={seen[1]}") != ""  # other open pages follow


def test_provider_messages_are_shown_safely_and_with_hidden_numbers_to_a_reader(
    reader_at: Browser, conn: Connection
) -> None:
    batch_id = make_batch(conn, send=False)
    answer_submissions(conn, lambda _: Answer("refused", provider_status=400, error=f"{HOSTILE} (617) 555-1234"))
    page = reader_at.get(f"/batches/{batch_id}")
    assert broken_rules(page) == []
    assert "&lt;script&gt;" in page and '<span class="hidden-character">U+202E</span>' in page
    assert "•••-1234" in page and "555-1234" not in page


def test_thousands_of_submissions_are_paged(reader_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(250), submission_rows=1, send=False)
    conn.execute("update submission set state = 'unknown', error = %s", ("<" * 2000,))
    conn.commit()
    first = reader_at.get(f"/batches/{batch_id}/submissions")
    assert broken_rules(first) == []
    assert f'href="/batches/{batch_id}/submissions?after=50"' in first
    last = reader_at.get(f"/batches/{batch_id}/submissions?after=200")
    assert re.findall(r"Submission </span>(\d+)</th>", last) == [str(number) for number in range(201, 251)]
    assert "Next page" not in last


def test_attempts_of_a_large_batch_are_counted_only_on_request(
    reader_at: Browser, conn: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch_id = make_batch(conn, numbers(3))
    deliver(conn, batch_id, *(result_body(number, attempts=str(number % 2 + 1)) for number in numbers(3)))
    monkeypatch.setattr("receiver.web.dashboard.batch.FEW_CALLS", 2)
    page = reader_at.get(f"/batches/{batch_id}")
    assert f'href="/batches/{batch_id}/attempts"' in page
    assert 'class="attempts"' not in page
    counted = reader_at.get(f"/batches/{batch_id}/attempts")
    assert broken_rules(counted) == []
    assert re.findall(r'<th scope="row">(\d)</th><td class="figure">(\d)', counted) == [("1", "2"), ("2", "1")]


# An unknown submission ----------------------------------------------------------------------------


@pytest.fixture
def in_doubt(conn: Connection) -> int:
    batch_id = make_batch(conn, numbers(3), send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    return batch_id


def state_of(conn: Connection, batch_id: int) -> str:
    row = conn.execute("select state from submission where batch_id = %s", (batch_id,)).fetchone()
    conn.commit()
    assert row is not None
    return str(row[0])


def test_unknown_submission_is_resolved_with_a_note_and_the_name_of_the_key(
    queuer_at: Browser, in_doubt: int, conn: Connection
) -> None:
    path = f"/batches/{in_doubt}/submissions/1/resolve"
    assert path in queuer_at.get(f"/batches/{in_doubt}")
    page = queuer_at.get(path)
    assert broken_rules(page) == []
    assert "all 3 people in it will be called twice" in page
    answer = queuer_at.post(path, queued="yes", note="Seen in the account")
    assert (answer.status_code, answer.location) == (303, f"/batches/{in_doubt}")
    assert "Submission 1 is accepted now." in queuer_at.get(f"/batches/{in_doubt}")
    assert state_of(conn, in_doubt) == "accepted"
    stored = conn.execute("select queued, note, resolved_by from resolution").fetchall()
    assert stored == [(True, "Seen in the account", "queue of a person")]
    page = queuer_at.get(f"/batches/{in_doubt}/submissions")
    assert broken_rules(page) == []
    for shown in ("It was queued.", "Seen in the account", "queue of a person"):
        assert shown in page


UNFINISHED: list[tuple[dict[str, str], str]] = [
    ({"queued": "no", "note": "Looked"}, "sure"),
    ({"queued": "yes", "note": "  "}, "note"),
    ({"note": "Looked", "sure": "1"}, "queued"),
    ({"queued": "perhaps", "note": "Looked"}, "queued"),
    ({"queued": "yes", "note": "x" * 2001}, "note"),
]


def test_incomplete_decision_changes_nothing(queuer_at: Browser, in_doubt: int, conn: Connection) -> None:
    for fields, field in UNFINISHED:
        answer = queuer_at.post(f"/batches/{in_doubt}/submissions/1/resolve", **fields)
        assert answer.status_code == 422, fields
        assert f'id="{field}-fault"' in answer.text
        assert broken_rules(answer.text) == []
    assert state_of(conn, in_doubt) == "unknown"


def test_submission_that_was_not_queued_is_sent_again_once_confirmed(
    queuer_at: Browser, in_doubt: int, conn: Connection
) -> None:
    answer = queuer_at.post(f"/batches/{in_doubt}/submissions/1/resolve", queued="no", sure="1", note="Not there")
    assert answer.status_code == 303
    assert state_of(conn, in_doubt) == "pending"
    queuer_at.get(f"/batches/{in_doubt}/submissions/1/resolve", 409)


def test_every_try_of_a_submission_is_shown_with_its_decision(
    queuer_at: Browser, in_doubt: int, conn: Connection
) -> None:
    queuer_at.post(f"/batches/{in_doubt}/submissions/1/resolve", queued="no", sure="1", note="Not there")
    answer_submissions(conn, lambda _: REFUSED)
    page = queuer_at.get(f"/batches/{in_doubt}/submissions")
    assert broken_rules(page) == []
    tries = page.split('<details id="tries-1" open>')[1].split("</details>")[0]
    assert text_of(tries.split("</summary>")[0]) == "2 tries, 1 decision"
    first, second = (text_of(each) for each in re.findall(r'<li value="\d">(.*?)</li>', tries, re.DOTALL))
    assert first.startswith("It was not queued. Decided by queue of a person,") and "Not there" in first
    assert "What happened: No answer came." in first
    assert second.startswith("Refused, status 400,") and "data improperly formatted or invalid" in second
    assert "did not reach the provider" not in tries
    assert "Submissions · Batch" in page.split("</title>")[0]


def test_resolving_needs_the_scope_queue(reader_at: Browser, in_doubt: int) -> None:
    assert "you need a key of scope queue" in reader_at.get(f"/batches/{in_doubt}")
    reader_at.get(f"/batches/{in_doubt}/submissions/1/resolve", 403)
