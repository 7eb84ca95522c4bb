"""What every page of the dashboards has in common: a declared scope, a checked form, and what templates may use."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import wraps
from typing import Any, TypeVar, cast

from flask import Blueprint, Response, redirect, request, url_for
from markupsafe import Markup, escape

from receiver import __version__
from receiver.database.api_keys import Scope
from receiver.model import rfc3339
from receiver.web.auth import current_key
from receiver.web.dashboard import wording
from receiver.web.dashboard.assets import asset_url
from receiver.web.dashboard.session import (
    check_csrf,
    csrf_token,
    note_change,
    read_own_changes,
    signed_in_key,
    time_zone,
    viewer,
    zone,
)
from receiver.web.problems import Problem
from receiver.web.services import services
from receiver.web.turns import take_turn

View = TypeVar("View", bound=Callable[..., Any])

FORM_BYTES = 256 << 10
"""Largest form without a file."""

blueprint = Blueprint("dashboard", __name__)
blueprint.add_app_template_filter(wording.number)
blueprint.add_app_template_filter(wording.counted)
blueprint.add_app_template_filter(wording.duration)
blueprint.add_app_template_filter(wording.percent)


def page(
    rule: str, scope: Scope | None, methods: Sequence[str] = ("GET",), *, request_bytes: int = FORM_BYTES
) -> Callable[[View], View]:
    """Serve a view at a path, only to a session whose key has this scope; None: to everybody.

    Whoever is not signed in is sent to `/login` and from there back. A POST must carry the CSRF token, which
    `{{ csrf_field() }}` writes into its form. The view finds the key with `current_key()`.
    """

    def decorate(view: View) -> View:
        @wraps(view)
        def checked(*args: Any, **kwargs: Any) -> Any:
            if scope is not None:
                if signed_in_key() is None:
                    return _to_sign_in()
                key = current_key()
                take_turn(services().turns, key.key_id)
                if not key.allows(scope):
                    raise Problem(
                        "forbidden",
                        f"This needs a key of scope {scope}; yours has the scope {key.scope}.",
                    )
            # After the scope: a form is read only for somebody who may send it, for it may bring a file.
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                request.max_content_length = request_bytes
                check_csrf()
                answer = view(*args, **kwargs)
                if scope is not None:
                    note_change()
                return answer
            if scope is not None:
                read_own_changes()
            return view(*args, **kwargs)

        checked.required_scope = scope  # type: ignore[attr-defined]  # read by the test that enumerates routes
        blueprint.add_url_rule(rule, view_func=checked, methods=list(methods))
        return cast(View, checked)

    return decorate


def _to_sign_in() -> Response:
    returns = request.method in ("GET", "HEAD") or "GET" in ((request.url_rule and request.url_rule.methods) or ())
    path = request.full_path.rstrip("?") if request.method in ("GET", "HEAD") else request.path
    address = url_for("dashboard.login", next=path if returns and path != "/" else None)
    if "HX-Request" in request.headers:
        # htmx would follow a redirect and put the sign-in form into the middle of the page.
        return Response(status=401, headers={"HX-Redirect": url_for("dashboard.login")})
    return cast(Response, redirect(address, 303))


@blueprint.app_context_processor
def _names() -> dict[str, Any]:
    return {
        "asset": asset_url,
        "csrf_field": csrf_field,
        "time_zone": time_zone,
        "version": __version__,
        "viewer": viewer(),
    }


def csrf_field() -> Markup:
    """The hidden field that each form which is POSTed must hold."""
    return Markup('<input type="hidden" name="csrf_token" value="{}">').format(csrf_token())


@blueprint.app_template_filter()
def moment(at: datetime | None, form: str = "minute") -> Markup:
    """A time in the viewer's time zone, as a `<time>` element whose title has the seconds and the zone.

    `form`: `second`, `minute`, `day`, or `relative` (3 minutes ago, in 2 hours). None is an em dash.
    """
    if at is None:
        return Markup('<span class="quiet">—</span>')
    local = at.astimezone(zone())
    texts = {
        "second": f"{local:%-d %b %Y, %H:%M:%S}",
        "minute": f"{local:%-d %b %Y, %H:%M}",
        "day": f"{local:%-d %b %Y}",
    }
    text = texts[form] if form in texts else _ago(at)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        rfc3339(at), f"{local:%A, %-d %B %Y, %H:%M:%S} {time_zone()}", text
    )


def _ago(at: datetime) -> str:
    seconds = (datetime.now(UTC) - at).total_seconds()
    if abs(seconds) < 5:
        return "just now"
    # To what anybody wants to know of it: minutes, beyond a day hours.
    step = 1 if abs(seconds) < 60 else 60 if abs(seconds) < 86400 else 3600
    span = wording.duration(abs(seconds) // step * step)
    return f"{span} ago" if seconds > 0 else f"in {span}"


@blueprint.app_template_filter()
def isolate(text: str) -> Markup:
    """A user's text, kept from turning the direction of what stands around it."""
    return Markup("<bdi>{}</bdi>").format(escape(text))


@blueprint.after_app_request
def _keep_private(response: Response) -> Response:
    """What a page shows is its viewer's: no cache keeps it, and Back after signing out shows nothing."""
    if response.mimetype == "text/html":
        response.headers.setdefault("Cache-Control", "no-store")
    return response
