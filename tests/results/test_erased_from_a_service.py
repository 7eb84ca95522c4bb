"""The number that a whole run erased at its end is in no table of the service, and in no file below its DATA_DIR."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from receiver.database.pool import connect
from tests.acceptance.test_logs_hold_no_secret import NUMBERS, EchoingProvider, service_that_did_everything
from tests.results.traces import traces_in_files, traces_in_tables
from tests.waiting import eventually

pytestmark = pytest.mark.long


def test_nothing_of_an_erased_number_is_left_in_a_service(server_dir: Path) -> None:
    """Its callbacks came in every spelling, with faults of every kind, and an answer of the provider echoed it."""
    with service_that_did_everything(server_dir, EchoingProvider()) as (service, _):
        with closing(connect(service.embedded_database_url, name="test")) as conn:
            assert traces_in_tables(conn, NUMBERS[0]) != []
            assert traces_in_tables(conn, NUMBERS[1]) == []

        def left() -> list[str]:
            # What Postgres keeps in its own files: see docs/privacy.md.
            return traces_in_files(service.data_dir, NUMBERS[1], but=("postgres/base/", "postgres/pg_wal/"))

        eventually(lambda: left() == [], otherwise=left)  # an emptied spool is cut within seconds
        assert (service.data_dir / "postgres" / "base").is_dir()
