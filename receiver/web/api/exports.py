"""Exports over REST: a batch's calls and its skipped rows as streamed files."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain
from tempfile import TemporaryFile
from typing import IO, Any
from urllib.parse import quote

from flask import Response
from marshmallow import Schema

from receiver.queueing.acceptance import plan_file
from receiver.queueing.form_fields import Flag, says
from receiver.queueing.parameters import BatchParameters, read_parameters
from receiver.queueing.workbook import opened_csv
from receiver.summary import export
from receiver.summary.batches import BatchFilter, get_batch
from receiver.summary.calls import CallFilter
from receiver.web import schemas
from receiver.web.api import Blueprint
from receiver.web.api.batches import number_lookups, read_form
from receiver.web.api.calls import call_filter
from receiver.web.auth import View
from receiver.web.compression import accepts_gzip, gzipped
from receiver.web.reading import reader
from receiver.web.services import services

CSV = "text/csv; charset=utf-8; header=present"
NDJSON = "application/x-ndjson"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"

NAME_LENGTH = 100
"""Characters of the batch's name in a file's name."""

_TEXT = {"type": "string"}

blueprint = Blueprint("exports", tag="calls")


def _file(name: str, query: type[Schema], content_type: str = "text/csv") -> Callable[[View], View]:
    return blueprint.operation(name, "read", _TEXT, query=query, content_type=content_type)


class BomQuery(Schema):
    bom = Flag(load_default=False, metadata=says("1: begin with a byte order mark, so that Excel recognises UTF-8."))


class NdjsonQuery(schemas.CallFilters):
    latest = Flag(
        load_default=False,
        metadata=says(
            "1: each row with the result that it reached through its follow-ups. The filters apply to this result."
        ),
    )


class CsvQuery(NdjsonQuery, BomQuery):
    columns = schemas.one_of(
        ["own"],
        "`own`: only the columns of the uploaded CSV, with cells as they were submitted, ready to be queued. Do not"
        " open such a file in a spreadsheet: a cell may be a formula.",
    )


class EveryCallCsvQuery(schemas.EveryCallQuery, BomQuery):
    pass


@_file("GET /batches/<int:batch_id>/calls.csv", CsvQuery)
def export_calls_csv(query: dict[str, Any], batch_id: int) -> Response:
    """The calls of a batch as CSV

    The columns of the uploaded CSV, then the result columns. UTF-8, streamed. A cell that a spreadsheet would run
    as a formula gets an apostrophe in front. If a result column has the same name as an uploaded column, the result
    column's name gets a prefix.
    """
    own, latest = query.get("columns") == "own", query["latest"]
    blocks = export.export_calls_csv(reader(), batch_id, call_filter(query), own=own, latest=latest)
    return csv_file(blocks, batch_id, "calls", with_mark=query["bom"])


@_file("GET /batches/<int:batch_id>/skipped.csv", BomQuery)
def export_skipped_csv(query: dict[str, Any], batch_id: int) -> Response:
    """The skipped rows of a batch as CSV

    The columns of the uploaded CSV, then the row's number and the reason. Correct the rows and queue them as a new
    batch.
    """
    blocks = export.export_skipped_csv(reader(), batch_id)
    return csv_file(blocks, batch_id, "skipped", with_mark=query["bom"])


@_file("GET /batches/<int:batch_id>/calls.ndjson", NdjsonQuery, NDJSON)
def export_calls_ndjson(query: dict[str, Any], batch_id: int) -> Response:
    """The calls of a batch as NDJSON

    One call per line, with the same fields as in the list of calls. Streamed.
    """
    blocks = export.export_calls_ndjson(reader(), batch_id, call_filter(query), latest=query["latest"])
    return batch_file(blocks, NDJSON, batch_id, "calls.ndjson")


@_file("GET /calls.csv", EveryCallCsvQuery)
def export_every_call_csv(query: dict[str, Any]) -> Response:
    """The calls of all batches as CSV

    The newest batch first: its id, name, external id and labels, the destination, the other columns of the uploaded
    CSV as JSON in one column `variables`, and the result columns. Streamed.
    """
    blocks = export.export_all_csv(reader(), *_of_batches(query))
    return streamed_file(_marked(blocks, with_mark=query["bom"]), CSV, "calls.csv")


@_file("GET /calls.ndjson", schemas.EveryCallQuery, NDJSON)
def export_every_call_ndjson(query: dict[str, Any]) -> Response:
    """The calls of all batches as NDJSON

    One call per line, the newest batch first, with the same fields as in the list of calls, and with the batch's
    `batch_name`, `external_id` and `labels`. Streamed.
    """
    return streamed_file(export.export_all_ndjson(reader(), *_of_batches(query)), NDJSON, "calls.ndjson")


@blueprint.operation("POST /batches/errors.csv", "queue", _TEXT, tag="batches", content_type="text/csv")
def export_faulty_rows() -> Response:
    """The rows of a CSV that cannot be queued

    Takes what queueing takes, and stores and sends nothing. Answers all rows that a preview counts in
    `errors_total`: their own columns, then the row, its line in a spreadsheet, and the reason. Correct the rows and
    queue them.
    """
    csv, form = read_form()
    parameters = read_parameters(form, services().config.default_region)
    with opened_csv(csv.stream) as text:
        return faulty_rows(text, parameters, csv.filename or "")


def faulty_rows(csv: IO[bytes], parameters: BatchParameters, file_name: str) -> Response:
    """A download of the file's faulty rows. It begins when all of them are found. Raises InvalidInput."""
    found = TemporaryFile()
    try:
        plan = plan_file(csv, parameters, services().limits, *number_lookups(parameters))
        found.writelines(export.export_faulty_csv(plan))
        found.seek(0)
    except BaseException:
        found.close()
        raise
    blocks = iter(partial(found.read, 1 << 16), b"")
    answer = streamed_file(blocks, CSV, f"{_stem(file_name)} errors.csv")
    answer.call_on_close(found.close)
    return answer


