"""Multipart forms: other parsers read our requests correctly, and a form that we receive is accepted or refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from email import message_from_bytes, policy
from io import BytesIO
from typing import cast

from flask import Flask, request
from werkzeug.exceptions import HTTPException
from werkzeug.formparser import parse_form_data

from receiver.errors import InvalidInput
from receiver.queueing.acceptance import Limits, preview, request_digest
from receiver.queueing.parameters import read_parameters
from receiver.release.multipart import CsvError, multipart
from receiver.web.api.batches import read_form
from receiver.web.app import FORM_FIELD_BYTES, UPLOAD_BYTES
from receiver.web.uploads import UploadRequest
from tests.fuzz.envelope import join_input, split_input

NAMES = ("result_url", "start_timestamp", "end_timestamp", "max_attempts", "reattempt_wait", "is_pci")
_MAX_BLOCK = (256 << 10) + 4096


def check_multipart_sent(inputs: bytes) -> None:
    """The input: a line with the value of each field, and the CSV, which is sent in pieces."""
    values, content = split_input(inputs, len(NAMES))
    fields = {
        name: value.encode("utf-8", "replace").decode() for name, value in zip(NAMES, values, strict=True) if value
    }
    size = len(content) % 97 + 1
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    body = multipart(fields, iter(pieces), len(content))
    blocks = list(body.blocks)
    whole = b"".join(blocks)
    assert len(whole) == body.length and max(map(len, blocks)) <= _MAX_BLOCK
    content_type = f"multipart/form-data; boundary={body.boundary}"

    environ = {"REQUEST_METHOD": "POST", "CONTENT_TYPE": content_type, "CONTENT_LENGTH": str(len(whole))}
    _, form, files = parse_form_data({**environ, "wsgi.input": BytesIO(whole)}, silent=False)
    assert form.to_dict() == fields and list(form) == list(fields)
    assert list(files) == ["csv"] and files["csv"].filename == "contacts.csv"
    with closing(files["csv"]) as csv:
        assert csv.read() == content

    message = message_from_bytes(f"Content-Type: {content_type}\r\n\r\n".encode() + whole, policy=policy.HTTP)
    parts = [(part.get_param("name", header="content-disposition"), part) for part in message.iter_parts()]
    assert [name for name, _ in parts] == [*fields, "csv"]
    assert parts[-1][1].get_payload(decode=True) == content

    for wrong in (len(content) + 1, len(content) - 1):
        if wrong >= 0:
            try:
                b"".join(multipart(fields, iter(pieces), wrong).blocks)
            except CsvError:
                continue
            raise AssertionError(f"{len(content)} bytes were accepted as {wrong}")


_app = Flask("forms", static_folder=None)
_app.request_class = UploadRequest
_app.config.update(
    MAX_CONTENT_LENGTH=UPLOAD_BYTES, MAX_FORM_MEMORY_SIZE=FORM_FIELD_BYTES, MAX_FORM_PARTS=100
)  # the same as in create_app


def check_form_received(inputs: bytes) -> None:
    """The input: a line with the content type, and the body of a request to queue a batch, which is previewed."""
    (content_type,), body = split_input(inputs, 1)
    environ = {
        "REQUEST_METHOD": "POST",
        "SERVER_NAME": "localhost",
        "SERVER_PORT": "80",
        "wsgi.url_scheme": "http",
        "PATH_INFO": "/api/v1/batches",
        "CONTENT_TYPE": content_type.encode("utf-8", "surrogateescape").decode("latin-1"),
        "CONTENT_LENGTH": str(len(body)),
        "wsgi.input": BytesIO(body),
    }
    with _app.request_context(environ):
        streams = cast("UploadRequest", request)._begun
        try:
            csv, form = read_form()
            assert all(isinstance(value, str) for value in form.values())
            parameters = read_parameters(form, "US", csv.filename or "")
            assert len(request_digest(csv.stream, form)) == 32
            assert "\0" not in parameters.name and len(parameters.name) <= 200
            parameters.name.encode()
            preview(csv.stream, parameters, Limits(10_000, 3600))
        except InvalidInput as error:
            assert 0 < len(error.faults) <= error.faults_total
            assert all(fault.where and fault.message.isprintable() for fault in error.faults)
        except HTTPException as error:
            assert error.code in (400, 413)
        request.close()
        assert all(stream.closed for stream in streams)


def samples_sent() -> Iterator[bytes]:
    yield join_input(
        "https://calls.example/results/42-7.x", "1700000000", "", "3", "300", "1", "destination\r\n6175551234\r\n"
    )
    yield join_input("", "ä\0", "", "\r", "--", "", "\r\n--")


def samples_received() -> Iterator[bytes]:
    for csv in ("destination,a\n6175551234,b\n", 'destination;a\r\n6175551234;"b\r\n--b"\r\n'):
        fields = {"application_id": "7", "deployment_id": "3", "name": "ä", "on_invalid": "skip"}
        body = multipart(fields, [csv.encode()], len(csv.encode()))
        whole = b"".join(body.blocks).replace(
            body.boundary.encode(), b"B"
        )  # so that the sample is the same in every run
        yield join_input("multipart/form-data; boundary=B", whole)
    part = '--b\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    yield join_input(
        "multipart/form-data; boundary=b",
        part.format("application_id", "", "7")
        + part.format("csv", "; filename*=utf-8''%F0x.csv", "destination\n911")
        + "--b--",
    )
    yield join_input("application/x-www-form-urlencoded", "application_id=7&deployment_id=%00&csv=x")
