"""The token in a `result_url`: signed, and all that is needed to know whose callback this is.

It carries the submission's key in the clear and a signature over it (HMAC-SHA256, itsdangerous),
so that a forged one is turned away without touching the database.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from itsdangerous import Signer

from receiver.model import SubmissionKey

# Base64 decoders pass over strange characters, and over the last two bits of the 258 that 43 characters
# hold; so the shape is checked to the letter, for each submission to have exactly one token.
_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,8})\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)

_PROBE = "0-0"
"""No batch has the number 0, and `_TOKEN` has no room for it."""

KEPT_TOKENS = 10_000
"""How many tokens that were found to be signed here are remembered: each comes once for every call."""


class ResultTokens:
    """Signs and reads tokens.

    `secret_keys`: the first signs, all verify; so a new secret is put first, and the old one is
    dropped once the last batch signed with it is over.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        # itsdangerous signs with the last of its keys.
        self._signer = Signer(
            [key.encode() for key in reversed(secret_keys)], salt="result_url", digest_method=hashlib.sha256
        )
        self._known: dict[str, SubmissionKey] = {}

    def sign_probe(self) -> str:
        """A token of no submission, to ask whether a `result_url` leads here: whoever learns it can store nothing."""
        return self._signer.sign(_PROBE).decode()

    def is_probe(self, token: str) -> bool:
        """Whether it is a probe's token, signed here. A genuine one of a submission is none."""
        return looks_like_probe(token) and self._signer.validate(token)

    def sign(self, key: SubmissionKey) -> str:
        """The token of a submission: at most 80 characters, each safe in a path."""
        return self._signer.sign(f"{key.batch_id}-{key.submission_no}").decode()

    def read(self, token: str) -> SubmissionKey | None:
        """The submission a token names; None where it was not signed here.

        A forged one is compared in constant time, each time. Only a whole, genuine one is found in memory.
        """
        known = self._known.get(token)
        if known is not None:
            return known
        match = _TOKEN.fullmatch(token)
        if match is None or not self._signer.validate(token):
            return None
        key = SubmissionKey(int(match[1]), int(match[2]))
        if len(self._known) >= KEPT_TOKENS:
            self._known.clear()
        self._known[token] = key
        return key


def looks_like_probe(token: str) -> bool:
    """Whether it is meant as a probe's token, whoever signed it."""
    return token.startswith(f"{_PROBE}.")


def result_url(public_url: str, token: str) -> str:
    """What the provider is told to POST results to."""
    return f"{public_url}/results/{token}"
