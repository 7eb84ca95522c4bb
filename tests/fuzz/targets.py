"""All targets by name, and the time and memory limits for each input."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import answers, callbacks, csv_files, destinations, forms, requests, tokens, workbooks

CORPUS = Path(__file__).parent / "corpus"
INPUT_BYTES = 65_536
SECONDS = 1.0
"""The limit of processor time for one input. Measuring the coverage takes most of it."""
MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """`check` fails if a guarantee is broken; `samples` are valid inputs that reach most code; `words` are libFuzzer's
    dictionary."""

    name: str
    check: Callable[[bytes], None]
    samples: Callable[[], Iterable[bytes]]
    words: tuple[str, ...] = ()
    examples: int = 100
    """How many inputs `make test` generates."""

    def corpus(self) -> list[Path]:
        """Stored inputs: those that cover the code, and every one that has failed."""
        return sorted((CORPUS / self.name).iterdir())


_FIELDS = (
    "phone_number status attempts max_attempts queued_timestamp start_timestamp end_timestamp duration events event"
    " timestamp call_details result item completed failed canceled rejected dialing connected disconnected"
).split()

TARGETS = {
    target.name: target
    for target in (
        Target(
            "callback_body",
            callbacks.check_callback_body,
            callbacks.samples,
            (
                *_FIELDS,
                "6175551234",
                "1700000000",
                "2026-03-01T12:00:00Z",
                "%5B",
                "%7B",
                "][",
                "--b\n",
                "1e999999",
                "\u2003",
                "\x85",
                "null",
            ),
        ),
        Target(
            "csv_file",
            csv_files.check_csv_file,
            csv_files.samples,
            ("destination", "6175551234", "6175551299", "\r\n", '""', '","', "\ufeff", ";ani=8009957586", ";postd=1"),
        ),
        Target(
            "destination",
            destinations.check_destination,
            destinations.samples,
            ("tel:", "+1", "011", "00", ";ani=", ";postd=", "\u00a0", "\u2011", "GB\n", "BR\n", "IT\n", "AR\n", "RU\n"),
        ),
        Target("token", tokens.check_token, tokens.samples, ("42-7.", "999999999999999999-999999999.")),
        Target("multipart_sent", forms.check_multipart_sent, forms.samples_sent, ("\r\n--", "--", "\r\n\r\n")),
        Target(
            "form_received",
            forms.check_form_received,
            forms.samples_received,
            (
                *("application_id", "deployment_id", "name", "max_attempts", "on_duplicate", "default_region", "csv"),
                *("Content-Disposition: form-data; name=", "; filename=", "filename*=utf-8''", "\r\n--b", "\r\n\r\n"),
                *("destination\n6175551234\n", "boundary=", "Content-Transfer-Encoding: base64\r\n"),
            ),
        ),
        Target(
            "answer",
            answers.check_answer,
            answers.samples,
            (
                *answers.SECRETS,
                "calls_queued",
                "error",
                "result",
                "<result>",
                "call_ids",
                "charset=",
                "617-555-1234",
                "&amp;",
            ),
        ),
        Target(
            "endpoint_address",
            requests.check_endpoint_address,
            requests.endpoint_addresses,
            ("https://", "http://", "@", "[::ffff:", "127.0.0.1", "0x7f", ":443", "%2e", "\\", "#", "?"),
        ),
        Target(
            "json_body", requests.check_json_body, requests.json_bodies, ("1e999", "NaN", "\\u0000", "\\ud800", "null")
        ),
        Target(
            "time_zone_column",
            requests.check_time_zone_column,
            requests.time_zone_columns,
            ("America/New_York", "Etc/GMT+12", "zone\n", "16175551234\n", "18005551234\n"),
        ),
        Target(
            "workbook",
            workbooks.check_workbook,
            workbooks.samples,
            (
                "xlsx\n",
                "ods\n",
                "<row",
                "<c ",
                "<v>",
                "<is><t>",
                "<table:table-row",
                "table:number-columns-repeated",
                "1e300",
            ),
            examples=10,  # each starts a process
        ),
    )
}


class BoundExceeded(Exception):
    """An input took more processor time than SECONDS."""


def check_within_bounds(target: Target, inputs: bytes) -> None:
    """Check one input. It may take MEMORY_BYTES more than the interpreter uses now, and SECONDS of processor time."""
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, limit = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, limit))
    began = time.thread_time()
    try:
        target.check(inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    spent = time.thread_time() - began
    if spent > SECONDS:
        raise BoundExceeded(f"{target.name} took {spent:.1f} s")
