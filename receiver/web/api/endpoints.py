"""Endpoints over REST: the user's own services, to which results and other events are delivered."""

from __future__ import annotations

import threading
from datetime import UTC, datetime
from typing import Any

from flask import Response, url_for
from marshmallow import Schema, fields, validate

from receiver.database.pool import connection, reading
from receiver.queueing.form_fields import LARGEST_ID, says, short_text
from receiver.relay import deliveries, endpoints
from receiver.relay.sending import ANSWER_SECONDS, Attempt, send_test
from receiver.web import schemas
from receiver.web.api import Blueprint, OptionalBody
from receiver.web.api.release import Noted
from receiver.web.auth import answer_later, current_key, waited_for
from receiver.web.cursors import answer_list
from receiver.web.json_answer import json_writer
from receiver.web.json_fields import MOST_IDS, Ids, JsonFlag, JsonNumber, JsonTimestamp, exactly_one
from receiver.web.reading import primary
from receiver.web.services import services

TEST_SECONDS = 2 * ANSWER_SECONDS
"""Longest wait for a test: only a look-up of the name can take longer than ANSWER_SECONDS."""

blueprint = Blueprint("endpoints")


class EndpointChanges(OptionalBody):
    url = short_text(
        endpoints.URL_CHARACTERS, "Where events are posted: a public address with https on port 443.", least=1
    )
    description = short_text(endpoints.DESCRIPTION_CHARACTERS, "A note for people. null: none.", allow_none=True)
    events = fields.List(
        fields.String(validate=validate.OneOf(endpoints.ENDPOINT_EVENTS)),
        validate=validate.Length(min=1, error="Name at least one event."),
        metadata=says("The events that it gets; default: all of them.", minItems=1),
    )
    application_id = JsonNumber(
        allow_none=True, validate=validate.Range(1, LARGEST_ID), metadata=says("Only events of this application.")
    )
    deployment_id = JsonNumber(
        allow_none=True, validate=validate.Range(1, LARGEST_ID), metadata=says("Only events of this deployment.")
    )
    label = schemas.by_label(allow_none=True)
    enabled = JsonFlag(metadata=says("false: send nothing; what is owed waits. true: send again."))


class EndpointRequest(EndpointChanges):
    class Meta:
        exclude = ("enabled",)

    def on_bind_field(self, field_name: str, field_obj: fields.Field[Any]) -> None:
        field_obj.required = field_name == "url"


class RetryRequest(Schema):
    ids = Ids(f"These deliveries, at most {MOST_IDS}, also if they were delivered.")
    state = schemas.one_of(["waiting", "given_up"], "All deliveries in this state.")
    since = JsonTimestamp(metadata=says("All that were owed at this time or later, and were not delivered."))

    _check_one = exactly_one("ids", "state", "since")


class DeliveriesQuery(schemas.PageQuery):
    state = schemas.one_of(deliveries.DELIVERY_STATES, "Only deliveries in this state.")


class EventsOwed(schemas.Answer):
    delivered = schemas.whole("Events that were delivered.")
    waiting = schemas.whole("Events that are not delivered yet.")
    given_up = schemas.whole("Events that are not tried any more.")


class EndpointAnswer(schemas.Answer):
    id = schemas.whole("The id.")
    url = schemas.text("Where events are posted.")
    description = schemas.text("A note for people.", allow_none=True)
    events = fields.List(fields.String(), metadata=says("The events that it gets."))
    application_id = schemas.whole("Only events of this application.", allow_none=True)
    deployment_id = schemas.whole("Only events of this deployment.", allow_none=True)
    label = schemas.text("Only events of batches with this label, as `key:value`.", allow_none=True)
    enabled = schemas.flag("Whether events are sent. While it is disabled, they wait.")
    created_at = schemas.moment("When it was made.")
    disabled_at = schemas.moment("When it was disabled.", allow_none=True)
    disabled_reason = schemas.word(
        ["user", "gone", "failing"],
        "Why it is disabled. `gone`: it answered 410. `failing`: for a week, nothing could be delivered.",
        allow_none=True,
    )
    failing_since = schemas.moment("The first failure since the last success.", allow_none=True)
    events_owed = schemas.nested(EventsOwed, "Its events by state. Their sum was owed.")
    unseen_given_up = schemas.whole("Of those that were given up, how many nobody has acknowledged.")


