"""Any body is read quickly, as CallDetails that Postgres can store or as UnreadableBody."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from collections.abc import Callable
from urllib.parse import urlencode

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.callbacks import read_or_refuse
from tests.results.reading.samples import CONTENT_TYPES, SAMPLES, form_fields, read, reason

unhurried = settings(deadline=None)  # a busy neighbour is no failure; the bombs below measure time

# Any body results in CallDetails or UnreadableBody.

_content_types = st.sampled_from(CONTENT_TYPES) | st.text(max_size=40)
_encodings = st.sampled_from(["", "gzip", "deflate", "br", "identity"])
_any_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.sampled_from(["completed", "6175551234"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_names = st.sampled_from(
    "status phone_number attempts max_attempts duration events queued_timestamp start_Timestamp"
    " end_timestamp last_attempt_timestamp call_details result event timestamp item 0 1".split()
)
_call_like = st.dictionaries(
    _names,
    _any_json | st.dictionaries(_names, _any_json, max_size=4) | _any_json.map(json.dumps),
    max_size=9,
)


@unhurried
@given(st.binary(max_size=300), _content_types, _encodings)
def test_any_bytes_are_read_or_unreadable(body: bytes, content_type: str, encoding: str) -> None:
    read_or_refuse(body, content_type, encoding)
    for start in (b"{", b'["', b"<a>", b"--x\r\n", b"status=1&phone_number=", b"\x1f\x8b\x08"):
        read_or_refuse(start + body, content_type, encoding)


@unhurried
@given(_any_json | _call_like, _content_types)
def test_any_json_is_read_or_unreadable(value: object, content_type: str) -> None:
    read_or_refuse(json.dumps(value).encode(), content_type)
    read_or_refuse(json.dumps({"phone_number": "1", "status": "failed", "events": value}).encode(), content_type)
    fields = form_fields(value, "status")
    read_or_refuse(urlencode(fields, errors="surrogatepass").encode(), content_type)


@unhurried
@given(
    st.sampled_from(sorted(path.name for path in SAMPLES.iterdir())),
    st.lists(st.tuples(st.integers(0, 600), st.binary(max_size=3)), max_size=4),
)
def test_mutated_samples_are_read_or_unreadable(name: str, changes: list[tuple[int, bytes]]) -> None:
    body = bytearray((SAMPLES / name).read_bytes())
    for place, piece in changes:
        body[place : place + 1] = piece
    read_or_refuse(bytes(body), "")


@unhurried
@given(_content_types, st.text(st.sampled_from("[]a0=&%5BD+;.\n-<>/\"'{}:,"), max_size=200))
def test_any_punctuation_is_read_or_unreadable(content_type: str, text: str) -> None:
    read_or_refuse(text.encode(), content_type)
    read_or_refuse(f"phone_number=1&status=x&{text}".encode(), content_type)
    read_or_refuse(f'{{"phone_number":"1","status":"x",{text}'.encode(), content_type)


# Bombs. None takes more than a moment of processor time or a few megabytes.


def _filled(start: bytes, unit: bytes, end: bytes = b"", length: int = 65_536) -> bytes:
    return start + unit * ((length - len(start) - len(end)) // len(unit)) + end


def _named(address_bytes: int) -> bytes:
    elements = b"".join(b"<a%x/>" % n for n in range(4000))
    return b'<r xmlns="' + b"x" * address_bytes + b'">' + elements + b"</r>"


_LAUGHS = b"".join(b'<!ENTITY l%d "%s">' % (level, b"&l%d;" % (level - 1) * 10) for level in range(1, 10))
_CALL = b'{"phone_number":"1","status":"failed",'
BOMBS: dict[str, tuple[bytes, str | None]] = {
    "JSON lists in lists": (b"[" * 65_536, "too_deep"),
    "JSON objects in objects": (_filled(b"", b'{"a":'), "too_deep"),
    "JSON ten thousand levels, closed": (b"[" * 10_000 + b"]" * 10_000, "too_deep"),
    "JSON in UTF-16, nested": (b"\xff\xfe" + b"[\0" * 30_000, "too_deep"),
    "JSON integer of 60,000 digits": (_CALL + b'"attempts":' + b"9" * 60_000 + b"}", None),
    "JSON integers of 4,299 digits": (_CALL + b'"a":[' + b",".join([b"9" * 4299] * 14) + b"]}", None),
    "JSON fraction of 60,000 digits": (_CALL + b'"attempts":0.' + b"9" * 60_000 + b"}", None),
    "JSON twenty thousand events": (_filled(_CALL + b'"events":[', b"{},", b"{}]}"), "too_many_items"),
    "JSON most events": (_filled(_CALL + b'"events":[', b'"{}",', b"{}]}", 20_000), None),
    "JSON events as texts": (_filled(_CALL + b'"events":[', b'"{}",', b"{}]}"), "too_many_items"),
    "JSON numbered events": (
        _CALL + b'"events":{' + b",".join(b'"%d":1' % n for n in range(6000)) + b"}}",
        "too_many_items",
    ),
    "JSON events with escaped names": (
        _filled(_CALL + b'"events":[', b'{"event":"' + b"&amp;" * 50 + b'"},', b"{}]}"),
        None,
    ),
    "JSON escaped as JavaScript": (_filled(b"{", rb"\'"), "malformed_json"),
    "JSON escaped as JavaScript, most": (_filled(b"{", rb"\'", length=16_000), "malformed_json"),
    "JSON escaped as HTML": (_filled(b"{", b"&#34;"), "malformed_json"),
    "JSON escaped as HTML, most": (_filled(b"{", b"&#34;", length=40_000), "malformed_json"),
    "gzip JSON escaped as HTML": (gzip.compress(b"{" + b"&#34;" * 200_000), "malformed_json"),
    "gzip XML escaped as HTML": (gzip.compress(b"&lt;" * 250_000), "not_recognised"),
    "XML ten billion laughs": (
        b"<!DOCTYPE r [<!ENTITY l0 'ha'>" + _LAUGHS + b"]><r>&l9;</r>",
        "malformed_xml",
    ),
    "XML quadratic entity": (
        b'<!DOCTYPE r [<!ENTITY a "' + b"x" * 30_000 + b'">]><r>' + b"&a;" * 9000 + b"</r>",
        "malformed_xml",
    ),
    "XML default attributes": (
        b"<!DOCTYPE r ["
        + b"".join(b'<!ATTLIST r a%d CDATA "x">' % n for n in range(2000))
        + b"]><r>"
        + b"<r/>" * 2000
        + b"</r>",
        "malformed_xml",
    ),
    "XML external entity": (
        b'<!DOCTYPE r [<!ENTITY a SYSTEM "file:///etc/passwd">]><r>&a;</r>',
        "malformed_xml",
    ),
    "XML deep": (b"<a>" * 4000 + b"</a>" * 4000, "too_deep"),
    "XML many elements": (_filled(b"<r>", b"<a/>", b"</r>"), "too_many_items"),
    "XML most elements": (b"<r>" + b"<a/>" * 8000 + b"</r>", "several_calls"),
    "XML many attributes": (b"<r " + b" ".join(b'a%d=""' % n for n in range(6000)) + b"/>", "not_recognised"),
    "XML comments": (b"<r>" + b"<!---->" * 8000 + b"</r>", "not_recognised"),
    # A parser with name spaces stores each name with the whole address: 200 MB here, and 500.
    "XML name space": (_named(25_000), "not_recognised"),
    "gzip XML name space": (gzip.compress(_named(60_000)), "not_recognised"),
    "form many fields": (_filled(b"", b"a=&"), "too_many_items"),
    "form deep name": (b"a" + b"[b]" * 20_000 + b"=1", "too_deep"),
    "form list in list": (b"a[][][]=1&" * 4000 + b"b=", "not_recognised"),
    "form escapes": (b"a=" + b"%41" * 21_000, "not_recognised"),
    "multipart many parts": (_filled(b"", b"--x\r\n"), "too_many_items"),
    "multipart long head": (b"--x\r\nContent-Disposition:" + b";" * 65_000, "not_recognised"),
    "multipart nested": (
        b"".join(b"--b%d\nContent-Type: multipart/mixed; boundary=b%d\n\n" % (n, n + 1) for n in range(1200)),
        "not_recognised",
    ),
    "gzip fifty megabytes": (gzip.compress(b"\0" * 50_000_000), "undecodable"),
    "gzip many members": (gzip.compress(b"", mtime=0) * 3276, "empty"),
    "gzip lists": (gzip.compress(b"[" + b"[]," * 340_000 + b"[]]"), "too_many_items"),
    "gzip objects": (gzip.compress(b"[" + b'{"":0},' * 32_000 + b"0]"), "several_calls"),
    "gzip a hundred thousand events": (
        gzip.compress(_CALL + b'"events":[' + b"{}," * 100_000 + b"{}]}"),
        "too_many_items",
    ),
    "gzip form with a list of events": (
        gzip.compress(b"phone_number=1&status=failed&events=[" + b"{}," * 40_000 + b"{}]"),
        "too_many_items",
    ),
    "gzip escaped document": (gzip.compress(b"%7B" + b"%41" * 340_000), "too_many_items"),
    "gzip escapes": (gzip.compress(b"a=" + b"%41" * 340_000), "too_many_items"),
    "gzip multipart head": (gzip.compress(b"--x\r\nContent-Disposition:" + b";" * 900_000), "not_recognised"),
    "gzip XML line ends": (gzip.compress(b"<r>" + b"\n" * 1_000_000 + b"</r>"), "not_recognised"),
}


def _thread_seconds(work: Callable[[], object]) -> float:
    start = time.thread_time()
    work()
    return time.thread_time() - start


@pytest.mark.parametrize("name", BOMBS)
def test_bomb_costs_little_time_and_memory(name: str) -> None:
    body, code = BOMBS[name]
    assert len(body) <= 65_536

    def settle() -> None:
        if code is None:
            assert read(body).outcome == "failed"
        else:
            assert reason(body) == code

    # The least processor time of three runs, compared with a yardstick, so that other load and a slow machine do not
    # matter. The slowest body takes about half of the limit.
    yardstick, spent = [], []
    for _ in range(3):
        yardstick.append(_thread_seconds(lambda: sum(number for number in range(100_000))))
        spent.append(_thread_seconds(settle))
    tracemalloc.start()
    try:
        settle()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert min(spent) < max(0.05, 16 * min(yardstick))
    assert peak < 32_000_000
