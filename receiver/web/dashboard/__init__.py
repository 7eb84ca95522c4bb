"""The dashboards: pages for people, made on the server, usable without JavaScript.

`pages.page` declares a page with its scope; `session` says who looks at it. One module a page.
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
    keys,
    new_batch,
    overview,
    own_key,
    resolve,
    signin,
    suppressions,
)
from receiver.web.dashboard.pages import blueprint
from receiver.web.dashboard.session import keep_sessions
from receiver.web.rate_limit import TokenBuckets

# Importing a module of pages declares its routes.
PAGES = (audit, batch, batch_calls, batches, call, callbacks, keys, new_batch, overview, resolve, signin, suppressions)


def register(app: Flask, config: Config) -> None:
    """Serve the dashboards from this app."""
    keep_sessions(app, config)
    app.extensions[own_key.FAILURES] = TokenBuckets(own_key.FAILURES_A_MINUTE)
    app.register_blueprint(blueprint)