class EndpointWithSecret(EndpointAnswer):
    secret = schemas.text("The secret that signs, `whsec_…`. It cannot be shown again.")


class EndpointsAnswer(schemas.Page):
    endpoints = schemas.several(EndpointAnswer, "Newest first.")


class AttemptAnswer(schemas.Answer):
    at = schemas.moment("When it was sent.")
    status = schemas.whole("The HTTP status of the answer; null if there was none.", allow_none=True)
    duration_seconds = schemas.whole("How long it took.")
    error = schemas.text(
        "Null if the event was delivered; else the answer's first 500 characters without long numbers, or why there was"
        " no answer.",
        allow_none=True,
    )


class TestAnswer(AttemptAnswer):
    delivered = schemas.flag("Whether the endpoint accepted the event.")


class DeliveryAnswer(schemas.Answer):
    id = schemas.whole("The id.")
    event = schemas.word(endpoints.ENDPOINT_EVENTS, "The type of the event.")
    batch_id = schemas.whole("Its batch.")
    row = schemas.whole("The row of the call; null for other events.", allow_none=True)
    submission_id = schemas.whole("The submission's number in the batch; null for other events.", allow_none=True)
    callback_id = schemas.whole("The callback; null for other events.", allow_none=True)
    state = schemas.word(deliveries.DELIVERY_STATES, "Its state.")
    owed_at = schemas.moment("When the event happened.")
    next_try_at = schemas.moment("When it is sent next; null if it does not wait.", allow_none=True)
    ended_at = schemas.moment("When it was delivered or given up; null while it waits.", allow_none=True)
    attempts = fields.List(
        fields.Dict(), metadata=says("Its attempts: `at`, `status`, `duration_seconds` and `error` of each.")
    )


class DeliveriesAnswer(schemas.Page):
    deliveries = schemas.several(DeliveryAnswer, "Newest event first.")


class RetryAnswer(schemas.Answer):
    retried = schemas.whole("How many events are sent again now.")


@blueprint.operation("GET /endpoints", "admin", EndpointsAnswer, query=schemas.PageQuery)
def list_endpoints(query: dict[str, Any]) -> Response:
    """List endpoints, newest first"""

    def read(limit: int, before: int | None) -> list[endpoints.Endpoint]:
        return primary().read(endpoints.list_endpoints, limit, before)

    return answer_list("endpoints", query, read, json_writer(EndpointAnswer()))


