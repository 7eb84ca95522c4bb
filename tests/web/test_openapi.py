"""`/openapi.json`: valid, complete and correct."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import OpenAPIV31SpecValidator

from receiver.config import Config
from receiver.database.pool import Connection
from receiver.model import BATCH_STATES
from receiver.queueing.parameters import BatchForm
from receiver.web import problems
from receiver.web.app import create_app
from receiver.web.openapi import describe
from receiver.web.rate_limit import TokenBuckets
from receiver.web.reference.codes import CODES
from tests.web.conftest import app_that_has_no_database, patient_app
from tests.web.real_answers import EXAMPLES, collect, timeless
from tests.web.test_auth import api_views

Description = dict[str, Any]

ELSEWHERE = {
    "invalid_cursor": 422,
    "request_timeout": 408,
    "conflict": 409,
    "unavailable": 503,
}
"""Codes that no API operation answers: those of faults, and of werkzeug's errors."""


@pytest.fixture
def description(app: Flask) -> Description:
    answer = app.test_client().get("/openapi.json")
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    found: Description = json.loads(answer.data)
    return found


def operations(description: Description) -> Iterator[tuple[str, str, Description]]:
    """(path, method, operation), the operation's own parameters after its path's."""
    for path, item in description["paths"].items():
        for method in ("get", "head", "post", "put", "patch", "delete"):
            if method in item:
                operation = item[method]
                shared = item.get("parameters", [])
                yield path, method, {**operation, "parameters": [*shared, *operation.get("parameters", [])]}


