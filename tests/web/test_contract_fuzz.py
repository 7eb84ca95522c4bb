"""Generated requests, valid and invalid, from the API description, against the app and a real Postgres.

Each answer must match the description: status, headers, content type and schema. Invalid requests must be refused,
valid ones accepted, and none answered without a key. `make fuzz-api` runs thousands for each operation.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, settings
from schemathesis import Case, GenerationMode
from schemathesis.schemas import BaseSchema

from receiver.changes.events import Events
from receiver.config import Config
from receiver.database.api_keys import create_key
from receiver.database.pool import Connection
from receiver.queueing.form_fields import LATEST
from receiver.relay.endpoints import create_endpoint
from receiver.relay.sending import Attempt
from receiver.web.api import endpoints, release
from receiver.web.app import close_app, create_app
from receiver.web.openapi import describe
from tests.factories import NOON, deliver, make_batch, phone_number, result_body
from tests.web.asking import CSV, config_for, results_path

pytestmark = [
    pytest.mark.long,
    # Threads of the app use it while a case is generated.
    pytest.mark.filterwarnings("ignore:Do not use the `random` module:hypothesis.errors.HypothesisDeprecationWarning"),
]

LONG_RUN = "FUZZ_CASES" in os.environ
"""Random cases, which are counted. In the test suite the cases are the same each time."""

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

CASES = int(os.environ.get("FUZZ_CASES", "15"))
"""Cases for each operation, in addition to those that test the limits of each parameter."""

# JSON Schema cannot describe rules between fields, future times and CSVs. Requests of the right shape may be refused.
REFUSED_ALL_THE_SAME = ["2xx", "409", "413", "415", "422", "502"]


def described() -> BaseSchema:
    """The description, which needs no database."""
    with TemporaryDirectory() as folder:
        nowhere = f"postgresql://receiver@/receiver?host={folder}"
        app = create_app(config_for(Path(folder), nowhere), nowhere)
        try:
            description = sharpened(describe(app))
        finally:
            close_app(app)
    config = schemathesis.Config.from_dict(
        {
            "generation": {
                "deterministic": not LONG_RUN,
                "max-examples": CASES,
                # Every case has a valid key. schemathesis itself also tries requests without a key.
                "with-security-parameters": False,
            },
            "operations": [
                *(
                    {
                        "include-operation-id": operation,
                        "checks": {"positive_data_acceptance": {"expected-statuses": [*REFUSED_ALL_THE_SAME, "404"]}},
                    }
                    for operation in ("queue_batch", "export_faulty_rows", "follow_up")
                ),
                *(
                    {
                        # Not every text of the right length can be a phone number.
                        "include-operation-id": operation,
                        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "404", "422"]}},
                    }
                    for operation in (
                        *("list_calls", "find_calls", "export_calls_csv", "export_calls_ndjson"),
                        "list_callbacks",
                    )
                ),
                *(
                    {
                        "include-operation-id": operation,
                        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422"]}},
                    }
                    for operation in (
                        *("change_batch", "resolve_submission", "resolve_batch", "cancel_deployment"),
                        *("create_endpoint", "change_endpoint"),  # not every text is an address that is allowed
                        "create_key",
                        # No note contains a NUL.
                        *("acknowledge_callbacks", "acknowledge_batch", "acknowledge_given_up"),
                        *("pause_batch", "resume_batch", "cancel_batch"),
                    )
                ),
                *(
                    {
                        # They continue after their answer, and only some may run at a time.
                        "include-operation-id": operation,
                        "checks": {
                            "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422", "429"]}
                        },
                    }
                    for operation in ("erase_number", "purge")
                ),
                {
                    "include-operation-id": "suppress",
                    "checks": {"positive_data_acceptance": {"expected-statuses": REFUSED_ALL_THE_SAME}},
                },
                *(
                    {
                        # `from` may be after `to`, and a time in the first hours of the year 1 can be before it in UTC.
                        "include-operation-id": operation,
                        "checks": {"positive_data_acceptance": {"expected-statuses": ["2xx", "3xx", "404", "422"]}},
                    }
                    for operation in (
                        *("get_summary", "get_breakdown", "list_batches", "list_audit"),
                        *("export_every_call_csv", "export_every_call_ndjson"),
                    )
                ),
                {
                    # There is no worker, so the answer is 503.
                    "include-operation-id": "get_readiness",
                    "checks": {"not_a_server_error": {"expected-statuses": ["2xx", "4xx", "503"]}},
                },
            ],
        }
    )
    return schemathesis.openapi.from_dict(description, config=config)


def sharpened(description: Any) -> Any:
    """The description with what is accepted, too, and with the rules of bodies. Without them, because of what generated
    clients do: a union of types becomes a class of its own in some languages, and an alternative of required members
    does not compile in others."""
    for chosen in ("ReplayRequest", "AcknowledgeRequest"):
        description["components"]["schemas"][chosen]["oneOf"] = [{"required": ["ids"]}, {"required": ["state"]}]
    description["components"]["schemas"]["RetryRequest"] |= {"minProperties": 1, "maxProperties": 1}
    requests = [schema for schema in description["components"]["schemas"].values() if "additionalProperties" in schema]
    operations = [operation for item in description["paths"].values() for operation in item.values()]
    fields = [field for schema in requests for field in schema["properties"].values()]
    for operation in operations:
        if isinstance(operation, dict):
            fields += [parameter["schema"] for parameter in operation.get("parameters", []) if "schema" in parameter]
    for field in fields:
        if field.get("type") == "boolean":
            field |= {"type": ["integer", "boolean"], "enum": [0, 1, True, False]}
        elif field.get("format") == "date-time":
            # Only years that are accepted: not before the first one, and none that begins with 9.
            del field["format"]
            others = [{"type": "null"}] if "null" in field.pop("type") else []
            moment = {"type": "string", "format": "date-time", "pattern": "^(?!0000)[0-8][0-9]{3}-"}
            seconds = {"type": "integer", "minimum": 0, "maximum": int(LATEST.timestamp())}
            field["anyOf"] = [moment, seconds, *others]
    return description


contract = described()

ENDPOINT = "https://93.184.215.14/"


@pytest.fixture
def config(tmp_path: Path, database_url: str) -> Config:
    return replace(config_for(tmp_path, database_url), rate_limit=0)


@pytest.fixture
def whole(app: Flask) -> WSGIApplication:
    """The app, whose answers are read completely, because a key has at most eight requests in progress."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        body = app(environ, start_response)
        try:
            return [b"".join(body)]
        finally:
            if (close := getattr(body, "close", None)) is not None:
                close()

    return answer


