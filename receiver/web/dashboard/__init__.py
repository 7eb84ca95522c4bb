"""The dashboards: pages for people, rendered on the server, usable without JavaScript.

`pages.page` declares a page and its scope; `session` knows who is signed in. Each page has a module.
"""

from __future__ import annotations

from flask import Flask

from receiver.config import Config
from receiver.web.dashboard import (
    audit,
    batch,
    batch_calls,
    batches,
    call,
    callbacks,
    change,
    endpoints,
    follow_up,
    keys,
    new_batch,
    overview,
    release,
    resolve,
    search,
    signin,
    suppressions,
)
from receiver.web.dashboard.pages import blueprint
from receiver.web.dashboard.session import keep_sessions

# Importing a module of pages declares its routes.
PAGES = (
    audit,
    batch,
    batch_calls,
    batches,
    call,
    callbacks,
    change,
    endpoints,
    follow_up,
    keys,
    new_batch,
    overview,
    release,
    resolve,
    search,
    signin,
    suppressions,
)


def register(app: Flask, config: Config) -> None:
    """Serve the dashboards from this app."""
    keep_sessions(app, config)
    app.register_blueprint(blueprint)