def resolved(description: Description, node: Description) -> Description:
    """The target of a reference, or the node itself."""
    if "$ref" not in node:
        return node
    found: Any = description
    for part in node["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def conforms(description: Description, schema: Description, value: Any) -> list[str]:
    """The faults of a value according to a schema."""
    validator = OAS31Validator(
        {**schema, "components": description["components"]}, format_checker=OAS31Validator.FORMAT_CHECKER
    )
    return [error.message for error in validator.iter_errors(value)]


def test_is_valid_openapi_3_1(description: Description) -> None:
    assert description["openapi"].startswith("3.1.")
    OpenAPIV31SpecValidator(description).validate()


def test_is_answered_304_when_it_has_not_changed(app: Flask) -> None:
    client = app.test_client()
    etag = client.get("/openapi.json").headers["ETag"]
    assert client.get("/openapi.json", headers={"If-None-Match": etag}).status_code == 304


def test_description_has_no_external_references(app: Flask) -> None:
    text = app.test_client().get("/openapi.json").text
    assert "://" not in text.replace("https://crm.example.com", "")  # the endpoint of the example
    assert describe(app)["servers"] == [{"url": "/", "description": "This installation."}]


def test_describes_every_view_of_the_api_with_its_scope(app: Flask, description: Description) -> None:
    described = {
        (method.upper(), re.sub(r"\{\w+\}", "1", path)): operation
        for path, method, operation in operations(description)
    }
    views = list(api_views(app))
    assert {(method, path) for method, path, _ in views} == {key for key in described if key[1].startswith("/api/")}
    for method, path, scope in views:
        assert described[method, path]["security"] == [{"ApiKey": []}]
        assert f"Needs a key of scope `{scope}`." in described[method, path]["description"]


def test_every_operation_has_an_id_a_summary_a_tag_and_answers(description: Description) -> None:
    names = [operation["operationId"] for *_, operation in operations(description)]
    assert len(names) == len(set(names)) >= 13
    tags = {tag["name"]: tag["description"] for tag in description["tags"]}
    for path, method, operation in operations(description):
        assert operation["summary"], (path, method)
        assert set(operation["tags"]) <= set(tags)
        for answer in operation["responses"].values():
            assert resolved(description, answer)["description"]
    assert {tag for *_, operation in operations(description) for tag in operation["tags"]} == set(tags)


def test_every_parameter_is_described_and_bounded(description: Description) -> None:
    for path, _, operation in operations(description):
        for parameter in operation["parameters"]:
            where = (path, parameter["name"])
            assert parameter["description"], where
            # Unusable values of these two are ignored (RFC 7240, 2; RFC 9110, 13.1.2).
            assert is_bounded(parameter["schema"]) or parameter["name"] in ("Prefer", "If-None-Match"), where
    for name, field in description["components"]["schemas"]["BatchForm"]["properties"].items():
        assert field["description"], name
        assert is_bounded(field) or field.get("format") == "binary", name


def is_bounded(schema: Description) -> bool:
    """Whether the schema restricts the values of its type."""
    if "anyOf" in schema:
        return all(is_bounded(choice) for choice in schema["anyOf"])
    if schema["type"] == "integer":
        return "enum" in schema or {"minimum", "maximum"} <= set(schema)
    return schema["type"] == "boolean" or bool(
        {"enum", "maxLength", "pattern", "format", "maxProperties"} & set(schema)
    )


def test_every_answered_field_is_described(description: Description) -> None:
    for name, schema in description["components"]["schemas"].items():
        for field, shape in schema.get("properties", {}).items():
            assert shape.get("description") or shape.get("items"), (name, field)


def test_answers_are_open_and_requests_are_closed(description: Description) -> None:
    """Later releases add fields and words to answers. A generated client must go on reading them."""
    schemas = description["components"]["schemas"]
    for name, schema in schemas.items():
        is_request = name.endswith(("Request", "Form", "Changes", "Noted", "DeploymentCancel", "Resolution"))
        assert ("additionalProperties" in schema) == is_request, name
        if not is_request:
            assert [field for field, shape in schema.get("properties", {}).items() if "enum" in shape] == [], name
    assert schemas["Batch"]["properties"]["state"]["x-extensible-enum"] == list(BATCH_STATES)


def test_no_field_of_a_body_has_a_default(description: Description) -> None:
    """openapi-typescript requires a property that has one."""
    for name, schema in description["components"]["schemas"].items():
        assert [field for field, shape in schema.get("properties", {}).items() if "default" in shape] == [], name
    on_invalid = description["components"]["schemas"]["BatchForm"]["properties"]["on_invalid"]
    assert on_invalid["description"].endswith('Default: `"refuse"`.')


def test_described_form_is_the_validated_one(description: Description) -> None:
    form = description["components"]["schemas"]["BatchForm"]
    assert list(form["properties"]) == ["csv", *BatchForm().fields]
    assert form["required"] == ["csv", "application_id", "deployment_id"]
    assert form["additionalProperties"] is False
    assert form["properties"]["max_attempts"] | {"description": ""} == {
        "type": "integer",
        "minimum": 1,
        "maximum": 10,
        "description": "",
    }
    assert form["properties"]["on_duplicate"]["enum"] == ["refuse", "skip", "keep"]


def test_every_code_that_the_api_answers_is_described(description: Description) -> None:
    assert {code: known.status for code, known in CODES.items()} | ELSEWHERE == problems.STATUS_OF_CODE
    answers = [answer for *_, operation in operations(description) for answer in operation["responses"].values()]
    told = "\n".join(resolved(description, answer)["description"] for answer in answers)
    assert [code for code in CODES if f"`{code}`: " not in told] == []
    for path, _, operation in operations(description):
        if path.startswith("/api/"):
            assert {"401", "406", "422", "500", "503"} <= set(operation["responses"])
            for status, answer in operation["responses"].items():
                if int(status) >= 400:
                    assert list(resolved(description, answer)["content"]) == ["application/problem+json"]


@pytest.fixture
def limited(config: Config, database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    """An app that allows one request per minute, with a stopped clock."""
    monkeypatch.setattr(TokenBuckets.__init__, "__defaults__", (lambda: 1000.0,))
    with patient_app(replace(config, rate_limit=1), database_url) as app:
        yield app


@pytest.fixture
def app_without_database(tmp_path: Path) -> Iterator[Flask]:
    """With its own routes, because the test adds one."""
    with app_that_has_no_database(tmp_path, create_app) as app:
        yield app


def test_examples_are_real_answers(app: Flask, limited: Flask, app_without_database: Flask, conn: Connection) -> None:
    answers = collect(app, limited, app_without_database, conn)
    if os.environ.get("EXAMPLES_WRITE"):
        EXAMPLES.write_text(json.dumps(answers, ensure_ascii=False, indent=1) + "\n")
    assert timeless(json.loads(EXAMPLES.read_text())) == timeless(answers)


def test_examples_conform_to_their_schemas(description: Description) -> None:
    shown = 0
    for path, method, operation in operations(description):
        for status, answer in operation["responses"].items():
            for media_type, content in resolved(description, answer).get("content", {}).items():
                examples = [content["example"]] if "example" in content else []
                examples += [example["value"] for example in content.get("examples", {}).values()]
                for example in examples:
                    assert conforms(description, content["schema"], example) == [], (path, method, status)
                    assert unknown_fields(description, content["schema"], example) == [], (path, method, status)
                    shown += 1
                if path.startswith("/api/") and int(status) < 300:
                    assert examples, (path, method, status, media_type)
    assert shown > 50


def unknown_fields(description: Description, schema: Description, value: Any, where: str = "") -> list[str]:
    """Fields of a value that its schema does not have. Every field must be described."""
    schema = resolved(description, schema)
    if isinstance(value, list):
        if "items" not in schema:  # the shape of another answer
            return [where]
        return [name for item in value for name in unknown_fields(description, schema["items"], item, where)]
    if not isinstance(value, dict) or "additionalProperties" in schema:
        return []
    if choices := schema.get("anyOf") or schema.get("oneOf"):  # of several shapes, the one that it fits best
        shapes = [each for each in choices if each != {"type": "null"}]
        return min((unknown_fields(description, each, value, where) for each in shapes), key=len)
    unknown = [f"{where}.{name}" for name in value if name not in schema["properties"]]
    return unknown + [
        found
        for name, member in value.items()
        if name in schema["properties"]
        for found in unknown_fields(description, schema["properties"][name], member, f"{where}.{name}")
    ]
