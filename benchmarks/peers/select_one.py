"""A Flask view that runs `select 1` on a pooled connection and answers JSON: the least that asks the database."""

from __future__ import annotations

import os

from flask import Flask
from psycopg_pool import ConnectionPool

app = Flask(__name__)
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=4, max_size=4, open=True)


@app.get("/api/v1/batches/<int:batch_id>")
def get(batch_id: int) -> dict[str, int]:
    with pool.connection() as conn:
        row = conn.execute("select 1").fetchone()
    return {"id": row[0] if row else 0}
