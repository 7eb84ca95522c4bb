"""Stop and remove Postgres servers that tests left running."""

from __future__ import annotations

import shutil
from pathlib import Path

from receiver.embedded_postgres.server import EmbeddedPostgres


def remove(folder: Path) -> None:
    """Stop every server under the folder, even if another process started it, and remove the folder."""
    for cluster in folder.glob("**/postgres/PG_VERSION"):
        EmbeddedPostgres(cluster.parents[1]).stop(fast_seconds=2)
    shutil.rmtree(folder, ignore_errors=True)
