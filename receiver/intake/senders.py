"""The senders of requests to a `result_url`: their addresses, the ids of requests, and the log of refused ones."""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Sequence
from functools import lru_cache, partial
from itertools import count

from receiver.config import Network
from receiver.counts import counts
from receiver.intake.callback_rules import OVER_BUDGET, Answer
from receiver.intake.proxies import Proxies, is_in
from receiver.logs import OncePer, about
from receiver.model import SubmissionKey

REFUSALS_SECONDS = 10.0
"""At most one log line for each kind of refusal in this time, because anybody can cause refusals."""

_refusals = logging.getLogger(f"{__name__}.refusals")
_refusals.addFilter(OncePer(REFUSALS_SECONDS))

_VALID_ID = re.compile(r"[A-Za-z0-9._-]{8,64}", re.ASCII)


class Senders:
    """`networks`: the networks that may send results (`RESULT_SOURCES`). Empty: any. Each process creates its own
    object."""

    def __init__(self, proxies: Proxies, networks: Sequence[Network]) -> None:
        self.proxies = proxies
        # Cached, because every callback needs it: checking 20 networks takes 50 microseconds.
        self._is_source = lru_cache(maxsize=4096)(partial(is_in, networks=networks)) if networks else None
        self._process = secrets.token_hex(6)  # two processes must not give the same ids
        self._requests = count(1)

    def admit(self, peer: str, forwarded_for: str) -> bool:
        """Whether a request from `peer`, with `forwarded_for` (X-Forwarded-For), may send results."""
        return self._is_source is None or self._is_source(self.proxies.client(peer, forwarded_for))

    def request_id(self, given: str) -> str:
        """The id of a request: the sender's own if it is valid, else a new one."""
        return given if _VALID_ID.fullmatch(given) else f"{self._process}-{next(self._requests):x}"

    def record(self, answer: Answer, key: SubmissionKey | None, peer: str, forwarded_for: str, seconds: float) -> None:
        """Count an answer. A refusal is logged unless the same kind was logged recently. `key`: None if unknown."""
        counts.callback(answer.code, seconds if answer.waited else None)
        if not answer.refused:
            return
        if answer is OVER_BUDGET and key is not None:
            _refusals.error(
                "batch %d, submission %d: more callbacks than CALLBACK_BUDGET allows; further ones are not stored",
                key.batch_id, key.submission_no,
                extra=about("callback_budget_used_up", batch_id=key.batch_id, submission=key.submission_no),
            )  # fmt: skip
            return
        _refusals.warning(
            "a request to a result_url was refused: %s",
            answer.code,
            extra=about(f"callback_{answer.code}", address=self.proxies.client(peer, forwarded_for)),
        )
