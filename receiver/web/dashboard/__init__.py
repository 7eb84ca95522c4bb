"""The dashboards: pages for people, rendered on the server, usable without JavaScript.

`pages.page` declares a page and its scope; `session` knows who is signed in. Each page has a module.
"""

from __future__ import annotations

from receiver.web.dashboard import (
    answer_rates,
    attention,
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

__all__ = ["PAGES", "blueprint"]

# Importing a module of pages declares its routes.
PAGES = (
    attention,
    answer_rates,
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
