"""The HTTP interface: the provider's addresses, and those of the ledger."""

from __future__ import annotations

import hmac
import json
import logging
import re
import threading
from collections.abc import Mapping
from urllib.parse import urlsplit

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from receiver.model import masked
from receiver.simulator import bodies, faults, forms
from receiver.simulator.calls import seeded
from receiver.simulator.exchange import Exchange
from receiver.simulator.forms import Refused
from receiver.simulator.ledger import Ledger
from receiver.simulator.settings import Settings
from receiver.simulator.submission import Submission

log = logging.getLogger(__name__)

ERRORS: Mapping[int, str] = {
    401: "authentication invalid, or account inactive",
    403: "user lacks permission",
    404: "deployment not found",
    405: "method not allowed",
    409: "user, deployment or application was deleted",
    500: "database error",
}
"""The documented errors. A deployment or call whose id is one of these statuses gets this answer (except 405)."""
NO_ANSWER_SECONDS = 600
"""After this time, every client has given up."""

DEPLOYMENT = "/api/apps/<int:application_id>/<int:deployment_id>"


def create_app(settings: Settings, exchange: Exchange, ledger: Ledger, stopping: threading.Event) -> Flask:
    """The WSGI application; `stopping` ends requests that are kept without an answer."""
    app = Flask(__name__)

    @app.before_request
    def authenticate() -> None:
        given = request.authorization
        if request.path.startswith("/api/") and not (
            given is not None
            and given.type == "basic"
            and hmac.compare_digest((given.username or "").encode(), settings.user.encode())
            and hmac.compare_digest((given.password or "").encode(), settings.key.encode())
        ):
            raise Refused(401, ERRORS[401])

    @app.post(f"{DEPLOYMENT}/bulk_queue", provide_automatic_options=False)
    def bulk_queue(application_id: int, deployment_id: int) -> Response:
        _refuse_if_reserved(deployment_id)
        csv = request.files.get("csv")
        if csv is None:
            raise Refused(400, "csv is missing")
        parameters = forms.read_parameters(request.form)
        destinations, left_out = forms.read_contacts(csv.stream)
        submission = exchange.accept("bulk_queue", application_id, deployment_id, parameters, destinations)
        _log(submission, f"{len(destinations)} calls queued" + (f", {left_out} left out" if left_out else ""))
        content: dict[str, object] = {"calls_queued": len(submission.calls)}
        if settings.call_ids == "list":
            content["call_ids"] = [submission.call_id(call) for call in submission.calls]
        elif settings.call_ids == "map":
            content["call_ids"] = {call.destination: submission.call_id(call) for call in submission.calls}
        return _after_acceptance(settings, submission, stopping) or _answer(content)

    @app.post(f"{DEPLOYMENT}/queue", provide_automatic_options=False)
    def queue(application_id: int, deployment_id: int) -> Response:
        _refuse_if_reserved(deployment_id)
        number = request.form.get("phone_number", "")
        if not number:
            raise Refused(400, "phone_number is missing")
        if not forms.is_destination(number):
            raise Refused(400, "phone_number is not a phone number")
        parameters = forms.read_parameters(request.form)
        submission = exchange.accept("queue", application_id, deployment_id, parameters, [number])
        _log(submission, f"{masked(bodies.dialed_digits(number))} queued")
        call_id = submission.call_id(submission.calls[0])
        answer = _after_acceptance(settings, submission, stopping) or _answer({"call_id": call_id})
        answer.headers["Link"] = f'<{request.host_url}api/outbound/{call_id}>; rel="status"'
        return answer

    @app.delete(f"{DEPLOYMENT}/cancel", provide_automatic_options=False)
    def cancel(application_id: int, deployment_id: int) -> Response:
        _refuse_if_reserved(deployment_id)
        exchange.cancel(application_id, deployment_id)
        return Response(status=202)

    @app.get("/api/outbound/<call_id>", provide_automatic_options=False)
    def outbound(call_id: str) -> Response:
        if call_id.isascii() and call_id.isdigit():
            _refuse_if_reserved(int(call_id))
        return _answer({"call_details": exchange.call_details(call_id)})

    @app.get("/simulator/ledger")
    def figures() -> Response:
        return Response(json.dumps(ledger.summary()), mimetype="application/json")

    @app.get("/simulator/ledger/calls")
    def calls() -> Response:
        return Response(ledger.lines(), mimetype="application/x-ndjson")

    @app.errorhandler(Refused)
    def refuse(error: Refused) -> Response:
        answer = _answer({"error": str(error)}, error.status)
        if error.status == 401:
            answer.headers["WWW-Authenticate"] = 'Basic realm="simulator"'
        return answer

    @app.errorhandler(HTTPException)
    def refuse_address(error: HTTPException) -> Response:
        status = error.code or 500
        answer = _answer({"error": "not found" if status == 404 else ERRORS.get(status, error.name)}, status)
        for name, value in error.get_headers():
            if name == "Allow":
                answer.headers[name] = value
        return answer

    return app


def _answer(content: Mapping[str, object], status: int = 200) -> Response:
    """XML if `Accept` prefers it, else JSON."""
    wanted = request.accept_mimetypes.best_match(["application/json", "application/xml"], "application/json")
    if wanted == "application/xml":
        return Response(bodies.to_xml("result", content), status, mimetype="application/xml")
    return Response(json.dumps(content), status, mimetype="application/json")


def _refuse_if_reserved(identifier: int) -> None:
    """Refuse ids that are one of the documented statuses, so that a test can provoke each of them."""
    if identifier in ERRORS and identifier != 405:
        raise Refused(identifier, ERRORS[identifier])


def _after_acceptance(settings: Settings, submission: Submission, stopping: threading.Event) -> Response | None:
    """The faulty answer to an accepted request: 500 although it was queued, or no answer. None: no fault."""
    fault = faults.draw_answer_fault(seeded(settings.seed, submission.number, "answer"), settings.rates)
    if fault == "error":
        return _answer({"error": ERRORS[500]}, 500)
    if fault == "timeout":
        stopping.wait(NO_ANSWER_SECONDS)
        return Response(status=500)
    return None


def _log(submission: Submission, what: str) -> None:
    request, url = submission.request, redacted(submission.result_url)
    where = f"{request.kind} application {request.application_id} deployment {request.deployment_id}"
    log.info("%s: %s, result_url %s", where, what, url)


def redacted(url: str | None) -> str:
    """A `result_url` for a log line, without its token: anybody who knows the token can post results."""
    if url is None:
        return "none"
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{re.sub(r'[^/]+/?$', '…', parts.path)}"
