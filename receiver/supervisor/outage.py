"""Wait for a database that is unavailable, while the rest of the service runs."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from receiver.database.migrations import migrate
from receiver.database.pool import DatabaseUnavailable, connect
from receiver.errors import ReceiverError
from receiver.logs import about

RECONNECT_CHECK_SECONDS = 1.0
"""Interval between two attempts to connect."""

log = logging.getLogger(__name__)


def is_unavailable(database_url: str) -> bool:
    """Whether the database cannot be reached now. Takes a few seconds at most."""
    try:
        connect(database_url, name="receiver serve").close()
    except DatabaseUnavailable:
        return True
    return False


class Outage:
    """Waits in a thread until the database is available, then migrates it."""

    def __init__(self, database_url: str, report: Callable[[str], None]) -> None:
        self._database_url = database_url
        self._report = report
        self._failure: ReceiverError | None = None
        self._thread = threading.Thread(target=self._await_end, name="database-return", daemon=True)
        self._thread.start()

    def is_over(self) -> bool:
        """Whether the database is available and migrated. Raises the SchemaError if its migration failed."""
        if self._failure is not None:
            raise self._failure
        return not self._thread.is_alive()

    def _await_end(self) -> None:
        while True:
            try:
                migrate(self._database_url, report=self._report)
                log.info("the database is available again", extra=about("database_back"))
                return
            except DatabaseUnavailable as error:
                log.debug("the database is still unavailable: %s", error, extra=about("still_away"))
            except ReceiverError as error:
                self._failure = error
                return
            time.sleep(RECONNECT_CHECK_SECONDS)