def csv_file(blocks: Iterator[bytes], batch_id: int, what: str, *, with_mark: bool) -> Response:
    return batch_file(_marked(blocks, with_mark=with_mark), CSV, batch_id, f"{what}.csv")


def batch_file(blocks: Iterator[bytes], content_type: str, batch_id: int, what: str) -> Response:
    """A download that is named after the batch."""
    name = reader().read(get_batch, batch_id, with_submissions=False).name
    return streamed_file(blocks, content_type, f"{_stem(name)} {batch_id} {what}")


def streamed_file(blocks: Iterable[bytes], content_type: str, file_name: str) -> Response:
    """A download whose `blocks` are sent as they are produced, compressed if the client accepts it. A HEAD request
    produces none."""
    answer = Response(gzipped(blocks) if accepts_gzip() else blocks, content_type=content_type)
    answer.vary.add("Accept-Encoding")
    if accepts_gzip():
        answer.headers["Content-Encoding"] = "gzip"
    answer.headers["Content-Disposition"] = content_disposition(file_name.strip())
    return answer


def _marked(blocks: Iterator[bytes], *, with_mark: bool) -> Iterator[bytes]:
    """`with_mark`: begin with U+FEFF, by which Excel recognises UTF-8."""
    return chain((BYTE_ORDER_MARK,), blocks) if with_mark else blocks


def _of_batches(query: dict[str, Any]) -> tuple[BatchFilter, CallFilter]:
    conditions = {name: value for name, value in query.items() if name not in ("outcome", "bom")}
    return BatchFilter(**conditions), CallFilter(outcome=query.get("outcome"))


def content_disposition(file_name: str) -> str:
    """A download's name (RFC 6266), and its ASCII part for clients that do not support `filename*`."""
    plain = unicodedata.normalize("NFKD", file_name).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^A-Za-z0-9 ._()-]", "_", plain).strip()
    # The characters that need no escape (RFC 8187, 3.2.1).
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(file_name, safe='!#$&+.^_`|~-')}"


def _stem(batch_name: str) -> str:
    """The batch's name without characters that some operating system refuses, and without a leading or trailing dot."""
    stem = re.sub(r"\.(csv|txt|tsv|xlsx|ods)$", "", batch_name, flags=re.IGNORECASE)
    stem = re.sub(r'[<>:"/\\|?*]', "_", stem)
    shown = "".join(character for character in stem if unicodedata.category(character)[0] != "C")
    return shown[:NAME_LENGTH].strip(" .")
