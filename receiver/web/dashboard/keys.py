"""API keys: an admin lists, creates and revokes them."""

from __future__ import annotations

from datetime import datetime

from flask import flash, redirect, render_template, request
from werkzeug.wrappers import Response

from receiver.changes.audit import record_change
from receiver.database.api_keys import SCOPES, KeyNameTaken, create_key, list_keys, revoke_key
from receiver.database.pool import connection
from receiver.errors import InvalidInput, NotFound
from receiver.web.auth import current_key
from receiver.web.dashboard.filters import end_of, parse_day
from receiver.web.dashboard.own_key import own_key_faults
from receiver.web.dashboard.pages import form_page, page
from receiver.web.dashboard.session import zone
from receiver.web.reading import primary
from receiver.web.services import services


@page("/keys", scope="admin", methods=("GET", "POST"))
def keys() -> str | tuple[str, int]:
    """List the keys, and create one."""
    if request.method == "GET":
        return _list({}, {})
    form = {name: request.form.get(name, "").strip() for name in ("name", "scope", "expires_on")}
    expires_at, faults = _expiry(form["expires_on"])
    scope = next((scope for scope in SCOPES if scope == form["scope"]), None)
    if scope is None:
        faults["scope"] = "Choose a scope."
    if not form["name"]:
        faults["name"] = "Enter a name: who or what uses the key."
    faults |= own_key_faults()
    if scope is None or faults:
        return _list(form, faults)
    try:
        with connection(services().pool) as conn:
            key = create_key(conn, form["name"], scope, expires_at)
            details = {"name": form["name"], "scope": scope}
            record_change(conn, current_key().name, "make_key", details=details)
    except KeyNameTaken:
        return _list(form, {"name": "A key with this name exists. Revoke it, or choose another name."})
    except InvalidInput as error:
        return _list(form, {str(fault.where): fault.message for fault in error.faults})
    # Not a redirect: the key would have to be stored until the next request.
    return render_template("key_made.html", key=key, name=form["name"], scope=scope, expires_at=expires_at)


@page("/keys/<prefix>/revoke", scope="admin", methods=("GET", "POST"))
def revoke(prefix: str) -> str | Response | tuple[str, int]:
    """Revoke a key after a confirmation."""
    with connection(services().pool) as conn:
        key = next((key for key in list_keys(conn) if key.prefix == prefix), None)
        if key is None:
            raise NotFound("This key does not exist any more.")
    faults = own_key_faults() if request.method == "POST" else {}
    if request.method == "GET" or faults:
        return form_page("key_revoke.html", faults, key=key, own=key.key_id == current_key().key_id)
    with connection(services().pool) as conn:
        revoke_key(conn, key.name)
        record_change(conn, current_key().name, "revoke_key", details={"name": key.name})
    flash(f"The key “{key.name}” is revoked.")
    return redirect("/keys", 303)


def _list(form: dict[str, str], faults: dict[str, str]) -> tuple[str, int]:
    found = primary().read(list_keys)
    today = datetime.now(zone()).date()
    return form_page(
        "keys.html", faults, keys=found, form=form, scopes=[(scope, scope) for scope in SCOPES], today=today
    )


def _expiry(text: str) -> tuple[datetime | None, dict[str, str]]:
    """The end of the last day in the viewer's time zone, or the fault."""
    if not text:
        return None, {}
    if (day := parse_day(text)) is None:
        return None, {"expires_on": "Enter a day such as 2026-12-01."}
    if day < datetime.now(zone()).date():
        return None, {"expires_on": "Choose a day in the future."}
    return end_of(day, zone()), {}
