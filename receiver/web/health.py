"""`/healthz`: the process lives. `/readyz`: it can do its work, or what keeps it from it."""

from __future__ import annotations

import logging
from typing import Any

from flask import Blueprint, Flask, Response, jsonify

from receiver.database.migrations import SchemaError, check
from receiver.database.pool import DatabaseUnavailable, connect, connection, describe
from receiver.errors import ReceiverError
from receiver.intake.spool import SpoolFailed
from receiver.logs import about
from receiver.summary.health import WORKER_SECONDS as WORKER_SECONDS
from receiver.summary.health import Health, get_health
from receiver.web.services import Services, services

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
    faults = []
    try:
        with connection(services().pool) as conn:
            check(conn)
            alive: Health = get_health(conn)
        if services().intake.database_away:
            # Read only, its disk full, a synchronous standby gone: what is asked is answered, and nothing is stored.
            content["database"] = "can be read, but cannot store callbacks or is too slow; callbacks go to the spool"
            faults.append("database")
        content["oldest_waiting_seconds"] = alive.oldest_waiting_seconds
        if alive.worker_seen_seconds is None or alive.worker_seen_seconds > WORKER_SECONDS:
            content["worker"] = "no worker is running; start one with `python -m receiver work`"
            faults.append("worker")
    except DatabaseUnavailable:
        content["database"] = "cannot be reached; callbacks go to the spool"
        faults.append("database")
    except SchemaError as error:
        content["database"] = str(error)
        faults.append("database")
    try:
        content["spooled"] = services().intake.spool.depth()
    except SpoolFailed as error:
        # Callbacks are stored all the same while the database is there, so this alone must not stop them.
        log.error("%s", error, extra=about("spool_failed"))
        content["spooled"] = "the spool cannot be used; see the log"
    if faults:
        content["status"] = "not ready"
    return jsonify(content), 503 if faults else 200


def tell_of_database(app: Flask) -> None:
    """Log which database is used, and what keeps it from being used. A web process starts all the same, so as not to
    lose callbacks; without a line that says why, a wrong password would look like a start that went well.
    """
    found: Services = app.extensions["receiver"]
    try:
        log.info("using %s", describe(found.database_url), extra=about("database_used"))
        with connect(found.database_url, name="receiver web") as conn:
            check(conn)
    except ReceiverError as error:
        log.warning("started, but not ready: %s", error, extra=about("not_ready"))
