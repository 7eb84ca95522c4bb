"""Pausing, resuming, changing and canceling on the pages of a batch and of a deployment."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from receiver.database.pool import Connection
from receiver.release.answer import Answer
from receiver.release.control import pause_batch
from receiver.release.deployment_cancel import claim_cancel, record_cancel
from receiver.release.presence import register_worker
from receiver.summary.batches import Batch, get_batch
from tests.factories import UNKNOWN, answer_submissions, deliver, make_batch, phone_number, result_body
from tests.web.asking import OPEN_HOURS
from tests.web.browsing import Browser, text_of
from tests.web.page_rules import HOSTILE, broken_rules, numbers

DEPLOYMENT = "/deployments/7/3/cancel"


def paced(conn: Connection, **parameters: Any) -> int:
    """A batch of three calls, of which the first was released."""
    return make_batch(conn, numbers(3), calls_per_minute=1, **parameters)


def batch_of(conn: Connection, batch_id: int) -> Batch:
    conn.rollback()
    return get_batch(conn, batch_id)


def changes(conn: Connection) -> list[tuple[Any, ...]]:
    conn.rollback()
    return conn.execute(
        "select actor, action, batch_id, note from audit where action <> 'queue' order by audit_id"
    ).fetchall()


def actions_on(page: str) -> list[str]:
    """The words of the actions that a batch's page offers."""
    part = page.partition('id="actions"')[2].partition("</section>")[0]
    return re.findall(r'<(?:button|a class="button")[^>]*>([^<]+)<', part)


def test_batch_page_shows_the_phase_and_what_decides_the_release(queuer_at: Browser, conn: Connection) -> None:
    hours = {"calling_hours": (0, 1440), "calling_days": 127, "time_zone": OPEN_HOURS["time_zone"]}
    batch_id = paced(conn, **hours, external_id="crm 7", labels={"team": HOSTILE}, name="Spring")
    conn.execute("update batch set created_by = 'Ana'")
    conn.commit()
    page = queuer_at.get(f"/batches/{batch_id}")
    assert broken_rules(page) == []
    text = text_of(page)
    assert "Balance releasing 3 rows" in text and "by Ana" in text
    assert re.search(r"Next release: \d", text) and "The last results are due about" in text
    assert "Pace 1 call a minute" in text and f"00:00-24:00, every day, in {OPEN_HOURS['time_zone']}" in text
    assert "Your id crm 7" in text and "Label team <script>alert(1)" in text
    page = queuer_at.get(f"/batches/{batch_id}/submissions")
    assert broken_rules(page) == []
    assert text_of(page).count("not before") == 2 and OPEN_HOURS["time_zone"] in text_of(page)


def test_batch_is_paused_and_resumed_with_a_button_each(queuer_at: Browser, conn: Connection) -> None:
    batch_id = paced(conn)
    here = f"/batches/{batch_id}"
    assert actions_on(queuer_at.get(here)) == ["Pause", "Cancel the batch", "Cancel at the provider"]
    answer = queuer_at.post(f"{here}/pause", form_at=here)
    assert (answer.status_code, answer.location) == (303, here)
    page = queuer_at.get(here)
    assert broken_rules(page) == []
    assert "The batch is paused." in text_of(page) and "Paused since" in text_of(page)
    assert actions_on(page) == ["Resume", "Cancel the batch", "Cancel at the provider"]
    assert batch_of(conn, batch_id).phase == "paused"
    queuer_at.post(f"{here}/pause", form_at=here)
    assert "Nothing was changed" in text_of(queuer_at.get(here))
    queuer_at.post(f"{here}/resume", form_at=here)
    assert "The batch is resumed." in text_of(queuer_at.get(here))
    assert batch_of(conn, batch_id).phase == "releasing"
    queuer_at.post(f"{here}/resume", form_at=here)
    assert "Nothing was changed" in text_of(queuer_at.get(here))
    assert changes(conn) == [
        ("queue of a person", "pause", batch_id, None),
        ("queue of a person", "resume", batch_id, None),
    ]


