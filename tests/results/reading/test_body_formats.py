"""The details of a call are the same in every format, compressed or not."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.results.reading.samples import COMPLETED, SAMPLES, read, reason, renderings

# Compression.

PLAIN = (SAMPLES / "completed.json").read_bytes()


def _raw_deflate(body: bytes) -> bytes:
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(body) + stream.flush()


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(PLAIN, mtime=0), "gzip"),
        (gzip.compress(PLAIN, mtime=0), "X-GZIP"),
        (gzip.compress(PLAIN, mtime=0), ""),
        (zlib.compress(PLAIN), "deflate"),
        (_raw_deflate(PLAIN), "Deflate"),
        (PLAIN, "identity"),
        (PLAIN, "gzip"),
        (PLAIN, "br"),
        ((SAMPLES / "form.txt").read_bytes(), "gzip"),
    ],
)
def test_compressed_body_is_read_and_a_wrong_header_is_ignored(body: bytes, encoding: str) -> None:
    assert read(body, "application/json", encoding).result_key == COMPLETED.result_key


@pytest.mark.parametrize("cut", [1, 40, len(PLAIN) - 1])
@pytest.mark.parametrize(("compress", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate")])
def test_body_of_several_members_is_read_completely(
    compress: Callable[[bytes], bytes], encoding: str, cut: int
) -> None:
    parts = PLAIN[:cut], b"", PLAIN[cut:]
    assert read(b"".join(compress(part) for part in parts), "", encoding) == COMPLETED


@pytest.mark.parametrize(
    "trailing", [b"\0", b"\0" * 512, b"x", b"\r\n", b"\x1f\x8b", gzip.compress(b"{}", mtime=0)[:-1], b"\x03\0"]
)
@pytest.mark.parametrize(
    ("compress", "encoding"), [(gzip.compress, "gzip"), (zlib.compress, "deflate"), (_raw_deflate, "deflate")]
)
def test_other_bytes_after_a_member_make_the_body_undecodable(
    compress: Callable[[bytes], bytes], encoding: str, trailing: bytes
) -> None:
    assert reason(compress(PLAIN) + trailing, "", encoding) == "undecodable"


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (gzip.compress(PLAIN, mtime=0)[:-9], "gzip"),
        (gzip.compress(PLAIN, mtime=0)[:40] + b"\xff" * 40, "gzip"),
        (zlib.compress(PLAIN)[:-9], "deflate"),
        (b"\xff\xfe\xfd", "br"),
        (gzip.compress(b" " * (1 << 20) + b" ", mtime=0), "gzip"),
        (gzip.compress(b" " * (1 << 20), mtime=0) + gzip.compress(b" ", mtime=0), "gzip"),
    ],
)
def test_body_that_cannot_be_decompressed_is_undecodable(body: bytes, encoding: str) -> None:
    assert reason(body, "", encoding) == "undecodable"


def test_compressed_body_may_have_one_mebibyte() -> None:
    assert read(gzip.compress(PLAIN.ljust(1 << 20)), "", "gzip") == COMPLETED


# The same result again, in another format.

_texts = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=20)
_moments = st.integers(1, 2**33)
_details = st.fixed_dictionaries(
    {
        "phone_number": st.from_regex(r"'?\+?[0-9]{5,15}'?", fullmatch=True),
        "status": st.sampled_from(["completed", "failed", "canceled", "rejected", "queued", "voice_mail"]),
    },
    optional={
        "attempts": st.integers(0, 10) | st.integers(0, 10).map(str) | st.just(""),
        "max_attempts": st.integers(1, 10),
        "duration": st.integers(0, 9999) | st.just(""),
        "queued_timestamp": _moments | _moments.map(str),
        "start_timestamp": _moments | st.just(""),
        "end_timestamp": _moments | st.just(""),
        "last_attempt_timestamp": _moments,
        "note": _texts,
        "events": st.lists(
            st.fixed_dictionaries(
                {
                    "event": st.sampled_from(["queued", "dialing", "connected", "disconnected", "canceled"]),
                    "timestamp": _moments,
                }
            ),
            min_size=1,
            max_size=12,
        ),
    },
)


@settings(deadline=None)  # a busy neighbour is no failure
@given(_details)
def test_same_details_have_one_result_key_in_every_format(sent: dict[str, object]) -> None:
    first = read(json.dumps(sent))
    for name, body in renderings(sent).items():
        again = read(body)
        assert again.result_key == first.result_key, name
        assert again == first, name
