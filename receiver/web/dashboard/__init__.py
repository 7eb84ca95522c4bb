"""The dashboards: pages for people, rendered on the server, usable without JavaScript.

`pages.page` declares a page and its scope; `session` knows who is signed in. Each page has a module.
"""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from receiver.web.dashboard.pages import blueprint

__all__ = ["blueprint"]

# Importing a module of pages declares its routes.
for module in iter_modules(__path__):
    import_module(f"{__name__}.{module.name}")
