"""API keys over REST: list, create and revoke them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Response, url_for
from flask.views import MethodView
from marshmallow import RAISE, Schema

from receiver.changes.audit import record_change
from receiver.database.api_keys import NAME_LENGTH, SCOPES, ApiKey, create_key, list_keys, revoke_key
from receiver.database.pool import connection, reading
from receiver.errors import invalid_parameter
from receiver.queueing.form_fields import says, short_text
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import current_key
from receiver.web.cursors import Found, answer_page
from receiver.web.json_answer import json_writer
from receiver.web.json_fields import JsonTimestamp
from receiver.web.services import services

blueprint = Blueprint("keys", __name__)


class KeyRequest(Schema):
    class Meta:
        unknown = RAISE

    name = short_text(NAME_LENGTH, "Who or what uses the key. No other key in use has it.", least=1, required=True)
    scope = schemas.one_of(SCOPES, "What the key allows. Each scope includes the scopes before it.", required=True)
    expires_at = JsonTimestamp(metadata=says("When the key expires; default: never."))


class KeyAnswer(schemas.Answer):
    name = schemas.text("Its name.")
    scope = schemas.word(SCOPES, "What it allows.")
    prefix = schemas.text("Its public part: the key begins with `rr_` and this.")
    created_at = schemas.moment("When it was created.")
    expires_at = schemas.moment("When it expires; null: never.", allow_none=True)
    last_used_at = schemas.moment("When it was last used, to the minute; null: never.", allow_none=True)


class KeyWithSecret(KeyAnswer):
    key = schemas.text("The key. It cannot be shown again.")


class KeysAnswer(schemas.Answer):
    keys = schemas.several(KeyAnswer, "Newest first.")
    next_cursor = schemas.text("`cursor` of the next page; null on the last page.", allow_none=True)


def _position(key: ApiKey) -> tuple[int]:
    return (key.key_id,)


@blueprint.route("/keys")
class Keys(MethodView):
    @blueprint.operation("list_keys", "admin", KeysAnswer, query=schemas.PageQuery)
    def get(self, query: dict[str, Any]) -> Response:
        """List the keys that are not revoked, newest first"""

        def read(limit: int, before: tuple[int, ...] | None) -> Found[ApiKey]:
            with reading(services().pool) as conn:
                found = [key for key in list_keys(conn) if before is None or key.key_id < before[0]]
            found.sort(key=_position, reverse=True)
            return Found(found[:limit], len(found) > limit)

        return answer_page("keys", query, read, _position, json_writer(KeyAnswer()))

    @blueprint.operation("create_key", "admin", KeyWithSecret, status=201, body=KeyRequest)
    def post(self, said: dict[str, Any]) -> tuple[dict[str, Any], int, dict[str, str]]:
        """Create a key

        The answer has the key, which is stored only as a hash and cannot be shown again.
        """
        if "expires_at" in said and said["expires_at"] <= datetime.now(UTC):
            raise invalid_parameter("expires_at", "in_the_past", "It is in the past.")
        with connection(services().pool) as conn:
            key = create_key(conn, **said)
            record_change(
                conn, current_key().name, "make_key", details={name: said[name] for name in ("name", "scope")}
            )
            made = next(each for each in list_keys(conn) if each.name == said["name"])
        members = {name: getattr(made, name) for name in KeyAnswer().fields}
        return members | {"key": key}, 201, {"Location": url_for("keys.OneKey", name=made.name)}


@blueprint.route("/keys/<path:name>")
class OneKey(MethodView):
    @blueprint.operation("revoke_key", "admin", status=204, description="The key is revoked.")
    def delete(self, name: str) -> Response:
        """Revoke a key at once

        This cannot be undone. A key can revoke itself.
        """
        with connection(services().pool) as conn:
            revoke_key(conn, name)
            record_change(conn, current_key().name, "revoke_key", details={"name": name})
        return Response(status=204)
