"""The app with a new database, and clients with keys of each scope."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.test import TestResponse

from receiver.config import Config
from receiver.database.api_keys import Scope, create_key
from receiver.database.pool import Connection
from receiver.intake import writer
from receiver.web.app import build_app, close_app, open_app
from receiver.web.services import Services
from tests.waiting import PATIENCE_SECONDS, eventually
from tests.web.asking import config_for
from tests.web.browsing import Browser, visitor

ClientFor = Callable[[Scope], FlaskClient]
CreateApp = Callable[[Config, str], Flask]


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Config:
    return config_for(tmp_path, database_url)


class ReadToTheEnd(FlaskClient):
    """Reads each answer completely, like a server: until then a request is in progress."""

    def open(self, *args: Any, buffered: bool = True, **kwargs: Any) -> TestResponse:
        return super().open(*args, buffered=buffered, **kwargs)


class CompiledTemplates(BytecodeCache):
    """Shared by all apps of this process: compiling a page's templates takes longer than most tests."""

    def __init__(self) -> None:
        self._kept: dict[str, bytes] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        if bucket.key in self._kept:
            bucket.bytecode_from_string(self._kept[bucket.key])

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._kept[bucket.key] = bucket.bytecode_to_string()


COMPILED_TEMPLATES = CompiledTemplates()


_build_once = cache(build_app)


def quick_app(config: Config, database_url: str) -> Flask:
    """Like `create_app`, with the routes of this process's other apps: registering them takes longer than most tests.

    A test that adds a route uses `create_app`.
    """
    app = copy(_build_once())
    app.extensions, app.config = dict(app.extensions), copy(app.config)
    open_app(app, config, database_url)
    return app


@contextmanager
def patient_app(config: Config, database_url: str, create: CreateApp = quick_app) -> Iterator[Flask]:
    """The app with a working database, which it does not give up when the machine is busy."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "COMMIT_SECONDS", PATIENCE_SECONDS)
        app = create(config, database_url)
        app.test_client_class = ReadToTheEnd
        app.jinja_env.bytecode_cache = COMPILED_TEMPLATES
        try:
            services: Services = app.extensions["receiver"]
            services.pool.timeout = PATIENCE_SECONDS
            # Until then callbacks go to the spool first, so a test would not find them in the database.
            eventually(lambda: not services.intake.database_unavailable)
            yield app
        finally:
            close_app(app)


@pytest.fixture
def app(config: Config, database_url: str) -> Iterator[Flask]:
    with patient_app(config, database_url) as app:
        yield app


@contextmanager
def app_that_has_no_database(folder: Path, create: CreateApp = quick_app, **settings: Any) -> Iterator[Flask]:
    """The app while Postgres is unavailable. It does not wait for Postgres: not in a request, and not at its end."""
    nowhere = f"postgresql://receiver@/receiver?host={folder}"
    app = create(replace(config_for(folder, nowhere), **settings), nowhere)
    services: Services = app.extensions["receiver"]
    services.pool.timeout = 0.01
    try:
        yield app
    finally:
        services.pool.close(timeout=0)
        close_app(app)


@pytest.fixture
def app_without_database(tmp_path: Path) -> Iterator[Flask]:
    with app_that_has_no_database(tmp_path) as app:
        yield app


@pytest.fixture
def client_for(app: Flask, conn: Connection) -> ClientFor:
    """Makes a client with a new key of a scope."""

    def make(scope: Scope) -> FlaskClient:
        key = create_key(conn, f"{scope} key", scope)
        conn.commit()
        client = app.test_client()
        client.environ_base["HTTP_AUTHORIZATION"] = f"Bearer {key}"
        return client

    return make


@pytest.fixture
def reader(client_for: ClientFor) -> FlaskClient:
    return client_for("read")


@pytest.fixture
def queuer(client_for: ClientFor) -> FlaskClient:
    return client_for("queue")


@pytest.fixture
def stranger(app: Flask) -> FlaskClient:
    """A client without a key."""
    return app.test_client()


@pytest.fixture
def reader_at(app: Flask, conn: Connection) -> Browser:
    """A browser, signed in with scope read."""
    return visitor(app, conn, "read")


@pytest.fixture
def queuer_at(app: Flask, conn: Connection) -> Browser:
    """A browser, signed in with scope queue."""
    return visitor(app, conn, "queue")


@pytest.fixture
def admin_at(app: Flask, conn: Connection) -> Browser:
    """A browser, signed in with scope admin."""
    return visitor(app, conn, "admin")


@pytest.fixture
def key(conn: Connection) -> str:
    """A key with scope read."""
    made = create_key(conn, "Ana", "read")
    conn.commit()
    return made


@pytest.fixture
def browser(app: Flask) -> Browser:
    """A browser without a session."""
    return Browser(app)