@blueprint.operation("POST /endpoints", "admin", EndpointWithSecret, status=201, body=EndpointRequest)
def create_endpoint(said: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Make an endpoint, to which events are delivered from now on

    Each event is posted as in Standard Webhooks, signed with the secret in the answer. The address is refused if it
    resolves to a private network that `RELAY_NETWORKS` does not name. An operation `test` sends a first event.
    """
    with connection(services().pool) as conn:
        made, secret = endpoints.create_endpoint(conn, said, services().config.relay_networks, by=current_key().name)
    location = {"Location": url_for("endpoints.get_endpoint", endpoint_id=made.id)}
    return _members(made) | {"secret": secret}, 201, location


@blueprint.operation("GET /endpoints/<int:endpoint_id>", "admin", EndpointAnswer)
def get_endpoint(endpoint_id: int) -> endpoints.Endpoint:
    """One endpoint with its balance of events"""
    return primary().read(endpoints.get_endpoint, endpoint_id)


@blueprint.operation("PATCH /endpoints/<int:endpoint_id>", "admin", EndpointAnswer, body=EndpointChanges)
def change_endpoint(said: dict[str, Any], endpoint_id: int) -> endpoints.Endpoint:
    """Change, disable or enable an endpoint

    While it is disabled, events are owed to it, and wait. Once it is enabled, they are sent.
    """
    with connection(services().pool) as conn:
        return endpoints.change_endpoint(
            conn, endpoint_id, said, services().config.relay_networks, by=current_key().name
        )


@blueprint.operation("DELETE /endpoints/<int:endpoint_id>", "admin", status=204, description="The endpoint is deleted.")
def delete_endpoint(endpoint_id: int) -> Response:
    """Delete an endpoint, with the events that are owed to it

    This cannot be undone.
    """
    with connection(services().pool) as conn:
        endpoints.delete_endpoint(conn, endpoint_id, by=current_key().name)
    return Response(status=204)


@blueprint.operation("POST /endpoints/<int:endpoint_id>/rotate", "admin", EndpointWithSecret)
def rotate_endpoint(endpoint_id: int) -> dict[str, Any]:
    """Give an endpoint a new secret

    For 24 hours, each event is signed with the new and with the previous secret. If it is rotated again in this
    time, all of them sign.
    """
    with connection(services().pool) as conn:
        secret = endpoints.rotate_secret(conn, endpoint_id, by=current_key().name)
        return _members(endpoints.get_endpoint(conn, endpoint_id)) | {"secret": secret}


@blueprint.operation("POST /endpoints/<int:endpoint_id>/test", "admin", TestAnswer)
def test_endpoint(endpoint_id: int) -> Attempt | dict[str, Any]:
    """Send a test event to an endpoint

    It is an event of type `endpoint.test`, whose `data` is `{"endpoint_id": …}`. It is sent once and not recorded,
    also if the endpoint is disabled. The answer shows what came of it.
    """
    return run_test(endpoint_id) or {}


@blueprint.operation("POST /endpoints/<int:endpoint_id>/retry", "admin", RetryAnswer, body=RetryRequest)
def retry_deliveries(said: dict[str, Any], endpoint_id: int) -> dict[str, int]:
    """Send events again

    What waits is sent now. What was given up is owed again, with a new series of attempts. Each event keeps its
    `webhook-id`.
    """
    with connection(services().pool) as conn:
        return {"retried": deliveries.retry_deliveries(conn, endpoint_id, by=current_key().name, **said)}


@blueprint.operation("POST /endpoints/<int:endpoint_id>/acknowledge", "admin", EndpointAnswer, body=Noted)
def acknowledge_given_up(said: dict[str, Any], endpoint_id: int) -> endpoints.Endpoint:
    """Mark the given-up events of an endpoint as seen by a person

    They are no longer listed as needing attention. They stay given up, and can still be sent again. Events that are
    given up later are listed again.
    """
    with connection(services().pool) as conn:
        deliveries.acknowledge_given_up(conn, endpoint_id, by=current_key().name, note=said.get("note"))
        return endpoints.get_endpoint(conn, endpoint_id)


@blueprint.operation("GET /endpoints/<int:endpoint_id>/deliveries", "admin", DeliveriesAnswer, query=DeliveriesQuery)
def list_deliveries(query: dict[str, Any], endpoint_id: int) -> Response:
    """List the deliveries of an endpoint with their attempts, newest event first

    They are kept for 30 days.
    """

    def read(limit: int, before: int | None) -> list[deliveries.Delivery]:
        return primary().read(
            deliveries.list_deliveries, endpoint_id, limit, deliveries.DeliveryFilter(query.get("state")), before
        )

    name = f"deliveries {endpoint_id}"
    return answer_list(name, query, read, json_writer(DeliveryAnswer()), of="deliveries")


def _members(endpoint: endpoints.Endpoint) -> dict[str, Any]:
    return {name: getattr(endpoint, name) for name in EndpointAnswer().fields}


def run_test(endpoint_id: int) -> Attempt | None:
    """What came of a test event. None: it is being sent, and the request waits for it without a thread."""
    if (stored := waited_for()) is not None:
        began, attempts = stored
        return attempts[0] if attempts else Attempt(began, None, round(TEST_SECONDS), _TOO_LONG)
    with reading(services().pool) as conn:
        url, secrets = endpoints.get_endpoint(conn, endpoint_id).url, endpoints.get_secrets(conn, endpoint_id)
    began, attempts = datetime.now(UTC), list[Attempt]()
    networks = services().config.relay_networks

    def send() -> None:
        attempts.append(send_test(endpoint_id, url, secrets, networks))

    threading.Thread(target=send, daemon=True).start()
    answer_later((began, attempts), lambda: bool(attempts), TEST_SECONDS)
    return None


_TOO_LONG = "The name could not be resolved in time."
