"""Every failure this project raises on purpose: a stable code, and a sentence that says what to do.

Only `receiver.web.problems` turns a code into an HTTP status, and only `receiver.cli` turns one
into an exit status, so that each is decided in one place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class ReceiverError(Exception):
    """Base of every deliberate error.

    `code` is a short stable word that programs may branch on; the message is for people and may
    change its wording.
    """

    code = "error"

    def __init__(self, message: str, *, code: str | None = None) -> None:
        super().__init__(message)
        if code is not None:
            self.code = code


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing wrong with what a user handed in.

    `where` is the field's name, or the CSV row's number (from 1, the header not counted).
    """

    where: str | int
    code: str
    message: str


class InvalidInput(ReceiverError):
    """What a user handed in cannot be taken. Nothing was stored and nothing was sent.

    `faults` names at most the first hundred; `faults_total` counts all of them.
    """

    code = "invalid_parameters"

    def __init__(
        self,
        message: str,
        faults: Sequence[Fault] = (),
        *,
        faults_total: int | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message, code=code)
        self.faults = tuple(faults)
        self.faults_total = len(self.faults) if faults_total is None else faults_total


class ConfigurationError(ReceiverError):
    """The environment does not describe a service that can start. Every fault is named at once."""

    code = "configuration"

    def __init__(self, faults: Sequence[Fault]) -> None:
        super().__init__("; ".join(f"{fault.where}: {fault.message}" for fault in faults))
        self.faults = tuple(faults)


class NotFound(ReceiverError):
    """No such thing, or none that this caller may see."""

    code = "not_found"
