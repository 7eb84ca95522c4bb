"""Why a stored callback cannot be read: one stable code for each cause.

The code is stored as the callback's `reason`, counted in metrics, and shown to people with its sentence. No sentence
quotes the body, so that no phone number gets into a log.
"""

from __future__ import annotations

from receiver.errors import ReceiverError

REASONS = {
    "empty": "The body is blank.",
    "undecodable": "The body cannot be decompressed, or is longer than 1 MiB when decompressed.",
    "not_recognised": "The body is not JSON, a form or XML with the details of a call.",
    "malformed_json": "The body begins like JSON, but is malformed or truncated.",
    "malformed_xml": "The body begins like XML, but is malformed, truncated or declares a document type.",
    "malformed_form": "The body begins like a multipart form, but its end is missing.",
    "too_deep": "The body is nested too deeply to be the details of a call.",
    "too_many_items": "The body has too many fields or elements to be the details of a call.",
    "several_calls": "The body has more than one call; a callback must have exactly one.",
    "no_phone_number": "The body has no phone number.",
    "no_status": "The body has no status.",
}
"""Each code with its sentence for people."""


class UnreadableBody(ReceiverError):
    """The body cannot be read as one call's details. `code` is a key of `REASONS`."""

    def __init__(self, code: str) -> None:
        super().__init__(REASONS[code], code=code)