def test_cancel_says_before_and_after_how_many_calls_continue(queuer_at: Browser, conn: Connection) -> None:
    batch_id = paced(conn)
    here = f"/batches/{batch_id}"
    page = queuer_at.get(f"{here}/cancel")
    assert broken_rules(page) == []
    text = text_of(page)
    assert (
        "2 unreleased calls will be withdrawn and not made." in text
        and "1 call is already at the provider and continues" in text
    )
    refused = queuer_at.post(f"{here}/cancel", note="x" * 2001)
    assert refused.status_code == 422 and 'id="note-fault"' in refused.text
    assert changes(conn) == []
    assert queuer_at.post(f"{here}/cancel", note="wrong file").location == here
    page = queuer_at.get(here)
    assert broken_rules(page) == []
    text = text_of(page)
    assert "The batch is canceled: 2 calls withdrawn. 1 call already at the provider, not canceled." in text
    assert "3 rows: 3 calls, 2 withdrawn, none ended yet, 1 pending." in text
    assert "Withdrawn 2 67% of rows" in text and "0 of 1 call" in text and "Balance calling" in text
    assert actions_on(page) == ["Follow up", "Cancel at the provider"]
    assert changes(conn) == [("queue of a person", "cancel", batch_id, "wrong file")]
    # The percentage is of the calls that can end.
    assert "0% of 1 call · 1 pending · 2 withdrawn" in text_of(queuer_at.get("/batches"))
    deliver(conn, batch_id, result_body(phone_number(0)))
    page = queuer_at.get(here)
    assert "Ended 100% 1 of 1 call" in text_of(page) and actions_on(page) == ["Follow up"]
    withdrawn = queuer_at.get(f"{here}?state=withdrawn")
    assert re.findall(r"badge-(\w+)", withdrawn.partition('id="calls-list"')[2]) == ["withdrawn"] * 2
    page = queuer_at.get(f"{here}/calls/2")
    assert broken_rules(page) == []
    assert "The batch was canceled before this call was sent. Nobody was called." in text_of(page)
    for path in ("/", "/batches"):
        assert "2 withdrawn" in text_of(queuer_at.get(path)) or "Withdrawn 2" in text_of(queuer_at.get(path))
    unsent = paced(conn, send=False)
    queuer_at.post(f"/batches/{unsent}/cancel")
    text = text_of(queuer_at.get(f"/batches/{unsent}"))
    assert "The batch is canceled: 3 calls withdrawn." in text and "already at the provider" not in text


def test_batch_of_which_everything_is_withdrawn_is_shown_as_such(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(3), send=False)
    queuer_at.post(f"/batches/{batch_id}/cancel", note="")
    text = text_of(queuer_at.get("/batches"))
    assert "canceled ended" in text and "3 calls · 3 withdrawn" in text
    assert "3 rows: 3 calls, 3 withdrawn." in text_of(queuer_at.get(f"/batches/{batch_id}"))


def test_actions_are_disabled_with_the_reason_where_the_scope_does_not_allow_them(
    reader_at: Browser, queuer_at: Browser, conn: Connection
) -> None:
    batch_id = paced(conn)
    here = f"/batches/{batch_id}"
    page = reader_at.get(here)
    assert broken_rules(page) == []
    assert actions_on(page) == ["Pause", "Cancel the batch", "Cancel at the provider"]
    assert page.count("<button disabled") == 4 and text_of(page).count("You need a key of scope queue.") == 3
    page = queuer_at.get(here)
    assert page.count("<button disabled") == 1 and "You need a key of scope admin." in text_of(page)
    token = reader_at.token(here)
    for action in ("pause", "resume", "cancel", "change", "resolve"):
        assert reader_at.client.post(f"{here}/{action}", data={"csrf_token": token}).status_code == 403
    for path in (DEPLOYMENT, "/cancellations/1"):
        queuer_at.get(path, 403)
    assert changes(conn) == []


