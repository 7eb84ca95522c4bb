from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page

from tests.acceptance.service import Service
from tests.browser.calls import Populated, populate
from tests.browser.chromium import launched, sign_in, watched


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="package")
def service(browser: Browser, session_folder: Path) -> Iterator[Service]:
    """One `serve` with its simulator for all of these tests: they look at it as a person does, and starting takes
    seconds. Not started where there is no browser.
    """
    folder = Path(tempfile.mkdtemp(prefix="s", dir=session_folder))
    folder.chmod(0o711)
    with Service(folder) as service:
        yield service


@pytest.fixture(scope="package")
def populated(service: Service) -> Populated:
    return populate(service, service.data_dir.parent)


@pytest.fixture
def page(browser: Browser, service: Service) -> Iterator[Page]:
    """A page where nobody is signed in; see `watched` for what it must not do."""
    with watched(browser, service.url) as page:
        yield page


@pytest.fixture
def own_page(page: Page, service: Service) -> Page:
    """A page of the administrator."""
    sign_in(page, service.key)
    return page
