"""Endpoints: an admin lists, creates, changes, tests and deletes them, and reads what was delivered to each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from flask import flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from receiver.database.pool import Connection, connection
from receiver.errors import InvalidInput
from receiver.queueing.form_fields import read_fields
from receiver.relay.deliveries import (
    DELIVERY_STATES,
    Delivery,
    DeliveryFilter,
    list_failures,
    read_attempt,
    retry_deliveries,
    search_deliveries,
)
from receiver.relay.endpoints import (
    DESCRIPTION_CHARACTERS,
    ENDPOINT_EVENTS,
    URL_CHARACTERS,
    Endpoint,
    change_endpoint,
    create_endpoint,
    delete_endpoint,
    get_endpoint,
    list_endpoints,
    rotate_secret,
)
from receiver.web.api.endpoints import EndpointChanges, run_test
from receiver.web.auth import current_key
from receiver.web.dashboard import wording
from receiver.web.dashboard.filters import Filters
from receiver.web.dashboard.own_key import own_key_faults
from receiver.web.dashboard.pages import form_page, page
from receiver.web.reading import primary
from receiver.web.services import services

PAGE_ENDPOINTS = 25
PAGE_DELIVERIES = 20

FIELDS = ("url", "description", "application_id", "deployment_id", "label", "events")

Result = TypeVar("Result")


@page("/endpoints", scope="admin")
def endpoints() -> str:
    """All endpoints, newest first."""
    before = Filters.read(request.args).whole_number("before")
    with connection(services().pool) as conn:
        found = list_endpoints(conn, PAGE_ENDPOINTS + 1, before)
        failures = list_failures(conn, [each.id for each in found])
    return render_template(
        "endpoints.html",
        endpoints=found[:PAGE_ENDPOINTS],
        failures=failures,
        more=len(found) > PAGE_ENDPOINTS,
        before=before,
    )


@page("/endpoints/new", scope="admin", methods=("GET", "POST"))
def new_endpoint() -> str | tuple[str, int]:
    """Create an endpoint, and show its secret."""
    if request.method == "GET":
        return _form_page({"events": ENDPOINT_EVENTS}, {})
    networks, by = services().config.relay_networks, current_key().name
    made, faults = _submitted(lambda conn, values: create_endpoint(conn, values, networks, by=by))
    if made is None:
        return _form_page(_entered(), faults)
    return render_template("endpoint_secret.html", endpoint=made[0], secret=made[1])


@page("/endpoints/<int:endpoint_id>/change", scope="admin", methods=("GET", "POST"))
def edit_endpoint(endpoint_id: int) -> Response | tuple[str, int]:
    """Change an endpoint's address, description and events."""
    found = _get(endpoint_id)
    if request.method == "GET":
        return _form_page({name: getattr(found, name) or "" for name in FIELDS}, {}, found)
    networks, by = services().config.relay_networks, current_key().name
    changed, faults = _submitted(lambda conn, values: change_endpoint(conn, endpoint_id, values, networks, by=by))
    if changed is None:
        return _form_page(_entered(), faults, found)
    flash("The endpoint is changed.")
    return _to_endpoint(endpoint_id)


@page("/endpoints/<int:endpoint_id>", scope="admin")
def endpoint(endpoint_id: int) -> str:
    """One endpoint with its balance, and its deliveries."""
    filters = Filters.read(request.args)
    state = filters.one_of("state", DELIVERY_STATES)
    event, batch_id = filters.one_of("event", ENDPOINT_EVENTS), filters.whole_number("batch_id")
    before, found, older = filters.whole_number("before"), list[Delivery](), None
    with connection(services().pool) as conn:
        shown = get_endpoint(conn, endpoint_id)
        failure = list_failures(conn, [endpoint_id]).get(endpoint_id)
        if not filters.faults:
            wanted = DeliveryFilter(state, event, batch_id)
            found, older = search_deliveries(conn, endpoint_id, PAGE_DELIVERIES, wanted, before)
    return render_template(
        "endpoint.html",
        endpoint=shown,
        failure=failure,
        deliveries=[(each, [read_attempt(attempt) for attempt in each.attempts]) for each in found],
        older=older,
        before=before,
        filters=filters,
        kept={"state": state, "event": event, "batch_id": batch_id},
        states=DELIVERY_STATES,
        events=ENDPOINT_EVENTS,
    )