def test_missing_batches_deployments_and_cancellations_are_404(admin_at: Browser) -> None:
    for path in ("/batches/99/cancel", "/batches/99/change", "/batches/99/resolve", "/cancellations/99"):
        admin_at.get(path, 404)
    for path in ("/deployments/0/3/cancel", f"/deployments/{10**20}/3/cancel"):
        admin_at.get(path, 404)
    for action in ("pause", "resume", "cancel"):
        assert admin_at.post(f"/batches/99/{action}", form_at="/").status_code == 404


# Change ---------------------------------------------------------------------------------------------------------------


def form_on(page: str) -> dict[str, str]:
    """The values of the form to change a batch."""
    form = dict(re.findall(r'<input id="[^"]+" name="([^"]+)" type="[^"]+" value="([^"]*)"', page))
    form["labels"] = re.findall(r"<textarea[^>]*>\n([^<]*)</textarea>", page)[0]
    return form


def test_rest_of_a_batch_is_changed(queuer_at: Browser, conn: Connection) -> None:
    batch_id = paced(conn, calling_hours=(0, 1440), time_zone=OPEN_HOURS["time_zone"], labels={"team": "north"})
    path = f"/batches/{batch_id}/change"
    page = queuer_at.get(path)
    assert broken_rules(page) == []
    form = form_on(page)
    assert form | {"name": ""} == {
        "calls_per_minute": "1",
        "end_timestamp": "",
        "calling_hours": "00:00-24:00",
        "name": "",
        "external_id": "",
        "labels": "team: north",
    }
    assert re.findall(r'value="(\w+)" checked', page) == ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    end = (datetime.now(UTC) + timedelta(days=9)).strftime("%Y-%m-%dT%H:%M")
    form |= {"calls_per_minute": "60", "end_timestamp": end, "labels": "team: south\nsize: L", "external_id": "crm 7"}
    token = {"csrf_token": queuer_at.token(path), "fields": "1"}
    answer = queuer_at.client.post(path, data={**token, **form, "calling_days": ["sat", "sun"]})
    assert (answer.status_code, answer.location) == (303, f"/batches/{batch_id}")
    batch = batch_of(conn, batch_id)
    assert (batch.external_id, batch.labels) == ("crm 7", {"team": "south", "size": "L"})
    assert (batch.parameters["calls_per_minute"], batch.parameters["calling_days"]) == (60, "sat,sun")
    assert batch.parameters["end_timestamp"].strftime("%Y-%m-%dT%H:%M") == end
    details = conn.execute("select details from audit where action = 'change'").fetchall()
    assert details == [({"changed": ["calling_days", "calls_per_minute", "end_timestamp", "external_id", "labels"]},)]
    form |= {"calls_per_minute": "", "end_timestamp": "", "labels": "", "external_id": ""}
    queuer_at.client.post(path, data={**token, **form, "calling_days": ["sat", "sun"]})
    batch = batch_of(conn, batch_id)
    assert (batch.external_id, batch.labels) == (None, {})
    assert (batch.parameters["calls_per_minute"], batch.parameters["end_timestamp"]) == (None, None)
    queuer_at.client.post(path, data={**token, **form, "calling_days": ["sat", "sun"]})
    assert "Nothing was changed." in text_of(queuer_at.get(f"/batches/{batch_id}"))


