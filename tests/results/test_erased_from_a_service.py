"""A number that is erased at the end of a whole run is in no table and in no file in DATA_DIR."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from receiver.database.pool import connect
from tests.acceptance.test_logs_hold_no_secret import NUMBERS, EchoingProvider, service_that_did_everything
from tests.results.traces import traces_in_files, traces_in_tables
from tests.waiting import eventually

pytestmark = pytest.mark.long


def test_erased_number_is_nowhere_in_a_service(server_dir: Path) -> None:
    """Its callbacks had every spelling and every kind of fault, and an answer of the provider contained it."""
    with service_that_did_everything(server_dir, EchoingProvider()) as (service, _):
        with closing(connect(service.embedded_database_url, name="test")) as conn:
            assert traces_in_tables(conn, NUMBERS[0]) != []
            assert traces_in_tables(conn, NUMBERS[1]) == []

        def left() -> list[str]:
            # For the files of Postgres, see docs/privacy.md.
            return traces_in_files(service.data_dir, NUMBERS[1], but=("postgres/base/", "postgres/pg_wal/"))

        eventually(lambda: left() == [], otherwise=left)  # an empty spool is cleaned within seconds
        assert (service.data_dir / "postgres" / "base").is_dir()
