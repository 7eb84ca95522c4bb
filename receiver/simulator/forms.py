"""Reads the fields of a request and its CSV, and refuses wrong values. No I/O.

The rules are those of the provider page (Queue multiple calls, The CSV). The wording of an `error` is our own.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping
from typing import IO
from urllib.parse import urlsplit

from receiver.errors import ReceiverError
from receiver.phone_numbers.destination import usually_spelled
from receiver.simulator.bodies import Parameters, dialed_digits

RESULT_URL_LENGTH = 255


class Refused(ReceiverError):
    """The provider answers with this HTTP `status` and the message as its `error`."""

    code = "simulator_refused"

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def read_parameters(form: Mapping[str, str]) -> Parameters:
    """The parameters of a request; raises `Refused` (400) at the first fault."""
    start = _integer(form, "start_timestamp", 0, 9_999_999_999)
    end = _integer(form, "end_timestamp", 0, 9_999_999_999)
    if start is not None and end is not None and end <= start:
        raise Refused(400, "end_timestamp is not after start_timestamp")
    max_attempts = _integer(form, "max_attempts", 1, 10)
    reattempt_wait = _integer(form, "reattempt_wait", 60, 86400)
    if max_attempts is not None and max_attempts > 1 and reattempt_wait is None:
        raise Refused(400, "reattempt_wait is required with max_attempts greater than 1")
    _integer(form, "is_pci", 0, 1)
    return Parameters(start, end, max_attempts or 1, reattempt_wait, _result_url(form))


def read_contacts(stream: IO[bytes]) -> tuple[list[str], int]:
    """The destinations of a CSV, and how many rows were left out: they cannot be dialed. Raises `Refused` (400)."""
    rows = csv.reader(io.TextIOWrapper(stream, encoding="utf-8-sig", newline=""))
    destinations: list[str] = []
    left_out = 0
    try:
        header = next(rows, [])
        if not header or header[0] != "destination":
            raise Refused(400, "the first column of csv is not destination")
        for row in rows:
            if not row:
                continue
            if is_destination(row[0]):
                destinations.append(row[0])
            else:
                left_out += 1
    except UnicodeDecodeError:
        raise Refused(400, "csv is not UTF-8") from None
    except csv.Error as error:
        raise Refused(400, f"csv cannot be read: {error}") from None
    if not destinations and not left_out:
        raise Refused(400, "csv has no contacts")
    return destinations, left_out


def is_destination(text: str) -> bool:
    """Whether it can be dialed. Spaces, dots, round brackets and hyphens are accepted, as nothing forbids them."""
    text = text.strip()
    return bool(usually_spelled(text)) and 8 <= len(dialed_digits(text)) <= 15


def _integer(form: Mapping[str, str], name: str, lowest: int, highest: int) -> int | None:
    """An optional whole number; an empty field counts as absent."""
    text = form.get(name, "")
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,10}", text) or not lowest <= int(text) <= highest:
        raise Refused(400, f"{name} is not an integer from {lowest} to {highest}")
    return int(text)


def _result_url(form: Mapping[str, str]) -> str | None:
    text = form.get("result_url", "")
    if not text:
        return None
    if len(text) > RESULT_URL_LENGTH:
        raise Refused(400, f"result_url is longer than {RESULT_URL_LENGTH} characters")
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[^\x21-\x7e]", text):
        raise Refused(400, "result_url is not a URL")
    return text