def test_change_that_does_not_fit_is_explained_and_nothing_typed_is_lost(queuer_at: Browser, conn: Connection) -> None:
    make_batch(conn, external_id="taken")
    batch_id = make_batch(conn, numbers(5), send=False, calling_hours=(0, 1440), time_zone="Etc/UTC")
    path = f"/batches/{batch_id}/change"
    for typed, message in [
        ({"calls_per_minute": "4"}, "The largest submission that is left has 5 calls."),
        ({"calls_per_minute": "many"}, "Enter a whole number."),
        ({"end_timestamp": "2020-01-01T10:00"}, "It is in the past"),
        ({"end_timestamp": "soon"}, "Enter a day and a time such as"),
        ({"calling_hours": "9 to 5"}, "Write a time span such as 09:00-21:00."),
        ({"labels": "no colon <b>"}, "Write each label on its own line"),
        ({"external_id": "taken"}, "Batch 1 has this external_id."),
        ({"name": "x" * 201}, "Longer than maximum length 200"),
    ]:
        answer = queuer_at.post(path, **typed)
        assert answer.status_code == 422, typed
        assert broken_rules(answer.text) == []
        assert message in text_of(answer.text), typed
        ((name, value),) = typed.items()
        assert form_on(answer.text)[name] == value.replace("<b>", "&lt;b&gt;"), typed
    answer = queuer_at.post(path, fields="1")
    assert answer.status_code == 422 and "Choose at least one day." in text_of(answer.text)
    assert changes(conn) == []


def test_names_alone_can_be_changed_once_everything_was_released(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn)
    path = f"/batches/{batch_id}/change"
    page = queuer_at.get(path)
    assert broken_rules(page) == []
    assert "Only its names can be changed." in text_of(page) and 'name="calls_per_minute"' not in page
    queuer_at.post(path, name="New", calls_per_minute="5")
    batch = batch_of(conn, batch_id)
    assert (batch.name, batch.parameters["calls_per_minute"]) == ("New", None)


# Resolve all ----------------------------------------------------------------------------------------------------------


def test_all_unknown_submissions_are_resolved_at_once(queuer_at: Browser, conn: Connection) -> None:
    batch_id = make_batch(conn, numbers(3), submission_rows=1, send=False)
    answer_submissions(conn, lambda _: UNKNOWN)
    path = f"/batches/{batch_id}/resolve"
    for page in (f"/batches/{batch_id}", f"/batches/{batch_id}/submissions"):
        assert "Resolve all 3 unknown submissions" in text_of(queuer_at.get(page))
    page = queuer_at.get(path)
    assert broken_rules(page) == []
    assert "Unknown submissions 3" in text_of(page)
    assert queuer_at.post(path, queued="no", note="seen").status_code == 422
    assert queuer_at.post(path, queued="yes", note="seen").location == f"/batches/{batch_id}"
    assert "3 submissions resolved." in text_of(queuer_at.get(f"/batches/{batch_id}"))
    assert batch_of(conn, batch_id).state == "queued"
    assert changes(conn) == [("queue of a person", "resolve", batch_id, "seen")] * 3
    queuer_at.get(path, 409)


# The deployment -------------------------------------------------------------------------------------------------------


