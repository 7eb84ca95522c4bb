"""FastAPI, asyncpg and orjson, as a good team would tune them.

Insert and update in one statement, one commit a callback, eight connections a process, a plain answer. It checks no
signature, keeps no spool, and knows one result per call.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
import orjson
from fastapi import FastAPI, Request, Response

STORE = """
with found as (select batch_id from batch where token = $1),
stored as (insert into callback (batch_id, body) select batch_id, $2 from found returning batch_id)
update call set status = $3, details = $4, received_at = now()
where batch_id = (select batch_id from stored) and phone_number = $5
"""


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=8, max_size=8)
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/results/{token}")  # type: ignore[untyped-decorator,unused-ignore]  # where FastAPI is not installed
async def take(token: str, request: Request) -> Response:
    body = await request.body()
    details = orjson.loads(body)
    number = details["phone_number"].strip("'")
    async with app.state.pool.acquire() as conn:
        await conn.execute(STORE, token, body, details["status"], orjson.dumps(details).decode(), number)
    return Response(status_code=200)
