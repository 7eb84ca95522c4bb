from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from receiver.supervisor.ports import free_port
from tests.acceptance.service import Service
from tests.browser.calls import Populated, populate
from tests.browser.chromium import launched, sign_in, watched

FOREIGN_ORIGIN = f"http://localhost:{free_port()}"
"""Its pages may use the service's API."""


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="package")
def service(browser: Browser, session_folder: Path) -> Iterator[Service]:
    """One `serve` with its simulator for all of these tests, because its start takes seconds. Not started without a
    browser.
    """
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)
    with Service(folder, RELAY_NETWORKS="127.0.0.0/8", CORS_ORIGINS=FOREIGN_ORIGIN) as service:
        yield service


@pytest.fixture(scope="package")
def populated(service: Service) -> Populated:
    return populate(service, service.data_dir.parent)


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """A page without a session. `watched` checks it."""
    with watched(browser, service.url) as page:
        yield page


@pytest.fixture
def admin_page(page: Page, service: Service) -> Page:
    """A page on which the administrator is signed in."""
    sign_in(page, service.key)
    return page
