"""Shared by all pages of the dashboards: the declared scope, the check of forms, and the names for templates."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

from flask import Blueprint, Response, current_app, redirect, render_template, request, url_for
from markupsafe import Markup
from werkzeug.exceptions import HTTPException
from werkzeug.wrappers import Response as BaseResponse

from receiver import __version__
from receiver.changes.audit import NOTE_CHARACTERS
from receiver.database.api_keys import Scope
from receiver.errors import ReceiverError
from receiver.model import e164, rfc3339
from receiver.web.auth import STORED, current_key
from receiver.web.dashboard import wording
from receiver.web.dashboard.assets import asset_url
from receiver.web.dashboard.charts import split_bar
from receiver.web.dashboard.session import (
    check_csrf,
    csrf_token,
    note_change,
    own_path,
    read_own_changes,
    signed_in_key,
    time_zone,
    viewer,
    zone,
)
from receiver.web.problems import Problem
from receiver.web.turns import take_turn

View = TypeVar("View", bound=Callable[..., Any])

FORM_BYTES = 256 << 10
"""Largest form without a file."""

blueprint = Blueprint("dashboard", __name__)
blueprint.add_app_template_filter(wording.number)
blueprint.add_app_template_filter(wording.counted)
blueprint.add_app_template_filter(wording.duration)
blueprint.add_app_template_filter(wording.percent)
blueprint.add_app_template_global(e164)
blueprint.add_app_template_global(split_bar)


def page(
    rule: str, scope: Scope | None, methods: Sequence[str] = ("GET",), *, request_bytes: int = FORM_BYTES
) -> Callable[[View], View]:
    """Serve a view at a path, only to a session whose key has this scope. None: to everybody.

    A viewer who is not signed in is redirected to `/login`, and from there back. A POST must contain the CSRF token,
    which `{{ csrf_field() }}` writes into a form. The view gets the key from `current_key()`.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if scope is not None:
                if signed_in_key() is None:
                    return _to_sign_in()
                key = current_key()
                take_turn(key.key_id)
                if not key.allows(scope):
                    raise Problem("forbidden", f"This needs a key of scope {scope}; yours has the scope {key.scope}.")
            # Read the form, which may have a file, only after the scope was checked.
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                request.max_content_length = request_bytes
                if STORED not in request.environ:  # a request that waited was checked before
                    check_csrf()
                answer = view(*args, **kwargs)
                if scope is not None:
                    note_change()
                return answer
            if scope is not None:
                read_own_changes()
            return view(*args, **kwargs)

        checked.required_scope = scope  # type: ignore[attr-defined]  # read by tests
        blueprint.add_url_rule(rule, view_func=checked, methods=list(methods))
        return cast(View, checked)

    return decorate


def form_page(template: str, faults: Mapping[str, str], **values: Any) -> tuple[str, int]:
    """A page with a form; `faults`: what is wrong in it, by field."""
    return render_template(template, faults=faults, **values), 422 if faults else 200


def to_batch(batch_id: int) -> BaseResponse:
    """Show a batch after a change."""
    return redirect(url_for("dashboard.batch", batch_id=batch_id), 303)


def _to_sign_in() -> Response:
    path = _path_of_page()
    lost = None if request.method in ("GET", "HEAD") else 1
    address = url_for("dashboard.login", next=path if path != "/" else None, lost=lost)
    if "HX-Request" in request.headers:
        # htmx would follow a redirect, and insert the sign-in form into the page.
        return Response(status=401, headers={"HX-Redirect": address})
    return cast(Response, redirect(address, 303))


def _path_of_page() -> str:
    """The page to return to after the sign-in: the one that was requested, or that the form belongs to."""
    if "HX-Current-URL" in request.headers:
        shown = urlsplit(request.headers["HX-Current-URL"])
        return own_path(shown.path + (f"?{shown.query}" if shown.query else ""))
    if request.method in ("GET", "HEAD"):
        return request.full_path.rstrip("?")
    request.max_content_length = FORM_BYTES
    with suppress(HTTPException, ValueError):
        return own_path(request.form["next"])
    path, routes = request.path, current_app.create_url_adapter(request)
    while path and routes is not None:
        with suppress(HTTPException):
            routes.match(path, method="GET")
            return path
        path = path.rpartition("/")[0]
    return "/"


@blueprint.before_app_request
def _recognise_viewer() -> None:
    """Keep the frame of a viewer who is signed in on the page about an unknown address."""
    if request.routing_exception is not None:
        with suppress(ReceiverError):
            signed_in_key()


@blueprint.app_context_processor
def _names() -> dict[str, Any]:
    return {
        "asset": asset_url,
        "csrf_field": csrf_field,
        "most_note": NOTE_CHARACTERS,
        "now": datetime.now(UTC),
        "time_zone": time_zone,
        "version": __version__,
        "viewer": viewer(),
        "wording": wording,
    }


def csrf_field() -> Markup:
    """The hidden field of each form that is POSTed."""
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(csrf_token())


@blueprint.app_template_filter()
def moment(at: datetime | None, form: str = "minute") -> Markup:
    """A time in the viewer's time zone, as a `<time>` element whose title has the seconds and the zone.

    `form`: `second`, `minute`, `day`, or `relative` (3 minutes ago, in 2 hours). None is an em dash.
    """
    if at is None:
        return Markup('<span class="quiet">—</span>')
    local = at.astimezone(zone())
    text = _ago(at) if form == "relative" else f"{local:{_FORMATS[form]}}"
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        rfc3339(at), f"{local:%A, %-d %B %Y, %H:%M:%S} {time_zone()}", text
    )


_FORMATS = {"second": "%-d %b %Y, %H:%M:%S", "minute": "%-d %b %Y, %H:%M", "day": "%-d %b %Y"}


def _ago(at: datetime) -> str:
    seconds = (datetime.now(UTC) - at).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    # Rounded down: to minutes, beyond a day to hours.
    step = 1 if abs(seconds) < 60 else 60 if abs(seconds) < 86400 else 3600
    span = wording.duration(abs(seconds) // step * step)
    return f"{span} ago" if seconds > 0 else f"in {span}"


@blueprint.after_app_request
def _keep_private(response: Response) -> Response:
    """Pages and downloads are private: no cache keeps them, and after signing out the Back button shows nothing."""
    if response.mimetype == "text/html" or request.blueprint == blueprint.name:
        response.headers.setdefault("Cache-Control", "no-store")
    return response
