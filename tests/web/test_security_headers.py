"""Security headers of all answers."""

import pytest
from flask.testing import FlaskClient

from tests.web.asking import post_csv, results_path

ADDRESSES = ["/healthz", "/readyz", "/nothing", "/api/v1/batches", "/api/v1/nothing", "/api/v1/batches?limit=0"]


def test_every_answer_forbids_framing_sniffing_and_foreign_scripts(reader: FlaskClient) -> None:
    for address in ADDRESSES:
        headers = reader.get(address).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["Content-Security-Policy"].split(";"))
        assert policy["default-src"] == "'none'"
        assert policy["script-src"] == "'self'" and policy["style-src"] == "'self'"
        assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["X-Frame-Options"] == "DENY"
        assert headers["Referrer-Policy"] == "no-referrer"
        assert headers["Cross-Origin-Opener-Policy"] == headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


def test_api_answers_are_not_cached(queuer: FlaskClient, stranger: FlaskClient) -> None:
    answers = [
        queuer.get("/api/v1/batches"),
        queuer.head("/api/v1/batches"),
        queuer.options("/api/v1/batches"),
        queuer.get("/api/v1/batches/99"),
        queuer.delete("/api/v1/batches"),
        queuer.get("/api/v1/batches", headers={"Accept": "text/html"}),
        post_csv(queuer),
        post_csv(queuer, "destination\n"),
        post_csv(queuer, dry_run="1"),
        stranger.get("/api/v1/batches"),
        stranger.get("/api/v1/nothing"),
    ]
    # The client may cache answers with a tag, but revalidates them each time.
    kept = ["private, no-cache" if "ETag" in answer.headers else "no-store" for answer in answers]
    assert [answer.headers["Cache-Control"] for answer in answers] == kept
    assert kept.count("no-store") == len(answers) - 2


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_https_answers_have_strict_transport_security(stranger: FlaskClient, scheme: str) -> None:
    headers = stranger.get("/healthz", base_url=f"{scheme}://localhost").headers
    assert ("Strict-Transport-Security" in headers) == (scheme == "https")


def test_callback_answers_are_not_cached_and_set_no_cookie(stranger: FlaskClient) -> None:
    for answer in (stranger.get(results_path()), stranger.post(results_path(), data=b"{}"), stranger.get("/results/x")):
        assert answer.headers["Cache-Control"] == "no-store"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in answer.headers
