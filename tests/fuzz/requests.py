"""What people send: addresses of endpoints, JSON bodies, and the time zones of rows."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from zoneinfo import available_timezones

from urllib3.exceptions import LocationParseError
from urllib3.util import parse_url

from receiver.errors import InvalidInput
from receiver.queueing.contacts import Contact
from receiver.queueing.parameters import BatchParameters
from receiver.queueing.row_zones import NoCommonHours, RowZones
from receiver.relay.addresses import is_allowed, read_url
from receiver.web.json_body import read_json
from tests.fuzz.envelope import join_input, split_input

JSON_CODES = {"not_json", "not_an_object", "not_a_number", "too_deep", "repeated_field", "unusable_text"}
NOW = datetime(2026, 3, 1, 15, tzinfo=UTC)


def check_endpoint_address(inputs: bytes) -> None:
    """Another parser finds the same host and port, and a number that means a private address is refused."""
    url = inputs.decode("utf-8", "surrogateescape")
    try:
        place = read_url(url)
    except ValueError:
        return
    assert url.isascii() and url.isprintable() and " " not in url and "@" not in place.netloc
    with suppress(LocationParseError):
        other = parse_url(url)
        assert (other.host or "").strip("[]").lower() == place.host, (url, other.host, place.host)
        assert (other.port or (443 if other.scheme == "https" else 80)) == place.port
    with suppress(OSError, UnicodeError):
        # Only spellings of addresses, also short and octal ones: no name is looked up.
        found = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
        for address in (ip_address(str(each[4][0]).partition("%")[0]) for each in found):
            assert not is_allowed(address, (), plain=place.is_plain) or address.is_global


def check_json_body(inputs: bytes) -> None:
    """An object that Postgres can store, and that means the same to another parser; or an error with a code."""
    try:
        content = read_json(inputs)
    except InvalidInput as error:
        (fault,) = error.faults
        assert fault.code in JSON_CODES and fault.message.isascii() | fault.message.isprintable()
        return
    stored = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
    assert b"\\u0000" not in stored and json.loads(inputs) == content


def check_time_zone_column(inputs: bytes) -> None:
    """The input: a line with the column's name, a line with a number, and the cell. A row has known zones, or the
    message says what is wrong with it."""
    (name, digits), rest = split_input(inputs, 2)
    number = int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 16 else 16175551234
    given = BatchParameters(7, 3, calling_hours=(480, 1200), time_zone_column=name)
    try:
        zones = RowZones(given, ("zone", "name"), NOW)
        found = zones.of(Contact(1, str(number), number, None, (rest.decode("utf-8", "surrogateescape"), "Ana")))
    except (InvalidInput, NoCommonHours) as error:
        text = error.faults[0].message if isinstance(error, InvalidInput) else str(error)
        assert text.isprintable() and len(text) < 300
    else:
        assert found and set(found) <= available_timezones()


def endpoint_addresses() -> Iterator[bytes]:
    for host in (
        "example.com",
        "203.0.113.7",
        "[2001:db8::1]",
        "127.1",
        "0x7f.1",
        "[::ffff:10.0.0.1]",
        "user@x",
        "a..b",
    ):
        yield join_input(f"https://{host}/path?query=1")
        yield join_input(f"http://{host}:8080")


def json_bodies() -> Iterator[bytes]:
    for body in ('{"url": "https://example.com/"}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": 1, "a": 2}', "[[[[]]]]"):
        yield body.encode()


def time_zone_columns() -> Iterator[bytes]:
    for cell in ("America/New_York", " Europe/Berlin ", "", "Mars/Olympus"):
        yield join_input("zone", "16175551234", cell)
        yield join_input("name", "18005551234", cell)
