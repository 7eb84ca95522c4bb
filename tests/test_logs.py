"""Log lines: their content, and what they never contain."""

from __future__ import annotations

import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest

from receiver.logs import JsonFormatter, OncePer, TextFormatter, about, logging_config, redact, request_id
from tests.web.asking import results_path

NUMBERS = (
    "+16175551299",
    "16175551299",
    "6175551299",
    "tel:+16175551299;ani=8009957586",
    "'6175551299'",
    "(617) 555-1299",
    "617-555-1299",
    "617.555.1299",
    "1 617 555 1299",
    "1-617-555-1299",
    "(617)555-1299",
    "617555-1299",
    "617 5551299",
    "call-617-555-1299",
    "/calls/%28617%29%20555%2d1299",
    "+1 (617) 555-1299",
    "+44 20 7946 0958",
    "%2B16175551299",
    "phone_number=(16175551299)",
    "batch 12 6175551299",
)


@pytest.fixture
def log() -> Iterator[tuple[logging.Logger, io.StringIO]]:
    """A logger of the test, and its output as JSON."""
    written = io.StringIO()
    line = logging.StreamHandler(written)
    line.setFormatter(JsonFormatter(["a-provider-key"]))
    logger = logging.Logger("receiver.test")
    logger.addHandler(line)
    yield logger, written


@pytest.mark.parametrize("text", NUMBERS)
def test_only_the_last_two_digits_of_a_phone_number_stay(text: str) -> None:
    output = redact(f"asked about {text}, and again")
    digits = [letter for letter in text if letter.isdigit()]
    assert "".join(digits[-6:]) not in "".join(letter for letter in output if letter.isdigit())
    assert not any(number in output for number in ("6175551", "555-12", "555 12", "555.12", "7946"))
    assert text[-1] not in "9586" or text[-2:].strip("')") in output


@pytest.mark.parametrize(
    "text",
    [
        "submission sent: batch 12, submission 3, try 1: accepted, provider status 200",
        "2026-03-01 12:00:00.123 took 0.123456 s",
        "connection to 192.168.10.12, port 5432 failed",
        "[::1]:8000 answered 503",
        "c455a238415a-4",
        "0190a5b3-1234-5678-9012-3456789012ab",
        "/static/%C3%A9/app.css",
        "pid 1234567, 65536 bytes",
    ],
)
def test_text_without_secrets_is_unchanged(text: str) -> None:
    assert redact(text) == text


def test_tokens_keys_and_passwords_are_redacted() -> None:
    token = results_path(12, 3).rpartition("/")[2]
    key = "rr_abcdEFGH_" + "k" * 43
    output = redact(
        f"POST /results/{token} Bearer {key} postgresql://me:pa@ss:w@db/receiver PLUM_KEY=sesame Basic bWU6c2VzYW1l"
        " the word is open-sesame",
        ["open-sesame"],
    )
    assert "/results/12-3.[redacted]" in output, "the ids of a token are useful and not secret"
    assert not any(secret in output for secret in (token[-43:], "k" * 43, "pa@ss", "sesame", "bWU6"))


def test_line_is_one_json_object_with_event_ids_and_durations(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    token = request_id.set("req-00000001")
    try:
        logger.warning("batch %d\nis late", 42, extra=about("batch_late", batch_id=42, seconds=1.5, who="+16175551299"))
    finally:
        request_id.reset(token)
    assert written.getvalue().count("\n") == 1
    output = json.loads(written.getvalue())
    assert output.pop("time").endswith("Z") and output.pop("process") > 0
    assert output == {
        "level": "warning",
        "event": "batch_late",
        "message": "batch 42\nis late",
        "request_id": "req-00000001",
        "batch_id": 42,
        "seconds": 1.5,
        "who": "+*********99",
        "logger": "receiver.test",
    }


def test_traceback_is_logged_and_redacted(log: tuple[logging.Logger, io.StringIO]) -> None:
    logger, written = log
    try:
        raise ValueError("Key (row, phone_number)=(3, 16175551299) with a-provider-key")
    except ValueError:
        logger.exception("failed")
    output = json.loads(written.getvalue())
    assert output["exception"].startswith("Traceback") and "*********99" in output["exception"]
    assert "5551299" not in written.getvalue() and "a-provider-key" not in written.getvalue()


def test_text_from_outside_cannot_forge_a_line_or_move_the_cursor() -> None:
    record = logging.LogRecord("x", logging.INFO, "", 0, "path /a\n12:00:00 ERROR forged \x1b[2J", (), None)
    output = TextFormatter(colour=False).format(record)
    assert "\n" not in output and "\x1b" not in output
    assert "\x1b[32m" in TextFormatter(colour=True).format(record)


def test_fields_and_exceptions_cannot_forge_a_line_or_move_the_cursor() -> None:
    hostile = "/a\n12:00:00.000 error   forged \x1b[2J\x9b2J\x7f\u2028\u202e"
    record = logging.LogRecord("x", logging.INFO, "", 0, "asked", (), None)
    record.fields = {"path": hostile}
    try:
        raise ValueError(hostile)
    except ValueError:
        record.exc_info = sys.exc_info()
    text = TextFormatter(colour=False).format(record)
    first, *more = text.split("\n")
    assert "forged" in first and all(line.startswith("  ") for line in more)
    written = JsonFormatter().format(record)
    assert json.loads(written)["path"] == hostile
    for line in (*text.split("\n"), written):
        assert line.isprintable()


def test_repeated_events_are_logged_once_in_an_interval_with_their_number() -> None:
    now = 1000.0
    once = OncePer(10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("receiver.logs.time.monotonic", lambda: now)
        passed = []
        for second in (0, 1, 2, 3, 11):
            now = 1000.0 + second
            record = logging.LogRecord("x", logging.WARNING, "", 0, "refused", (), None)
            passed.append((once.filter(record), getattr(record, "suppressed", None)))
    assert passed == [(True, 0), (False, None), (False, None), (False, None), (True, 3)]


@pytest.mark.parametrize(("form", "begins"), [(None, "{"), ("json", "{"), ("text", "1"), ("text", "2"), ("text", "0")])
def test_format_is_json_except_on_a_terminal_or_if_set(form: str | None, begins: str) -> None:
    program = (
        "import logging; from receiver.logs import start_logging;"
        f"start_logging('info', {form!r}); logging.getLogger('x').info('logged'); logging.getLogger('x').debug('no')"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stderr == "" and len(ran.stdout.splitlines()) == 1
    assert ran.stdout.startswith("{") == (begins == "{")


def test_gunicorn_uses_the_same_configuration_and_logs_no_requests() -> None:
    loggers = logging_config("info", "json")["loggers"]
    assert loggers["gunicorn.access"]["propagate"] is False
    assert loggers["gunicorn.error"] == {"level": "WARNING", "handlers": [], "propagate": True}
