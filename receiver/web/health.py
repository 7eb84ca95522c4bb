"""`/healthz`: the process is alive. `/readyz`: whether it can do its work, and if not, why. And whom to ask about the
security of this installation (`/.well-known/security.txt`)."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import Any

from flask import Blueprint, Flask, Response, abort, jsonify

from receiver.database.migrations import SchemaError, check
from receiver.database.pool import DatabaseUnavailable, connect, connection, describe
from receiver.errors import ReceiverError
from receiver.intake.spool import SpoolFailed
from receiver.logs import about
from receiver.model import rfc3339
from receiver.summary.health import get_health
from receiver.web.services import services

blueprint = Blueprint("health", __name__)

log = logging.getLogger(__name__)


@blueprint.get("/healthz")
def healthz() -> Response:
    return jsonify({"status": "ok"})


@blueprint.get("/readyz")
def readyz() -> tuple[Response, int]:
    content: dict[str, Any] = {
        "status": "ready",
        "database": "ok",
        "worker": "ok",
        "oldest_waiting_seconds": None,
    }
    try:
        with connection(services().pool) as conn:
            check(conn)
            health = get_health(conn)
        if services().intake.database_unavailable:
            # It is read-only, its disk is full, or a synchronous standby is gone: it answers queries, but cannot store.
            content["database"] = "can be read, but cannot store callbacks or is too slow; callbacks go to the spool"
        content["oldest_waiting_seconds"] = health.oldest_waiting_seconds
        if health.worker_gone:
            content["worker"] = "no worker is running; start one with `python -m receiver work`"
    except DatabaseUnavailable:
        content["database"] = "cannot be reached; callbacks go to the spool"
    except SchemaError as error:
        content["database"] = str(error)
    try:
        content["spooled"] = services().intake.spool.depth()
    except SpoolFailed as error:
        # The process stays ready: while the database is available, callbacks can be stored without the spool.
        log.error("%s", error, extra=about("spool_failed"))
        content["spooled"] = "the spool cannot be used; see the log"
    if content["database"] == content["worker"] == "ok":
        return jsonify(content), 200
    return jsonify({**content, "status": "not ready"}), 503


@blueprint.get("/.well-known/security.txt")
def security_txt() -> Response:
    """As in RFC 9116. It must expire within a year, so that nobody uses an outdated one."""
    contact = services().config.security_contact or abort(404)
    expires = rfc3339(datetime.now(UTC).replace(microsecond=0) + timedelta(days=90))
    return Response(f"Contact: {contact}\nExpires: {expires}\n", content_type="text/plain; charset=utf-8")


def log_database(app: Flask) -> None:
    """Log which database is used, and why it cannot be used.

    A web process also starts without its database, so that no callback is lost. Without this line, a start with a wrong
    password would look successful.
    """
    database_url = app.extensions["receiver"].database_url
    try:
        log.info("using %s", describe(database_url), extra=about("database_used"))
        with connect(database_url, name="receiver web") as conn:
            check(conn)
    except ReceiverError as error:
        log.warning("started, but not ready: %s", error, extra=about("not_ready"))