@pytest.fixture(autouse=True)
def without_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody asks the provider to cancel a deployment, so it is not waited for."""
    monkeypatch.setattr(release, "SENDING_SECONDS", 0.0)
    monkeypatch.setattr(endpoints, "send_test", lambda *_: Attempt(NOON, 200, 0, None))


@pytest.fixture
def key(conn: Connection) -> str:
    """The schema, with a database that has batches, calls and callbacks."""
    for index in range(4):
        # Part of the last one is unreleased.
        pace: dict[str, Any] = {"calls_per_minute": 1} if index == 3 else {}
        batch_id = make_batch(conn, [phone_number(index), phone_number(index + 1)], **pace)
        deliver(conn, batch_id, result_body(phone_number(index)), b"nonsense")
    for _ in range(4):
        create_endpoint(conn, {"url": ENDPOINT}, (), by="fuzz")
    events = Events()
    events.replace("call.result", [(1, 1), (1, 2)])
    events.write(conn)
    key = create_key(conn, "fuzz", "admin")
    conn.commit()
    return key


@pytest.fixture
def answered(request: pytest.FixtureRequest) -> Iterator[Counter[int]]:
    """The number of cases by status."""
    answered: Counter[int] = Counter()
    yield answered
    if LONG_RUN:
        statuses = ", ".join(f"{status}: {number}" for status, number in sorted(answered.items()))
        print(f"\n{answered.total():6} {request.node.name} ({statuses})", file=sys.__stderr__)


@contract.parametrize()
@settings(
    max_examples=CASES,
    derandomize=not LONG_RUN,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_answers_match_the_description(
    case: Case[Any], whole: WSGIApplication, key: str, answered: Counter[int]
) -> None:
    case.operation.schema.app = whole
    if case.meta is not None and case.meta.generation.mode is GenerationMode.POSITIVE:
        _aim(case)
    if case.operation.definition.raw["operationId"] == "queue_batch":
        case.headers["Prefer"] = "wait=0"  # there is no worker
    answer = case.call_and_validate(
        app=whole, headers={"Authorization": f"Bearer {key}", "Accept-Encoding": "identity"}
    )
    answered[answer.status_code] += 1


def _aim(case: Case[Any]) -> None:
    """Use existing ids, tokens, cursors and valid CSVs. Random ones would hardly ever match."""
    for name, value in case.path_parameters.items():
        if name != "name":
            case.path_parameters[name] = results_path()[9:] if name == "token" else 1 + int(value) % 5
    if isinstance(case.query, dict):
        case.query.pop("cursor", None)
    body: Any = case.body
    if isinstance(body, dict) and "url" in body and len(str(body["url"])) % 4:
        body["url"] = ENDPOINT
    if isinstance(body, dict) and "csv" in body:
        chance = len(str(body.get("name")))
        if chance % 4:
            body["csv"] = CSV.encode()
            for name in ("start_timestamp", "end_timestamp", "default_region", "max_attempts"):
                body.pop(name, None)
        if chance % 2:
            case.headers.pop("Idempotency-Key", None)  # short keys were used before with other content
