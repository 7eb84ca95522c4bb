"""The app of the web tests, for tests of the deployment files."""

from tests.web.conftest import app, config, stranger

__all__ = ["app", "config", "stranger"]
