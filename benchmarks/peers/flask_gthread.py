"""Flask, a psycopg pool, gunicorn's threads: insert and update, one commit a callback."""

from __future__ import annotations

import json
import os

from flask import Flask, request
from psycopg_pool import ConnectionPool

app = Flask(__name__)
pool = ConnectionPool(os.environ["DATABASE_URL"], min_size=16, max_size=16, open=True)


@app.post("/results/<int:batch_id>")
def take(batch_id: int) -> dict[str, str]:
    body = request.get_data(as_text=True)
    details = json.loads(body)
    number = details["phone_number"].strip("'")
    with pool.connection() as conn:
        conn.execute(
            "with ended as (update call set status = %s, attempts = %s, duration = %s, details = %s"
            " where batch_id = %s and phone_number = %s returning call_id)"
            " insert into callback (call_id, body) values ((select call_id from ended), %s)",
            (
                details["status"],
                int(details["attempts"]),
                details.get("duration"),
                body,
                batch_id,
                number,
                body,
            ),
            prepare=True,
        )
    return {"status": "stored"}
