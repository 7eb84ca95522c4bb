"""Why a stored callback can be impossible to read: one stable code for each cause.

The code is kept as the callback's `reason`, counted in metrics and shown to people beside its
sentence. No sentence quotes the body, so none can carry a phone number into a log.
"""

from __future__ import annotations

from receiver.errors import ReceiverError

REASONS = {
    "empty": "The body holds nothing but blanks.",
    "undecodable": "The body is compressed in a way that cannot be undone, or to more than 1 MiB.",
    "not_recognised": "The body is no JSON, form or XML that holds the details of a call.",
    "malformed_json": "The body begins as JSON does, but is broken or cut off.",
    "malformed_xml": "The body begins as XML does, but is broken, cut off or declares a document type.",
    "malformed_form": "The body begins as a multipart form does, but its end is missing.",
    "too_deep": "The body nests deeper than the details of a call ever do.",
    "too_many_items": "The body holds more fields or elements than the details of a call ever do.",
    "several_calls": "The body lists more than one call; a callback tells of exactly one.",
    "no_phone_number": "The details of the call name no phone number.",
    "no_status": "The details of the call name no status.",
}
"""Each code with its sentence for people."""


class UnreadableBody(ReceiverError):
    """The body cannot be read as one call's details. `code` is a key of `REASONS`."""

    def __init__(self, code: str) -> None:
        super().__init__(REASONS[code], code=code)
