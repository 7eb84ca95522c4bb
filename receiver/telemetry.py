"""Optional reports to Sentry and OpenTelemetry. Their libraries are not installed by default.

`SENTRY_DSN` reports unexpected errors (`pip install -e '.[sentry]'`). `OTEL_EXPORTER_OTLP_ENDPOINT` traces the requests
to the API and the dashboards (`pip install -e '.[opentelemetry]'`). The library reads all other `OTEL_*` variables
itself. Callbacks are never traced: their path contains a token, and there are too many of them.
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from receiver import __version__
from receiver.logs import about, redact

log = logging.getLogger(__name__)


def start_telemetry(app: Any, secrets: Sequence[str] = ()) -> None:
    """Start what the environment sets, in this process. `app`: the Flask app to trace, or None.

    A library that is not installed is only a warning: monitoring must not prevent the service from starting.
    """
    if dsn := os.environ.get("SENTRY_DSN"):
        _try("SENTRY_DSN", "sentry", lambda: _start_sentry(dsn, secrets))
    if app is not None and os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT"):
        _try("OTEL_EXPORTER_OTLP_ENDPOINT", "opentelemetry", lambda: _start_tracing(app))


def _try(variable: str, extra: str, start: Callable[[], None]) -> None:
    try:
        start()
    except ImportError as error:
        message = "%s is set, but %s is not installed: run pip install -e '.[%s]', or unset the variable"
        log.warning(message, variable, error.name, extra, extra=about("telemetry_missing", variable=variable))
    except Exception as error:
        log.warning("%s cannot be used: %s", variable, error, extra=about("telemetry_unusable", variable=variable))


def _start_sentry(dsn: str, secrets: Sequence[str]) -> None:
    sentry = importlib.import_module("sentry_sdk")
    sentry.init(
        dsn=dsn,
        release=__version__,
        # Errors are reported from the log. An integration with Flask would slow every request.
        auto_enabling_integrations=False,
        send_default_pii=False,
        include_local_variables=False,  # they contain callbacks and contacts
        max_request_body_size="never",
        before_send=lambda event, _: _redacted(event, secrets),
        before_breadcrumb=lambda crumb, _: _redacted(crumb, secrets),
    )


def _redacted(part: Any, secrets: Sequence[str]) -> Any:
    """The event with every text redacted."""
    if isinstance(part, str):
        return redact(part, secrets)
    if isinstance(part, dict):
        return {name: _redacted(value, secrets) for name, value in part.items()}
    if isinstance(part, list | tuple):
        return [_redacted(each, secrets) for each in part]
    return part


_WITH_QUERY = ("http.target", "http.url", "url.full", "url.query")


def _start_tracing(app: Any) -> None:
    trace = importlib.import_module("opentelemetry.sdk.trace")
    export = importlib.import_module("opentelemetry.sdk.trace.export")
    otlp = importlib.import_module("opentelemetry.exporter.otlp.proto.http.trace_exporter")
    resources = importlib.import_module("opentelemetry.sdk.resources")
    flask = importlib.import_module("opentelemetry.instrumentation.flask")
    named = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "result-url-receiver"), "service.version": __version__}
    provider = trace.TracerProvider(resource=resources.Resource.create(named))
    provider.add_span_processor(export.BatchSpanProcessor(otlp.OTLPSpanExporter()))

    def without_query(span: Any, status: str, headers: Any) -> None:
        # Called when the answer begins. Earlier changes would be overwritten by the library.
        for name, value in dict(getattr(span, "attributes", None) or {}).items():
            if name in _WITH_QUERY:
                span.set_attribute(name, "" if name == "url.query" else str(value).partition("?")[0])

    flask.FlaskInstrumentor().instrument_app(
        app, tracer_provider=provider, response_hook=without_query, excluded_urls="healthz,readyz,metrics,static/.*"
    )
