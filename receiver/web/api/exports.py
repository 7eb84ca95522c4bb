"""Exports over REST: a batch's calls and its skipped rows as streamed files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain
from typing import Any
from urllib.parse import quote

from flask import Response
from flask.views import MethodView
from marshmallow import Schema

from receiver.queueing.parameters import Flag, says
from receiver.summary.batches import get_batch
from receiver.summary.export import export_calls_csv, export_calls_ndjson, export_skipped_csv
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.auth import requires
from receiver.web.reading import reader

CSV = "text/csv; charset=utf-8; header=present"
NDJSON = "application/x-ndjson"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NAME_LENGTH = 100
"""Characters of the batch's name in a file's name."""

_TEXT = {"type": "string"}

blueprint = Blueprint("exports", __name__)


class CsvQuery(Schema):
    bom = Flag(load_default=False, metadata=says("1: begin with a byte order mark, so that Excel recognises UTF-8."))


@blueprint.route("/batches/<int:batch_id>/calls.csv")
class CallsCsv(MethodView):
    @requires("read")
    @blueprint.arguments(CsvQuery, location="query")
    @blueprint.response(200, _TEXT, content_type="text/csv")
    @blueprint.doc(operationId="export_calls_csv", tags=["calls"])
    def get(self, query: dict[str, Any], batch_id: int) -> Response:
        """All calls of a batch as CSV

        The columns of the uploaded CSV, then the result columns. UTF-8, streamed. A cell that a spreadsheet would run
        as a formula gets an apostrophe in front. If a result column has the same name as an uploaded column, the result
        column's name gets a prefix.
        """
        blocks = export_calls_csv(reader(), batch_id)
        return csv_file(blocks, batch_id, "calls", with_mark=query["bom"])


@blueprint.route("/batches/<int:batch_id>/skipped.csv")
class SkippedCsv(MethodView):
    @requires("read")
    @blueprint.arguments(CsvQuery, location="query")
    @blueprint.response(200, _TEXT, content_type="text/csv")
    @blueprint.doc(operationId="export_skipped_csv", tags=["calls"])
    def get(self, query: dict[str, Any], batch_id: int) -> Response:
        """The skipped rows of a batch as CSV

        The columns of the uploaded CSV, then the row's number and the reason. Correct the rows and queue them as a new
        batch.
        """
        blocks = export_skipped_csv(reader(), batch_id)
        return csv_file(blocks, batch_id, "skipped", with_mark=query["bom"])


@blueprint.route("/batches/<int:batch_id>/calls.ndjson")
class CallsNdjson(MethodView):
    @requires("read")
    @blueprint.arguments(schemas.NoQuery, location="query", as_kwargs=True)
    @blueprint.response(200, _TEXT, content_type=NDJSON)
    @blueprint.doc(operationId="export_calls_ndjson", tags=["calls"])
    def get(self, batch_id: int) -> Response:
        """All calls of a batch as NDJSON

        One call per line, with the same fields as in the list of calls. Streamed.
        """
        return streamed_file(export_calls_ndjson(reader(), batch_id), NDJSON, batch_id, "calls.ndjson")


def csv_file(blocks: Iterator[bytes], batch_id: int, what: str, *, with_mark: bool) -> Response:
    """`with_mark`: begin with U+FEFF, by which Excel recognises UTF-8."""
    marked = chain((BYTE_ORDER_MARK,), blocks) if with_mark else blocks
    return streamed_file(marked, CSV, batch_id, f"{what}.csv")


def streamed_file(blocks: Iterator[bytes], content_type: str, batch_id: int, what: str) -> Response:
    """A download whose `blocks` are sent as they are produced. A HEAD request produces none."""
    name = reader().read(get_batch, batch_id, with_submissions=False).name
    answer = Response(blocks, content_type=content_type)
    answer.headers["Content-Disposition"] = content_disposition(f"{_stem(name)} {batch_id} {what}".strip())
    return answer


def content_disposition(file_name: str) -> str:
    """A download's name (RFC 6266), and its ASCII part for clients that do not support `filename*`."""
    plain = unicodedata.normalize("NFKD", file_name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", plain).strip()
    # The characters that need no escape (RFC 8187, 3.2.1).
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='!#$&+.^_`|~-')}"


def _stem(batch_name: str) -> str:
    """The batch's name without characters that some operating system refuses, and without a leading or trailing dot."""
    stem = re.sub(r"\.(csv|txt|tsv)$", "", batch_name, flags=re.IGNORECASE)
    stem = re.sub(r'[<>:"/\\|?*]', "_", stem)
    shown = "".join(character for character in stem if unicodedata.category(character)[0] != "C")
    return shown[:NAME_LENGTH].strip(" .")
