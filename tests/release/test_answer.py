from __future__ import annotations

import json
import time
import tracemalloc
from dataclasses import replace
from html import escape

import pytest
from hypothesis import given
from hypothesis import strategies as st

from receiver.release.answer import ANSWER_BYTES, ERROR_CHARACTERS, parse_answer

JSON = "application/json"
XML = "application/xml"
HTML = "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "body",
    [
        b'{"calls_queued": 4}',
        b'{"calls_queued": "4"}',
        b'{"calls_queued": " 4\\n", "call_ids": [1, 2, 3, 4]}',
        b'\xef\xbb\xbf{"calls_queued": 4}',
        '{"calls_queued": 4}'.encode("utf-16"),
        b'{"result": {"calls_queued": 4}}',
        b"<result><calls_queued>4</calls_queued></result>",
        b'\n<?xml version="1.0" encoding="ISO-8859-1"?><result><x>\xe9</x><calls_queued> 4 </calls_queued></result>',
        b'<r:result xmlns:r="urn:plum"><r:calls_queued>4</r:calls_queued></r:result>',
        b"<response><result><calls_queued>4</calls_queued></result></response>",
    ],
)
@pytest.mark.parametrize("content_type", [JSON, XML, "", "text/html", "nonsense; charset=idna"])
def test_calls_queued_is_read_whatever_the_form_and_content_type(content_type: str, body: bytes) -> None:
    answer = parse_answer(200, content_type, body)
    assert (answer.state, answer.provider_status, answer.calls_queued, answer.error) == (
        "accepted",
        200,
        4,
        None,
    )


def test_nothing_queued_is_an_accepted_answer_too() -> None:
    assert parse_answer(200, JSON, b'{"calls_queued": 0}').calls_queued == 0


def test_largest_count_that_the_database_can_store_is_read() -> None:
    assert parse_answer(200, JSON, b'{"calls_queued": 2147483647}').calls_queued == 2**31 - 1


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{}",
        b"null",
        b"OK",
        b'{"calls_queued": null}',
        b'{"calls_queued": true}',
        b'{"calls_queued": -1}',
        b'{"calls_queued": 4.5}',
        b'{"calls_queued": "4 calls"}',
        b'{"calls_queued": "\xd9\xa4"}',
        b'{"calls_queued": 2147483648}',
        b'{"calls_queued": 99999999999}',
        b'{"calls_queued": ' + b"9" * 6000 + b"}",
        b'{"calls_queued": 4',
        b'[{"calls_queued": 4}]',
        b"<result><calls_queued>4</calls_queued>",
        b"<result><calls_queued></calls_queued></result>",
        b"<a><b><result><calls_queued>4</calls_queued></result></b></a>",
        b"<html><body><calls_queued>4</calls_queued></body></html>",
        b'<!DOCTYPE r [<!ENTITY n "4">]><result><calls_queued>&n;</calls_queued></result>',
        b'<!DOCTYPE r [<!ENTITY n SYSTEM "file:///etc/hostname">]><result><calls_queued>&n;</calls_queued></result>',
        b"[" * 100_000,
        b"<a>" * 100_000,
    ],
)
def test_a_200_without_a_readable_count_is_unknown(body: bytes) -> None:
    answer = parse_answer(200, JSON, body)
    assert (answer.state, answer.calls_queued) == ("unknown", None)
    assert answer.error == "the provider answered 200 without calls_queued"


def test_a_200_that_states_an_error_and_no_count_keeps_the_words() -> None:
    answer = parse_answer(200, JSON, b'{"error": "try later"}')
    assert (answer.state, answer.error) == ("unknown", "try later")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 409])
@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        (JSON, b'{"error": "the csv has no   destination\\ncolumn"}'),
        (XML, b"<?xml version='1.0'?><result><error>the csv has no destination column</error></result>"),
        (HTML, b"<html><title>the csv has no destination column</title></html>"),
        ("text/plain", b"the csv has no destination column\r\n"),
    ],
)
def test_a_documented_refusal_is_refused_with_the_providers_words(status: int, content_type: str, body: bytes) -> None:
    answer = parse_answer(status, content_type, body)
    assert (answer.state, answer.provider_status) == ("refused", status)
    assert answer.error == "the csv has no destination column"