def test_cancellation_of_a_deployment_names_every_batch_before_it_is_requested(
    admin_at: Browser, conn: Connection
) -> None:
    sent, part = make_batch(conn, numbers(2), name="sent"), paced(conn, name=HOSTILE)
    other = make_batch(conn, deployment_id=4)
    page = admin_at.get(DEPLOYMENT)
    assert broken_rules(page) == []
    rows = re.findall(r'/batches/(\d+)">Batch.*?class="figure"[^>]*>(\d+)<.*?class="figure"[^>]*>(\d+)<', page)
    assert rows == [(str(sent), "0", "2"), (str(part), "2", "1")]
    assert batch_of(conn, part).counts["withdrawn"] == 0 and changes(conn) == []
    assert admin_at.post(DEPLOYMENT, note="x" * 2001).status_code == 422
    answer = admin_at.post(DEPLOYMENT, note="stop")
    assert (answer.status_code, answer.location) == (303, "/cancellations/1")
    page = admin_at.get("/cancellations/1")
    assert broken_rules(page) == []
    assert "2 calls withdrawn." in text_of(page) and 'hx-trigger="every 2s"' in page and "Check again" in page
    assert batch_of(conn, part).counts["withdrawn"] == 2
    assert [entry[:2] for entry in changes(conn)] == [
        ("admin of a person", "cancel_deployment"),
        ("admin of a person", "cancel"),
        ("admin of a person", "cancel"),
    ]
    assert "No batch of this deployment" in text_of(admin_at.get("/deployments/7/9/cancel"))
    assert batch_of(conn, other).counts["pending"] == 1


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (Answer("accepted", provider_status=202), "The provider accepted it (status 202)."),
        (Answer("refused", provider_status=404, error=HOSTILE), "The provider refused it (status 404)."),
        (Answer("not_sent", error="No such host."), "It did not reach the provider."),
        (Answer("unknown", error="No answer came."), "Unknown: the provider's answer was lost"),
    ],
)
def test_answer_of_the_provider_is_shown_also_if_it_was_lost(
    admin_at: Browser, conn: Connection, answer: Answer, words: str
) -> None:
    make_batch(conn)
    admin_at.post(DEPLOYMENT)
    request = claim_cancel(conn, register_worker(conn, "test", 1))
    assert request is not None
    conn.commit()
    assert "The provider is being asked." in text_of(admin_at.get("/cancellations/1"))
    record_cancel(conn, request.cancel_id, answer)
    conn.commit()
    page = admin_at.get("/cancellations/1")
    assert broken_rules(page) == []
    assert words in text_of(page) and "hx-trigger" not in page
    # An answer that arrives after this one is merged, too.
    assert '<div id="live" hx-select="#live" hx-ext="merge" hx-swap="merge">' in page
    assert ("Cancel the deployment again" in page) == (answer.state != "accepted")


def test_batch_page_says_that_releases_wait_for_a_cancellation(admin_at: Browser, conn: Connection) -> None:
    admin_at.post(DEPLOYMENT)
    batch_id = make_batch(conn, send=False)
    page = admin_at.get(f"/batches/{batch_id}")
    words = "Releases wait while deployment 3 is being canceled at the provider."
    assert words in text_of(page) and "Next release" not in text_of(page)
    ((seen),) = re.findall(r'"seen": "(\w+)"', page)
    admin_at.get(f"/batches/{batch_id}/live?seen={seen}", 204)
    conn.execute("update deployment_cancel set state = 'accepted'")
    conn.commit()
    live = text_of(admin_at.get(f"/batches/{batch_id}/live?seen={seen}"))
    assert words not in live and "Next release" in live


def test_request_that_nobody_made_in_time_is_given_up(admin_at: Browser, conn: Connection) -> None:
    make_batch(conn)
    admin_at.post(DEPLOYMENT)
    conn.execute("update deployment_cancel set requested_at = now() - interval '61 seconds'")
    conn.commit()
    page = admin_at.get("/cancellations/1")
    assert "The provider was not asked" in text_of(page) and "hx-trigger" not in page
    assert claim_cancel(conn, register_worker(conn, "test", 1)) is None
    assert conn.execute("select state from deployment_cancel").fetchall() == [("sending",)]


# Lists ----------------------------------------------------------------------------------------------------------------


def test_batches_are_found_by_phase_own_id_and_label(queuer_at: Browser, conn: Connection) -> None:
    held = paced(conn, external_id="crm 7", labels={"team": "north: a"})
    make_batch(conn, labels={"team": "south"})
    pause_batch(conn, held, by="Ana")
    conn.commit()

    def found(query: str) -> list[str]:
        page = queuer_at.get(f"/batches?{query}")
        assert broken_rules(page) == []
        return re.findall(r'href="/batches/(\d+)"', page)

    assert len(found("")) == 2
    for query in ("phase=paused", "external_id=crm+7", "label=team:+north:+a"):
        assert found(query) == [str(held)], query
    assert found("label=team:east") == []
    for query, field in (("label=team", "label"), ("external_id=%00", "external-id")):
        assert found(query) == []
        assert f'id="{field}-fault"' in queuer_at.get(f"/batches?{query}")
    assert found("phase=x") == []
    assert '<p class="note warn">The address names a phase that does not exist.' in queuer_at.get("/batches?phase=x")
