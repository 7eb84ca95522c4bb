"""Sign-in with an API key, sign-out, the viewer's time zone, and the static files of the pages."""

from __future__ import annotations

import math

from flask import Response, current_app, flash, redirect, render_template, request, session, url_for
from werkzeug.wrappers import Response as AnyResponse

from receiver.database.pool import DatabaseUnavailable, connection
from receiver.web.dashboard.assets import answer_asset
from receiver.web.dashboard.own_key import find_entered_key
from receiver.web.dashboard.pages import page
from receiver.web.dashboard.session import own_path, sign_in, sign_out, signed_in_key, why_ended, zones, zones_of
from receiver.web.dashboard.wording import counted
from receiver.web.problems import Problem
from receiver.web.rate_limit import client_address
from receiver.web.services import services


@page("/login", scope=None, methods=("GET", "POST"))
def login() -> AnyResponse:
    """Sign in."""
    onward = own_path(request.values.get("next"))
    if request.method == "GET":
        return redirect(onward, 303) if signed_in_key() is not None else _form(onward)
    if seconds := math.ceil(services().failed_sign_ins.wait_seconds(client_address())):
        wait = counted(seconds, "second")
        answer = _form(onward, f"Too many failed tries from your address. Try again in {wait}.", 429)
        answer.headers["Retry-After"] = str(seconds)
        return answer
    text = request.form.get("key", "").strip()
    key = find_entered_key(text)
    if key is None:
        fault = "This key is unknown, revoked or expired." if text else "Enter your API key."
        return _form(onward, fault, 422)
    with connection(services().pool) as conn:
        known = zones_of(conn)
    sign_in(key, request.form.get("time_zone", ""), known)
    return redirect(onward, 303)


@page("/logout", scope=None, methods=("POST",))
def logout() -> AnyResponse:
    """End the session, and every copy of it."""
    try:
        sign_out()
    except DatabaseUnavailable:
        raise Problem(
            "database_unavailable",
            "You are still signed in, because the database is unavailable. Try again in a moment.",
        ) from None
    return redirect(url_for("dashboard.login"), 303)


@page("/time-zone", scope="read", methods=("GET", "POST"))
def choose_time_zone() -> AnyResponse | tuple[str, int]:
    """Choose the time zone of all times on the pages."""
    onward = own_path(request.values.get("next"))
    fault = None
    if request.method == "POST":
        chosen = request.form.get("time_zone", "").strip()
        if chosen in zones():
            session["time_zone"] = chosen
            flash(f"Times are shown in {chosen}.")
            return redirect(onward, 303)
        fault = "This time zone is unknown. Choose one from the list, such as America/New_York."
    content = render_template("time_zone.html", zones=sorted(zones()), onward=onward, fault=fault)
    return content, 422 if fault else 200


@page("/static/<digest>/<path:name>", scope=None)
def asset(digest: str, name: str) -> Response:
    """A style sheet, script or picture."""
    return answer_asset(digest, name)


def _form(onward: str, fault: str | None = None, status: int = 200) -> Response:
    content = render_template("login.html", onward=onward, fault=fault, why_ended=why_ended())
    return current_app.make_response((content, status))
