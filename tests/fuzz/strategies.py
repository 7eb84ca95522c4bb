"""The inputs that Hypothesis generates for each target: nearly correct ones, and arbitrary bytes."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

import phonenumbers
from hypothesis import strategies as st

from receiver.model import SubmissionKey
from tests.fuzz.answers import SECRETS
from tests.fuzz.envelope import join_input
from tests.fuzz.forms import NAMES
from tests.fuzz.targets import TARGETS
from tests.fuzz.tokens import TOKENS
from tests.fuzz.workbooks import CELL, ROW
from tests.results.reading.samples import CONTENT_TYPES, form_fields, renderings

Inputs = st.SearchStrategy[bytes]

_line = st.text(st.characters(exclude_characters="\n"), max_size=30)
_scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["1", "6175551234"])
_any_json = st.recursive(
    _scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=10,
)


@st.composite
def changed(draw: st.DrawFn, samples: Callable[[], Any]) -> bytes:
    """A sample with a few parts overwritten, removed or repeated."""
    inputs = bytearray(draw(st.sampled_from(sorted(samples()))))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(inputs)))
        until = min(len(inputs), at + draw(st.integers(0, 20)))
        inputs[at:until] = draw(st.sampled_from([bytes(inputs[at:until]) * 2, b""]) | st.binary(max_size=4))
    return bytes(inputs)


_moments: st.SearchStrategy[object] = (
    st.integers(-1, 2**44)
    | st.integers(0, 2**33).map(str)
    | st.datetimes().map(lambda at: at.isoformat() + "Z")
    | st.sampled_from(["", None, "1e999999", "-0", "\u0661\u0662"])
)
_words = st.text(max_size=8) | st.sampled_from(["completed", "failed", "Cancelled", "queued", "connected", "' x '"])
_details = st.fixed_dictionaries(
    {"phone_number": st.from_regex(r"'?\+?[0-9 ()-]{1,15}'?", fullmatch=True) | _words, "status": _words},
    optional={
        **dict.fromkeys(("attempts", "max_attempts", "duration"), st.integers() | st.floats() | _words),
        **dict.fromkeys(("queued_timestamp", "start_Timestamp", "end_timestamp", "last_attempt_timestamp"), _moments),
        "events": st.lists(st.fixed_dictionaries({"event": _words, "timestamp": _moments}), max_size=5) | _any_json,
        "note": _any_json,
    },
)
_callback_bodies = st.one_of(
    _details.flatmap(lambda sent: st.sampled_from([json.dumps(sent).encode(), _as_form(sent)])),
    _details.map(lambda sent: {name: _plain(value) for name, value in sent.items()}).flatmap(
        lambda sent: st.sampled_from(sorted(renderings(sent).values()))
    ),
    _any_json.map(lambda value: json.dumps(value).encode()),
    st.text(st.sampled_from("[]a0=&%5BD+;.\n-<>/\"'{}:,"), max_size=200).map(str.encode),
    st.binary(max_size=300),
)


def _as_form(sent: dict[str, object]) -> bytes:
    return urlencode(form_fields(sent), errors="surrogatepass").encode()


def _plain(value: object) -> object:
    """The value without the characters that a form or XML cannot contain, so that it has the same meaning in every
    format."""
    if isinstance(value, dict):
        return {f"n{number}": _plain(item) for number, item in enumerate(value.values())}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return "".join(filter(str.isprintable, value)) if isinstance(value, str) else value


_cells = st.text(st.sampled_from("\",;\t|\r\n '") | st.characters(codec="utf-8"), max_size=10)
_csv_files = st.one_of(
    st.tuples(
        st.sampled_from(",;\t|"),
        st.sampled_from(["\n", "\r\n", "\r"]),
        st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "cp1252"]),
        st.lists(
            st.tuples(st.sampled_from(["6175551234", "6175551299;postd=1", "911", ""]), st.lists(_cells, max_size=3)),
            max_size=5,
        ),
    ).map(lambda drawn: _csv(*drawn)),
    st.lists(
        st.sampled_from(
            [b"destination", b",", b";", b"\n", b"\r", b'"', b"6175551234", b"\xff\xfe", b"\0", b"\x81", b" "]
        )
        | st.binary(max_size=4),
        max_size=25,
    ).map(b"".join),
)


def _csv(delimiter: str, end: str, encoding: str, rows: list[tuple[str, list[str]]]) -> bytes:
    lines = [["destination", "ä", "b"], *([destination, *cells] for destination, cells in rows)]
    quoted = (delimiter.join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in line) for line in lines)
    return end.join(quoted).encode(encoding, "replace")


_regions = st.sampled_from(sorted(phonenumbers.SUPPORTED_REGIONS))
_destinations = st.tuples(
    _regions,
    st.from_regex(
        r"(tel:)?\+?[0-9 ().\u00a0\u2011-]{4,20}(;ani=\+?[0-9]{3,15})?(;postd=[0-9*#a-dpw,]{1,5})?", fullmatch=True
    )
    | st.from_regex(r"\+?[0-9]{3,16}", fullmatch=True)
    | _line,
).map(lambda drawn: join_input(*drawn))

_tokens = st.tuples(st.integers(1, 10**18 - 1), st.integers(1, 10**9 - 1)).flatmap(
    lambda key: changed(lambda: [TOKENS.sign(SubmissionKey(*key)).encode()])
)

_disposition = st.sampled_from(
    ["name=csv", 'name="csv"; filename="a"', "filename=a", 'name=""', "name*=utf-8''csv", 'name="application_id"', ""]
)
_parts = st.tuples(_disposition, st.sampled_from(["7", "destination\n6175551234\n", "\r\n--b"]) | _line)
_forms = st.tuples(
    st.sampled_from(["multipart/form-data; boundary=b", 'multipart/form-data; boundary="b"', "multipart/form-data"]),
    st.lists(_parts, max_size=6).map(
        lambda parts: "".join(
            f"--b\r\nContent-Disposition: form-data; {name}\r\n\r\n{value}\r\n" for name, value in parts
        )
    ),
    st.sampled_from(["--b--", "--b--\r\n", "--b\r\n", ""]),
).map(lambda drawn: join_input(drawn[0], drawn[1] + drawn[2]))

_answers = st.tuples(
    st.sampled_from(["200", "201", "302", "400", "401", "409", "500"]),
    st.sampled_from(["application/json", "application/xml", "text/html; charset=utf-16", ""]),
    st.one_of(
        st.fixed_dictionaries(
            {},
            optional={
                "calls_queued": st.integers() | _any_json,
                "error": _line | _any_json | st.sampled_from([f"+1 (617) 555-1234 {SECRETS[1]}", "1234567" * 400]),
                "call_ids": _any_json | st.dictionaries(st.from_regex(r"\+?[0-9]{7,11}", fullmatch=True), _line),
            },
        ).map(json.dumps),
        st.lists(
            st.sampled_from(
                [
                    "<result>",
                    "</result>",
                    "<error>",
                    "</error>",
                    "<calls_queued>",
                    "4",
                    "6175551234",
                    "&amp;",
                    SECRETS[0],
                ]
            )
        ).map("".join),
        _line,
    ),
).map(lambda drawn: join_input(*drawn))

_hosts = st.one_of(
    st.ip_addresses().map(lambda address: f"[{address}]" if address.version == 6 else str(address)),
    st.integers(0, 2**33).map(str) | st.integers(0, 2**33).map(hex),
    st.from_regex(r"[a-z0-9.%:@\[\]-]{0,20}", fullmatch=True),
)
_addresses = st.tuples(
    st.sampled_from(["https://", "http://", "HTTPS://", "ftp://", ""]),
    _hosts,
    st.sampled_from([":443", ":0", ":x", ""]),
    _line,
).map(lambda drawn: "".join(drawn).encode("utf-8", "surrogatepass"))
_zones = st.sampled_from(["America/New_York", "Europe/Berlin", "UTC", "Etc/GMT+12", "Mars/Olympus", ""])
_sheets = st.lists(
    st.sampled_from([*ROW.replace("><", ">\n<").splitlines(), CELL, "<sheetData>", "</sheetData>", "&", "<"]) | _line
).map("".join)

_GENERATED: dict[str, Inputs] = {
    "callback_body": st.tuples(
        st.sampled_from([word for word in CONTENT_TYPES if "\n" not in word]) | _line,
        st.sampled_from(["", "gzip", "deflate", "br", "identity"]),
        _callback_bodies,
    ).map(lambda drawn: join_input(*drawn)),
    "csv_file": _csv_files,
    "destination": _destinations,
    "token": _tokens,
    "multipart_sent": st.tuples(*(_line for _ in NAMES), st.binary(max_size=400)).map(lambda drawn: join_input(*drawn)),
    "form_received": _forms,
    "answer": _answers,
    "endpoint_address": _addresses,
    "json_body": _any_json.map(lambda value: json.dumps(value).encode()),
    "time_zone_column": st.tuples(
        st.sampled_from(["zone", "name", "none"]), st.from_regex("[0-9]{7,15}", fullmatch=True), _zones | _line
    ).map(lambda drawn: join_input(*drawn)),
    "workbook": st.tuples(st.sampled_from(["xlsx", "ods"]), _sheets).map(lambda drawn: join_input(*drawn)),
}


def inputs_for(name: str) -> Inputs:
    """Inputs generated for the target, changed samples, or arbitrary bytes."""
    return _GENERATED[name] | changed(TARGETS[name].samples) | st.binary(max_size=200)