@page("/endpoints/<int:endpoint_id>/test", scope="admin", methods=("POST",))
def test_endpoint(endpoint_id: int) -> Response:
    """Send a test event. The request waits for its answer."""
    if (attempt := run_test(endpoint_id)) is not None:
        flash(f"Test event. {attempt.outcome}", "message" if attempt.delivered else "warn")
    return _to_endpoint(endpoint_id)


@page("/endpoints/<int:endpoint_id>/enabled", scope="admin", methods=("POST",))
def enable_endpoint(endpoint_id: int) -> Response:
    """Enable or disable an endpoint."""
    enabled = request.form.get("enabled") == "1"
    with connection(services().pool) as conn:
        change_endpoint(conn, endpoint_id, {"enabled": enabled}, (), by=current_key().name)
    flash(f"The endpoint is {'enabled. What waits is sent now' if enabled else 'disabled. Its events wait'}.")
    return _to_endpoint(endpoint_id)


@page("/endpoints/<int:endpoint_id>/retry", scope="admin", methods=("POST",))
def retry_endpoint(endpoint_id: int) -> Response:
    """Send one event again, or all that were given up."""
    one = Filters.read(request.form).whole_number("id")
    chosen: dict[str, Any] = {"ids": [one or 0]} if "id" in request.form else {"state": "given_up"}
    with connection(services().pool) as conn:
        retried = retry_deliveries(conn, endpoint_id, by=current_key().name, **chosen)
    when = "now" if _get(endpoint_id).enabled else "once it is enabled"
    events = wording.counted(retried, "event")
    flash(f"{events} will be sent again {when}." if retried else "There is nothing to retry.")
    return _to_endpoint(endpoint_id)


@page("/endpoints/<int:endpoint_id>/rotate", scope="admin", methods=("GET", "POST"))
def rotate_endpoint(endpoint_id: int) -> str | tuple[str, int]:
    """Ask once more, give an endpoint a new secret, and show it."""
    found = _get(endpoint_id)
    faults = own_key_faults() if request.method == "POST" else {}
    if request.method == "GET" or faults:
        return form_page("endpoint_rotate.html", faults, endpoint=found)
    with connection(services().pool) as conn:
        secret = rotate_secret(conn, endpoint_id, by=current_key().name)
    # Not a redirect: the secret would have to be stored until the next request.
    return render_template("endpoint_secret.html", endpoint=found, secret=secret, rotated=True)


@page("/endpoints/<int:endpoint_id>/delete", scope="admin", methods=("GET", "POST"))
def remove_endpoint(endpoint_id: int) -> str | Response:
    """Ask once more, and delete an endpoint."""
    if request.method == "GET":
        return render_template("endpoint_delete.html", endpoint=_get(endpoint_id))
    with connection(services().pool) as conn:
        delete_endpoint(conn, endpoint_id, by=current_key().name)
    flash(f"Endpoint {endpoint_id} is deleted.")
    return redirect(url_for("dashboard.endpoints"), 303)


def _get(endpoint_id: int) -> Endpoint:
    return primary().read(get_endpoint, endpoint_id)


def _to_endpoint(endpoint_id: int) -> Response:
    return redirect(url_for("dashboard.endpoint", endpoint_id=endpoint_id), 303)


def _entered() -> dict[str, Any]:
    return request.form.to_dict() | {"events": request.form.getlist("events")}


def _submitted(save: Callable[[Connection, dict[str, Any]], Result]) -> tuple[Result | None, dict[str, str]]:
    """Save the form's values. Returns what `save` returns, or None and what is wrong, by field."""
    filters = Filters.read(request.form)
    said: dict[str, Any] = {name: filters.texts.get(name) or None for name in ("description", "label")}
    said |= {"url": filters.texts.get("url", ""), "events": request.form.getlist("events")}
    said |= {"application_id": filters.application_id, "deployment_id": filters.deployment_id}
    faults = filters.faults | own_key_faults()
    try:
        values = read_fields(EndpointChanges(), said)
        if not faults:
            with connection(services().pool) as conn:
                return save(conn, values), {}
    except InvalidInput as error:
        faults |= {str(each.where): _OWN_WORDS.get(str(each.where), each.message) for each in error.faults}
    return None, faults


_OWN_WORDS = {"events": "Choose at least one event."}


def _form_page(form: dict[str, Any], faults: dict[str, str], endpoint: Endpoint | None = None) -> tuple[str, int]:
    return form_page(
        "endpoint_form.html",
        faults,
        endpoint=endpoint,
        form=form,
        events=ENDPOINT_EVENTS,
        most_url=URL_CHARACTERS,
        most_description=DESCRIPTION_CHARACTERS,
    )
