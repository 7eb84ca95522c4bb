"""The app factory: puts together everything that answers HTTP."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from flask import Flask, Response, request
from werkzeug.routing import IntegerConverter

from receiver import __version__
from receiver.config import Config
from receiver.intake.proxies import Forwarded
from receiver.intake.wsgi import Endpoint
from receiver.telemetry import start_telemetry
from receiver.web import access, compression, cors, dashboard, health, metrics, problems, reading, turns
from receiver.web import api as subjects
from receiver.web.dashboard.session import keep_sessions
from receiver.web.json_answer import JSONProvider
from receiver.web.openapi import open_api
from receiver.web.reference import page
from receiver.web.services import Services
from receiver.web.uploads import UploadRequest
from receiver.web.waiting import WaitInThread

UPLOAD_BYTES = 1 << 30
"""Largest request: a million rows of forty variables are about a third of it."""

FORM_FIELD_BYTES = 256 << 10
"""Maximum size of all fields together, without the file. Werkzeug also counts the block that it is parsing, which is 64
KiB."""

_SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self';"
        " form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
}


class _Id(IntegerConverter):
    """A whole number in a path that fits a bigint. A longer one is answered 404."""

    regex = "[0-9]{1,18}"


def create_app(config: Config, database_url: str) -> Flask:
    """The WSGI app on a migrated database. It owns threads and connections; `close_app` ends them."""
    app = build_app()
    open_app(app, config, database_url)
    return app


def build_app() -> Flask:
    """An app with all routes. It answers after `open_app`."""
    app = Flask("receiver.web", static_folder=None)  # see receiver.web.dashboard.assets
    app.request_class = UploadRequest
    app.url_map.converters["int"] = _Id
    app.url_map.merge_slashes = False  # a path with two slashes is an unknown one, not a redirect in HTML
    app.json = JSONProvider(app)
    app.config.update(
        API_TITLE="result_url receiver",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.1.0",
        MAX_CONTENT_LENGTH=UPLOAD_BYTES,
        MAX_FORM_MEMORY_SIZE=FORM_FIELD_BYTES,
        MAX_FORM_PARTS=100,
    )
    api = open_api(app)
    for module in iter_modules(subjects.__path__):
        api.register_blueprint(import_module(f"{subjects.__name__}.{module.name}").blueprint)
    for blueprint in (health.blueprint, metrics.blueprint, dashboard.blueprint, page.blueprint):
        app.register_blueprint(blueprint)
    cors.register(app)
    problems.register(app)
    compression.register(app)
    app.after_request(_secure)
    access.register(app)
    turns.register(app)
    reading.register(app)
    return app


def open_app(app: Flask, config: Config, database_url: str) -> None:
    """Open what the app needs to answer."""
    services = Services.start(config, database_url)
    app.extensions["receiver"] = services
    keep_sessions(app, config)
    start_telemetry(app, config.secrets)  # before the callback endpoint is added, which is not traced
    # Flask's own way to wrap an application.
    opened = services.opened_intake
    inner = WaitInThread(Forwarded(app.wsgi_app, opened.senders.proxies))
    app.wsgi_app = Endpoint(inner, opened.rules, opened.senders, opened.writer)  # type: ignore[method-assign]


def close_app(app: Flask) -> None:
    """Store the accepted callbacks, and end the app's threads and connections."""
    services: Services = app.extensions["receiver"]
    services.close()


def _secure(response: Response) -> Response:
    added = _SECURITY_HEADERS
    if request.is_secure:
        added = {**added, "Strict-Transport-Security": "max-age=31536000"}
    if request.path.startswith("/api/"):
        added = {**added, "Cache-Control": "no-store"}
    # Not `setdefault` for each: every call would search all headers, which is slow for a small answer.
    present = {name.lower() for name in response.headers.keys()}
    response.headers.extend((name, value) for name, value in added.items() if name.lower() not in present)
    return response
