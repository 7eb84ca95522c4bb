"""The errors of this project. Each has a stable code, and a sentence that explains what to do.

Only `receiver.web.problems` converts a code to an HTTP status, and only `receiver.cli` converts one to an exit status,
so that each is decided in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class ReceiverError(Exception):
    """The base class of all errors of this project.

    `code` is short and stable, for programs. The message is for people, and its wording may change.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None, **members: Any) -> None:
        """`members`: what the API's answer has besides."""
        super().__init__(message)
        self.members = members
        if code is not None:
            self.code = code


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault in a user's input.

    `where` is the name of a field, or the number of a CSV row (from 1, without the header).
    """

    where: str | int
    code: str
    message: str
    line: int | None = None
    """The row's line in a spreadsheet, where the header has line 1."""
    cell: str | None = field(default=None, compare=False, repr=False)
    """The row's destination as the user wrote it, for the dashboards. It may be a phone number: never log it."""


class InvalidInput(ReceiverError):
    """A user's input cannot be accepted. Nothing was stored and nothing was sent.

    `faults` contains at most the first hundred. `faults_total` is the number of all.
    """

    code = "invalid_parameters"

    def __init__(
        self,
        message: str,
        faults: Sequence[Fault] = (),
        *,
        faults_total: int | None = None,
        code: str | None = None,
        **members: Any,
    ) -> None:
        super().__init__(message, code=code, **members)
        self.faults = tuple(faults)
        self.faults_total = len(self.faults) if faults_total is None else faults_total


def invalid_parameter(name: str, code: str, message: str) -> InvalidInput:
    return InvalidInput("Some parameters are not valid.", [Fault(name, code, message)])


class ConfigurationError(ReceiverError):
    """The configuration is not valid. `faults` contains all of its faults."""

    code = "configuration"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.where}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class NotFound(ReceiverError):
    """The object does not exist, or the caller may not see it."""

    code = "not_found"
