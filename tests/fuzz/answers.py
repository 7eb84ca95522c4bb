"""The provider's answer: the state that it results in, its error line, its stored text and its call IDs."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from receiver.release.answer import ANSWER_BYTES, ERROR_CHARACTERS, error_words, parse_answer, printable_line
from receiver.results.reading.call_ids import MAX_ID, read_call_ids
from tests.fuzz.envelope import join_input, split_input

SECRETS = ("ana@example.com", "K3y-of-the-account", "YW5hQGV4YW1wbGUuY29tOkszeQ==")
_REFUSALS = (400, 401, 403, 404, 405, 409)
_WHOLE_NUMBER = re.compile(r"[0-9]{7}")


def check_answer(inputs: bytes) -> None:
    """The input: a line with the status, a line with the content type, and the body."""
    (digits, content_type), body = split_input(inputs, 2)
    status = int(digits) if digits.isascii() and digits.isdigit() and len(digits) == 3 else 200
    answer = parse_answer(status, content_type, body, SECRETS)
    assert answer.provider_status == status
    assert (answer.state == "accepted") == (status == 200 and answer.calls_queued is not None)
    assert (answer.state == "refused") == (status in _REFUSALS)
    assert answer.calls_queued is None or 0 <= answer.calls_queued < 2**31
    assert answer.state == "accepted" or answer.error
    if answer.error is not None:
        _check_line(answer.error)
        assert printable_line(answer.error, SECRETS) == answer.error
    _check_line(error_words(content_type, body, SECRETS))
    if answer.answer_text is not None:
        assert len(answer.answer_text.encode()) <= ANSWER_BYTES
        assert "\0" not in answer.answer_text
        assert not any(secret in answer.answer_text for secret in SECRETS)
        _check_call_ids(answer.answer_text)


def _check_line(line: str) -> None:
    assert line.isprintable() and len(line) <= ERROR_CHARACTERS
    assert not any(secret in line for secret in SECRETS)
    assert _WHOLE_NUMBER.search(line) is None


def _check_call_ids(text: str) -> None:
    call_ids = read_call_ids(text)
    for call_id in (*call_ids.in_order, *call_ids.named.values()):
        assert call_id is None or (0 < len(call_id) <= MAX_ID and call_id.isascii() and call_id.isprintable())
    calls = [(place, 16175550000 + place, f"617555000{place},x") for place in (1, 2)]
    assert len(call_ids.find(calls, "US")) == 2


def samples() -> Iterator[bytes]:
    for status in ("200", "400", "401", "500", "302"):
        for content_type, body in (
            ("application/json", json.dumps({"calls_queued": 4, "call_ids": ["a1", "b2"]})),
            ("application/json", json.dumps({"error": f"6175551234 is wrong, {SECRETS[0]}"})),
            ("application/xml", "<result><calls_queued>4</calls_queued><error>no</error></result>"),
            ("text/html; charset=utf-16", "<html><title>502</title><script>x</script><h1>Bad &amp; gone</h1></html>"),
        ):
            yield join_input(status, content_type, body)
    yield join_input("200", "", json.dumps({"call_ids": {"6175550001": "id1", "x2": "+1 617 555 0002"}}))
    yield join_input("200", "", json.dumps({"calls": [{"call_id": 7, "phone_number": "'6175550001'"}, {"id": "b"}]}))
