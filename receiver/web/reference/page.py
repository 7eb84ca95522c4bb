"""`/openapi.json`, and `/docs`: Swagger UI for it, with our own copies of its files, so that it works without a
network."""

from __future__ import annotations

import json
from functools import lru_cache

from flask import Blueprint, Flask, Response, current_app, render_template, request

from receiver.web.dashboard.assets import asset_url
from receiver.web.openapi import describe

blueprint = Blueprint("reference", __name__)


@blueprint.get("/openapi.json")
def description() -> Response:
    answer = Response(_description(current_app._get_current_object()), content_type="application/json")  # type: ignore[attr-defined]  # the app behind Flask's proxy
    answer.headers["Cache-Control"] = "no-cache"
    answer.add_etag()
    return answer.make_conditional(request)  # type: ignore[return-value]  # itself


@blueprint.get("/docs")
def docs() -> Response:
    return Response(render_template("docs.html", asset_url=asset_url), content_type="text/html; charset=utf-8")


@lru_cache(maxsize=4)
def _description(app: Flask) -> bytes:
    return json.dumps(describe(app), ensure_ascii=False, separators=(",", ":")).encode()
