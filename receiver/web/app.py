"""The app factory: everything that answers HTTP, put together."""

from __future__ import annotations

from flask import Flask, Request, Response, request
from flask_smorest import Api
from werkzeug.formparser import FormDataParser
from werkzeug.routing import IntegerConverter

from receiver import __version__
from receiver.config import Config
from receiver.web import health, problems
from receiver.web.api import batches, callbacks, calls
from receiver.web.services import Services
from receiver.web.webhook import Webhook

UPLOAD_BYTES = 1 << 30
"""Largest request: a million rows of forty variables are about a third of it."""

FORM_FIELD_BYTES = 256 << 10
"""All fields but the file together. Werkzeug holds the block that it parses against it, too, which is 64 KiB."""

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


class _Request(Request):
    def make_form_data_parser(self) -> FormDataParser:
        """A parser that raises ValueError for a broken form, where the usual one takes it for an empty one."""
        parser = super().make_form_data_parser()
        parser.silent = False
        return parser


class _Id(IntegerConverter):
    """A whole number in a path that fits a bigint; what is longer names nothing here."""

    regex = "[0-9]{1,18}"


def create_app(config: Config, database_url: str) -> Flask:
    """The WSGI app over a migrated database. It owns threads and connections: `close_app` ends them."""
    app = Flask("receiver.web")
    app.request_class = _Request
    app.url_map.converters["int"] = _Id
    services = Services.start(config, database_url)
    app.extensions["receiver"] = services
    app.json.sort_keys = False  # type: ignore[attr-defined]  # fields stand in the order people read them
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.config.update(
        API_TITLE="result_url receiver",
        API_VERSION=__version__,
        OPENAPI_VERSION="3.1.0",
        MAX_CONTENT_LENGTH=UPLOAD_BYTES,
        MAX_FORM_MEMORY_SIZE=FORM_FIELD_BYTES,
        MAX_FORM_PARTS=100,
        SECRET_KEY=config.secret_keys[0],
    )
    api = Api(app)
    for blueprint in (batches.blueprint, calls.blueprint, callbacks.blueprint):
        api.register_blueprint(blueprint, url_prefix="/api/v1")
    app.register_blueprint(health.blueprint)
    problems.register(app)
    app.after_request(_secure)
    app.wsgi_app = Webhook(app.wsgi_app, services.tokens, services.intake)  # type: ignore[method-assign]  # Flask's own way to wrap it
    return app


def close_app(app: Flask) -> None:
    """Store what has been taken, and end the app's threads and connections."""
    services: Services = app.extensions["receiver"]
    services.close()


def _secure(response: Response) -> Response:
    for name, value in _SECURITY_HEADERS.items():
        response.headers.setdefault(name, value)
    if request.is_secure:
        response.headers.setdefault("Strict-Transport-Security", "max-age=31536000")
    if request.path.startswith("/api/"):
        response.headers.setdefault("Cache-Control", "no-store")
    return response