def test_a_refusal_without_words_gets_the_documented_meaning() -> None:
    error = parse_answer(401, "", b"").error
    assert error == "the provider answered 401: authentication invalid, or account inactive"


@pytest.mark.parametrize(
    "status", [201, 202, 204, 206, 402, 406, 408, 413, 422, 429, 451, 500, 502, 503, 504, 599, 999]
)
@pytest.mark.parametrize("body", [b"", b'{"error": "no"}', b'{"calls_queued": 4}', b"<h1>no</h1>"])
def test_every_undocumented_status_and_5xx_is_unknown(status: int, body: bytes) -> None:
    answer = parse_answer(status, JSON, body)
    assert answer.state == "unknown"
    assert answer.error


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_unknown_and_names_the_setting_to_check(status: int) -> None:
    answer = parse_answer(status, JSON, b'{"calls_queued": 4}')
    assert answer.state == "unknown"
    assert "PLUM_URL" in str(answer.error)


def test_a_gateways_page_is_trimmed_to_what_a_person_would_see() -> None:
    page = (
        b"<html>\r\n<head><title>502 Bad Gateway</title><style>h1 {color: red}</style></head>\r\n"
        b"<body><script>if (a < b) { go('<b>') }</script>Sorry<center><h1>502 Bad Gateway</h1></center>\r\n"
        b"<hr><center>nginx &amp; friends</center>\r\n</body></html>\r\n"
        b"<!-- a padding to disable MSIE and Chrome friendly error page -->\r\n"
    )
    assert parse_answer(502, "text/html", page).error == "502 Bad Gateway Sorry nginx & friends"


def test_a_less_than_sign_in_plain_words_is_no_tag() -> None:
    assert parse_answer(400, JSON, b'{"error": "1 < 2 > 0"}').error == "1 < 2 > 0"
    assert parse_answer(400, "text/plain", b"max_attempts <1 or >10").error == "max_attempts <1 or >10"


def test_an_error_that_is_no_text_is_shown_as_json() -> None:
    error = parse_answer(400, JSON, '{"error": {"csv": ["zu groß"]}}'.encode()).error
    assert error == '{"csv": ["zu groß"]}'


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("number 16175551234 is invalid", "number *********34 is invalid"),
        ("'6175551234' twice", "'********34' twice"),
        ("tel:+16175551234;ani=8009957586", "tel:**********34;ani=********86"),
        ("call (617) 555-1234 now", "call ************34 now"),
        ("call 617.555\u00a01234 now", "call **********34 now"),
        ("call 617\u2011555\u20111234 now", "call **********34 now"),
        ("\uff15\uff15\uff15\uff11\uff12\uff13\uff14", "*****\uff13\uff14"),  # full-width digits
        ("since 2026-12-01 09:30:00", "since 2026-12-01 09:30:00"),
        ("deployment 123456, row 12", "deployment 123456, row 12"),
    ],
)
def test_phone_numbers_in_an_error_are_masked_and_kept_in_the_answer_text(written: str, kept: str) -> None:
    answer = parse_answer(400, JSON, json.dumps({"error": written}, ensure_ascii=False).encode())
    assert answer.error == kept
    assert written in str(answer.answer_text)


def test_an_error_is_cut_after_a_number_was_masked_not_within_it() -> None:
    error = str(parse_answer(400, JSON, b'{"error": "' + b"x" * 1_990 + b' 16175551234"}').error)
    assert len(error) == ERROR_CHARACTERS
    assert "1617" not in error


def test_errors_hold_no_control_characters_and_no_surrogates() -> None:
    answer = parse_answer(400, JSON, b'{"error": "a\\u0000b\\ud800c\\u202ed\\u001b[31m"}')
    assert answer.error == "a b c d [31m"
    assert parse_answer(500, "text/plain", b"a\x00b").answer_text == "a\ufffdb"


def test_credentials_are_struck_out_of_everything_kept() -> None:
    secrets = ("ann@example.com", "k&y", escape("k&y"), "YW5u")
    body = b"<p>Authorization: Basic YW5u, user ann@example.com, key k&amp;y</p>"
    answer = parse_answer(400, "text/html", body, secrets)
    for kept in (answer.error, answer.answer_text):
        assert kept is not None
        assert kept.count("[redacted]") == 3
        assert not any(secret in kept for secret in secrets)


