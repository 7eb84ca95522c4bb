"""The API's description (OpenAPI 3.1), generated from the schemas of requests and answers.

flask-smorest generates the paths under `/api/v1` with their parameters and answers from the views' schemas. This module
adds what many operations share: the key and its scope, the problems, headers, samples, recorded answers.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from flask import Flask
from flask_smorest import Api
from marshmallow import fields

from receiver.database.api_keys import NAME_LENGTH
from receiver.queueing.form_fields import LARGEST_ID, MOST_LABELS, CallingDays, CallingHours, Flag, Labels, Timestamp
from receiver.queueing.parameters import BatchForm
from receiver.web.api.suppressions import SuppressionRequest
from receiver.web.reference.codes import CODES, EVERYWHERE, HEADERS, OF_BODY, OF_OPERATION
from receiver.web.reference.outside import operations_paths, results_path
from receiver.web.reference.samples import SAMPLES
from receiver.web.reference.shared import (
    CSV_FIELD,
    FEED_PREFER,
    IF_NONE_MATCH,
    INTRODUCTION,
    METRICS_SECURITY_SCHEME,
    PATH_PARAMETERS,
    READ_AT_REPLICA,
    REQUEST_HEADERS,
    RESPONSE_HEADERS,
    SECURITY_SCHEME,
    TAGS,
    Description,
)
from receiver.web.schemas import ConflictProblem, InvalidProblem, Moment, Problem, RefusedProblem

API = "/api/v1"

PROBLEM = "application/problem+json"

_PATH_PARAMETER = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")


def open_api(app: Flask) -> Api:
    """flask-smorest for this app, with the descriptions of our own fields."""
    api = Api(app)
    api.DEFAULT_ERROR_RESPONSE_NAME = None
    api.register_field(Moment, "string", "date-time")
    api.register_field(Timestamp, None, None)
    api.ma_plugin.converter.add_attribute_function(_own_field)
    for schema in (Problem, InvalidProblem, ConflictProblem, RefusedProblem):
        api.spec.components.schema(schema.__name__, schema=schema())
    api.spec.components.schema("BatchForm", schema=BatchForm())
    api.spec.components.schema("SuppressionRequest", schema=SuppressionRequest())
    return api


def describe(app: Flask) -> Description:
    """The complete description of an app whose blueprints are registered."""
    generated = deepcopy(app.extensions["flask-smorest"]["apis"][""]["ext_obj"].spec.to_dict())
    views = dict(_views(app))
    examples = _examples()
    paths: Description = {}
    for path, item in generated["paths"].items():
        paths[path] = item
        for parameter in item.get("parameters", []):
            _describe_path_parameter(parameter)
        for method, operation in _operations(item):
            name = operation["operationId"]
            view = views[path, method]
            if name in ("queue_batch", "export_faulty_rows"):
                _describe_batch_form(operation)
            if name in ("queue_batch", "follow_up"):
                _describe_queueing(operation, generated["components"]["schemas"])
            if name == "list_results":
                operation["parameters"].append(FEED_PREFER)
            if name in ("create_endpoint", "create_key"):
                operation["responses"]["201"]["headers"] = _headers("Location")
            if name in ("erase_number", "purge"):
                operation["parameters"] = [*operation.get("parameters", []), REQUEST_HEADERS[1]]
                for status in ("200", "202"):
                    operation["responses"][status]["headers"] = _headers("Location")
            if name == "suppress":
                _describe_suppressing(operation)
            if hasattr(view, "revalidated"):
                _describe_revalidation(operation)
            codes = {*EVERYWHERE, *OF_OPERATION.get(name, ())}
            codes.update(OF_BODY if "requestBody" in operation else ())
            codes.update(["not_found"] if item.get("parameters") else ())
            codes.update(["forbidden"] if view.required_scope != "read" else ())
            _complete(operation, view.required_scope, codes, examples.get(name, {}))
    paths |= {"/results/{token}": results_path(), **operations_paths()}
    used = {tag for item in paths.values() for _, operation in _operations(item) for tag in operation["tags"]}
    schemas = generated["components"]["schemas"]
    form = schemas["BatchForm"]
    form["properties"] = {"csv": CSV_FIELD, **form["properties"]}
    form["required"] = ["csv", *form["required"]]
    for schema in schemas.values():
        for field in schema.get("properties", {}).values():
            if "default" in field:  # generated clients would require the field
                field["description"] += f" Default: `{json.dumps(field.pop('default'))}`."
    used_responses = set(re.findall(r"#/components/responses/(\w+)", json.dumps(paths)))
    return {
        "openapi": "3.1.0",
        "info": {
            "title": app.config["API_TITLE"],
            "version": app.config["API_VERSION"],
            "summary": "Queue phone calls and see the result of each.",
            "description": INTRODUCTION,
            "contact": {"name": "The operators of this installation"},
            "license": {"name": "MIT", "identifier": "MIT"},
        },
        "servers": [{"url": "/", "description": "This installation."}],
        "tags": [{"name": name, "description": text} for name, text in TAGS.items() if name in used],
        "paths": paths,
        "components": {
            "securitySchemes": {"ApiKey": SECURITY_SCHEME, "MetricsKey": METRICS_SECURITY_SCHEME},
            "headers": RESPONSE_HEADERS,
            "responses": {code: _problem((code,), examples["problems"]) for code in CODES if code in used_responses},
            "schemas": {name: schema for name, schema in sorted(schemas.items()) if name not in _UNUSED},
        },
    }


_UNUSED = ("Error", "PaginationMetadata")
"""Schemas of flask-smorest that no answer here uses."""


def _complete(operation: Description, scope: str, codes: set[str], examples: Description) -> None:
    """Add to an operation under `/api/v1` its scope, its problems and recorded answers."""
    name = operation["operationId"]
    operation["security"] = [{"ApiKey": []}]
    operation["description"] = f"{operation.get('description', '')}\n\nNeeds a key of scope `{scope}`.".strip()
    del operation["responses"]["422"]  # flask-smorest's own, which has another schema
    of_status: dict[int, list[str]] = {}
    for code in (code for code in CODES if code in codes):
        of_status.setdefault(CODES[code].status, []).append(code)
    responses = operation["responses"]
    for status, answer in examples.items():
        for media_type in responses[status]["content"].values():
            media_type["example"] = answer
    done = next(responses[status] for status in ("200", "201", "204") if status in responses)
    headers: Description = done.get("headers", {})
    if "application/json" not in done.get("content", {"application/json": {}}):
        headers |= _headers("Content-Disposition")
    if name in READ_AT_REPLICA:
        headers |= _headers("Read-From", "Replica-Lag")
    if headers:
        done["headers"] = headers
    for number, listed in of_status.items():
        alone = {"$ref": f"#/components/responses/{listed[0]}"}
        responses[str(number)] = alone if len(listed) == 1 else _problem(tuple(listed), _examples()["problems"])
    operation["responses"] = dict(sorted(responses.items()))
    if name in SAMPLES:
        operation["x-codeSamples"] = [
            {"lang": "Shell" if language == "curl" else language, "label": language, "source": source}
            for language, source in SAMPLES[name].items()
        ]


def _problem(codes: tuple[str, ...], examples: Description) -> Description:
    """The answer to failures that share a status."""
    schema = "Problem"
    if CODES[codes[0]].status == 422:
        schema = "InvalidProblem"
    elif CODES[codes[0]].status == 409:
        schema = "ConflictProblem"
    elif codes[0] in ("provider_refused", "database_unavailable"):
        schema = "RefusedProblem"
    content: Description = {"schema": {"$ref": f"#/components/schemas/{schema}"}}
    given = {code: {"value": examples[code]} for code in codes if code in examples}
    if given:
        content["examples"] = given
    answer: Description = {
        "description": "\n".join(f"`{code}`: {CODES[code].when} {CODES[code].remedy}" for code in codes),
        "content": {PROBLEM: content},
    }
    headers = _headers(*(name for code in codes for name in HEADERS.get(code, ())))
    return answer | ({"headers": headers} if headers else {})


def _describe_queueing(operation: Description, schemas: Description) -> None:
    operation["parameters"] = [*operation.get("parameters", []), *REQUEST_HEADERS]
    # One schema for all three: openapi-generator knows only that of the lowest status.
    answers = [operation["responses"][status]["content"]["application/json"] for status in ("201", "200", "202")]
    batch, preview, _ = (answer["schema"] for answer in answers)
    name = f"{batch['$ref'].rpartition('/')[2]}OrPreview"
    schemas[name] = {"oneOf": [batch, preview], "description": "The batch; with `dry_run`, a preview."}
    for answer in answers:
        answer["schema"] = {"$ref": f"#/components/schemas/{name}"}
    for status in ("201", "202"):
        operation["responses"][status]["headers"] = _headers("Location", "Idempotency-Replayed")


def _describe_batch_form(operation: Description) -> None:
    operation["requestBody"] = {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {"$ref": "#/components/schemas/BatchForm"},
                "encoding": {"csv": {"contentType": "text/csv"}, "labels": {"contentType": "application/json"}},
            }
        },
    }


def _describe_suppressing(operation: Description) -> None:
    # Without the form for a file: generators cannot express two content types of one body.
    schema = {"$ref": "#/components/schemas/SuppressionRequest"}
    operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schema}}}
    entry = operation["responses"]["201"]["content"]["application/json"]["schema"]
    media_type = operation["responses"]["200"]["content"]["application/json"]
    media_type["schema"] = {"anyOf": [media_type["schema"], entry]}


def _describe_revalidation(operation: Description) -> None:
    operation["parameters"] = [*operation.get("parameters", []), IF_NONE_MATCH]
    operation["responses"]["200"]["headers"] = _headers("ETag")
    operation["responses"]["304"] = {
        "description": "Not modified: use the answer that you have.",
        "headers": _headers("ETag"),
    }


def _headers(*names: str) -> Description:
    return {name: {"$ref": f"#/components/headers/{name}"} for name in names}


def _describe_path_parameter(parameter: Description) -> None:
    parameter["description"] = PATH_PARAMETERS[parameter["name"]]
    whole = parameter["schema"]["type"] == "integer"
    parameter["schema"] |= (
        {"minimum": 1, "maximum": LARGEST_ID} if whole else {"minLength": 1, "maxLength": NAME_LENGTH}
    )


def _views(app: Flask) -> Iterator[tuple[tuple[str, str], Any]]:
    """The views under `/api/v1`, by their path as OpenAPI writes it and their method."""
    for rule in app.url_map.iter_rules():
        if rule.rule.startswith(API):
            (method,) = (rule.methods or set()) - {"HEAD", "OPTIONS"}
            yield (_PATH_PARAMETER.sub(r"{\1}", rule.rule), method.lower()), app.view_functions[rule.endpoint]


def _operations(item: Description) -> list[tuple[str, Description]]:
    return [(method, item[method]) for method in ("get", "head", "post", "put", "patch", "delete") if method in item]


def _own_field(_: Any, field: fields.Field[Any], **__: Any) -> Description:
    """The description of our own fields (an attribute function of apispec's converter)."""
    if isinstance(field, Timestamp):
        # Unix seconds, too, but generated clients need one type.
        return {"type": ["string", "null"] if field.allow_none else "string", "format": "date-time"}
    if isinstance(field, Flag):
        return {"type": "boolean"}  # 0 and 1, too
    if isinstance(field, CallingHours | CallingDays):
        return {"type": "string"}
    if isinstance(field, Labels):
        return {
            "type": "object",
            "maxProperties": MOST_LABELS,
            "propertyNames": {"pattern": "^[^:\\x00-\\x1f\\x7f]{1,64}$"},
            "additionalProperties": {"type": "string", "pattern": "^[^\\x00-\\x1f\\x7f]{1,255}$"},
        }
    return {}


@cache
def _examples() -> Description:
    """Recorded answers, by operation and status, and problems by code. A test records and checks them."""
    content: Description = json.loads((Path(__file__).parent / "reference" / "examples.json").read_text())
    return content
