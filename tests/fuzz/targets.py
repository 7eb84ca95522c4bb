"""Every target by its name, and the bounds that hold for all of them."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz import answers, callbacks, csv_files, destinations, forms, tokens

CORPUS = Path(__file__).parent / "corpus"
INPUT_BYTES = 65_536
SECONDS = 1.0
"""Of processor time, for one input; with coverage measured, so without it is far less."""
MEMORY_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Target:
    """`check` fails if a promise is broken; `samples` are inputs that go deep; `words` help a mutator."""

    name: str
    check: Callable[[bytes], None]
    samples: Callable[[], Iterable[bytes]]
    words: tuple[str, ...] = ()

    def corpus(self) -> list[Path]:
        """Inputs that were found before, and each that ever broke a promise."""
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
    )
}


class BoundExceeded(Exception):
    """One input took more time than any may. It is no assertion, so nothing that is checked can catch it."""


def check_within_bounds(target: Target, inputs: bytes) -> None:
    """Check one input, with no more memory than it may have on top of what the interpreter holds already."""
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    _, most = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY_BYTES, most))
    began = time.thread_time()
    try:
        target.check(inputs)
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
    spent = time.thread_time() - began
    if spent > SECONDS:
        raise BoundExceeded(f"{target.name} took {spent:.1f} s")