def test_answer_text_is_cut_at_one_mebibyte_of_utf_8() -> None:
    text = parse_answer(500, "text/plain; charset=iso-8859-1", b"\xe9" * (ANSWER_BYTES + 5)).answer_text
    assert text is not None
    assert set(text) == {"é"}
    assert len(text.encode()) == ANSWER_BYTES
    assert parse_answer(500, "text/plain", b"e" * ANSWER_BYTES).answer_text == "e" * ANSWER_BYTES


def test_answer_text_does_not_show_in_a_repr() -> None:
    assert "16175551234" not in repr(parse_answer(400, JSON, b'{"error": "16175551234"}'))


@pytest.mark.parametrize("unit", [b"<", b"<script", b"</script>", b"&", b"1-", b"(1", b'{"a":', b"&#x41;", b"<!--"])
def test_a_mebibyte_made_to_be_slow_is_read_in_linear_time(unit: bytes) -> None:
    def seconds(size: int) -> float:
        started = time.process_time()
        parse_answer(500, "text/html", unit * (size // len(unit)))
        return time.process_time() - started

    # Quadratic work on 1 MiB takes minutes; the bound leaves room for a busy machine.
    assert seconds(ANSWER_BYTES) < 10


def test_xml_name_space_costs_no_more_memory_than_a_copy_for_each_element_would() -> None:
    """A parser that knows name spaces kept gigabytes of this."""
    elements = b"".join(b"<a%x/>" % number for number in range(10_000))
    body = b'<result xmlns="' + b"x" * 100_000 + b'">' + elements + b"</result>"
    tracemalloc.start()
    try:
        answer = parse_answer(200, XML, body)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.state == "unknown"
    assert peak < 64 << 20


def test_text_between_items_belongs_to_none() -> None:
    answer = parse_answer(400, XML, b"<result>one <calls_queued>4</calls_queued> two <error>a<b>b</b></error></result>")
    assert (answer.calls_queued, answer.error) == (4, "ab")


def test_only_the_first_result_counts() -> None:
    answer = parse_answer(
        200,
        XML,
        b"<r><result><calls_queued>4</calls_queued></result><result><calls_queued>5</calls_queued></result></r>",
    )
    assert answer.calls_queued == 4


@given(
    status=st.sampled_from([200, 400, 500]),
    count=st.none() | st.integers(-1, 2**31),
    words=st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cn"]), min_size=1, max_size=40),
)
def test_json_and_xml_of_the_same_items_are_one_answer(status: int, count: int | None, words: str) -> None:
    items = {"error": words} if count is None else {"calls_queued": count, "error": words}
    elements = "".join(f"<{name}>{escape(str(value))}</{name}>" for name, value in items.items())
    answers = [
        parse_answer(status, content_type, body.encode())
        for content_type, body in ((JSON, json.dumps(items)), (XML, f"<result>{elements}</result>"))
    ]
    assert replace(answers[0], answer_text=None) == replace(answers[1], answer_text=None)


@given(
    status=st.integers(100, 999),
    content_type=st.text(max_size=40) | st.sampled_from([JSON, XML, HTML, "text/plain; charset=utf-16"]),
    body=st.binary(max_size=300)
    | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass"))
    | st.dictionaries(
        st.sampled_from(["calls_queued", "error", "result"]),
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ),
    ).map(lambda items: json.dumps(items).encode()),
    secret=st.text(max_size=5),
)
def test_any_bytes_give_a_storable_answer(status: int, content_type: str, body: bytes, secret: str) -> None:
    answer = parse_answer(status, content_type, body, (secret,))
    assert answer.state in ("accepted", "refused", "unknown")
    assert (answer.state == "accepted") <= (status == 200 and answer.calls_queued is not None)
    assert (answer.state == "refused") == (status in (400, 401, 403, 404, 405, 409))
    assert answer.state == "accepted" or answer.error
    for kept in (answer.error or "", answer.answer_text or ""):
        kept.encode("utf-8")  # no surrogates
        assert "\x00" not in kept
    assert len(answer.error or "") <= ERROR_CHARACTERS
    assert (answer.error or "").isprintable()
    assert answer.calls_queued is None or 0 <= answer.calls_queued < 2**31


@given(st.binary(max_size=200))
def test_arbitrary_bytes_never_raise_as_xml(body: bytes) -> None:
    parse_answer(200, XML, b"<result><calls_queued>4" + body + b"</calls_queued></result>")
