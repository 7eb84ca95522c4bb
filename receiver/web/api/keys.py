"""API keys over REST: list, create and revoke them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response, url_for
from marshmallow import Schema

from receiver.changes.audit import record_change
from receiver.database import api_keys
from receiver.database.pool import connection, reading
from receiver.errors import invalid_parameter
from receiver.queueing.form_fields import says, short_text
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.cursors import answer_page
from receiver.web.json_answer import json_writer
from receiver.web.json_fields import JsonTimestamp
from receiver.web.services import services

blueprint = Blueprint("keys")


class KeyRequest(Schema):
    name = short_text(
        api_keys.NAME_LENGTH, "Who or what uses the key. No other key in use has it.", least=1, required=True
    )
    scope = schemas.one_of(
        api_keys.SCOPES, "What the key allows. Each scope includes the scopes before it.", required=True
    )
    expires_at = JsonTimestamp(metadata=says("When the key expires; default: never."))


class KeyAnswer(schemas.Answer):
    name = schemas.text("Its name.")
    scope = schemas.word(api_keys.SCOPES, "What it allows.")
    prefix = schemas.text("Its public part: the key begins with `rr_` and this.")
    created_at = schemas.moment("When it was created.")
    expires_at = schemas.moment("When it expires; null: never.", allow_none=True)
    last_used_at = schemas.moment("When it was last used, to the minute; null: never.", allow_none=True)


class KeyWithSecret(KeyAnswer):
    key = schemas.text("The key. It cannot be shown again.")


class KeysAnswer(schemas.Page):
    keys = schemas.several(KeyAnswer, "Newest first.")


def _position(key: api_keys.ApiKey) -> tuple[int]:
    return (key.key_id,)


@blueprint.operation("GET /keys", "admin", KeysAnswer, query=schemas.PageQuery)
def list_keys(query: dict[str, Any]) -> Response:
    """List the keys that are not revoked, newest first"""

    def read(limit: int, before: tuple[int, ...] | None) -> tuple[list[api_keys.ApiKey], bool]:
        with reading(services().pool) as conn:
            found = [key for key in api_keys.list_keys(conn) if before is None or key.key_id < before[0]]
        found.sort(key=_position, reverse=True)
        return found[:limit], len(found) > limit

    return answer_page("keys", query, read, _position, json_writer(KeyAnswer()))


@blueprint.operation("POST /keys", "admin", KeyWithSecret, status=201, body=KeyRequest)
def create_key(said: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
    """Create a key

    The answer has the key, which is stored only as a hash and cannot be shown again.
    """
    if "expires_at" in said and said["expires_at"] <= datetime.now(UTC):
        raise invalid_parameter("expires_at", "in_the_past", "It is in the past.")
    with connection(services().pool) as conn:
        key = api_keys.create_key(conn, **said)
        record_change(conn, current_key().name, "make_key", details={name: said[name] for name in ("name", "scope")})
        made = next(each for each in api_keys.list_keys(conn) if each.name == said["name"])
    members = {name: getattr(made, name) for name in KeyAnswer().fields}
    return members | {"key": key}, 201, {"Location": url_for("keys.revoke_key", name=made.name)}


@blueprint.operation("DELETE /keys/<path:name>", "admin", status=204, description="The key is revoked.")
def revoke_key(name: str) -> Response:
    """Revoke a key at once

    This cannot be undone. A key can revoke itself.
    """
    with connection(services().pool) as conn:
        api_keys.revoke_key(conn, name)
        record_change(conn, current_key().name, "revoke_key", details={"name": name})
    return Response(status=204)
