"""The app of the web's tests, for what is deployed around it."""

from tests.web.conftest import app, config, stranger

__all__ = ["app", "config", "stranger"]
