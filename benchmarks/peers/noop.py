"""A Flask view that reads the body and answers: what our own gunicorn settings allow at the most."""

from __future__ import annotations

from flask import Flask, request

app = Flask(__name__)


@app.post("/results/<token>")
def take(token: str) -> dict[str, str]:
    request.get_data()
    return {"status": "stored"}
