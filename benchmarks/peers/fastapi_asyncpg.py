"""FastAPI, asyncpg, uvicorn with uvloop and httptools: insert and update, one commit a callback."""

from __future__ import annotations

import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
from fastapi import FastAPI, Request


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    app.state.pool = await asyncpg.create_pool(os.environ["DATABASE_URL"], min_size=16, max_size=16)
    yield
    await app.state.pool.close()


app = FastAPI(lifespan=lifespan)


@app.post("/results/{batch_id}")  # type: ignore[untyped-decorator,unused-ignore]  # where FastAPI is not installed
async def take(batch_id: int, request: Request) -> dict[str, str]:
    body = (await request.body()).decode()
    details: dict[str, Any] = json.loads(body)
    number = details["phone_number"].strip("'")
    await app.state.pool.execute(
        "with ended as (update call set status = $1, attempts = $2, duration = $3, details = $4"
        " where batch_id = $5 and phone_number = $6 returning call_id)"
        " insert into callback (call_id, body) values ((select call_id from ended), $7)",
        details["status"],
        int(details["attempts"]),
        details.get("duration"),
        body,
        batch_id,
        number,
        body,
    )
    return {"status": "stored"}
