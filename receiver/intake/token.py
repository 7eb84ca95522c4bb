"""The signed token in a `result_url`, which identifies the submission.

It contains the submission's key as plain text and a signature (HMAC-SHA256, itsdangerous), so that a forged token is
refused without access to the database.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence

from itsdangerous import Signer

from receiver.model import SubmissionKey

# Base64 decoders ignore characters outside their alphabet, and the last two of the 258 bits of 43 characters. So the
# exact format is checked, and each submission has exactly one token.
_TOKEN = re.compile(r"([1-9][0-9]{0,17})-([1-9][0-9]{0,8})\.[A-Za-z0-9_-]{42}[AEIMQUYcgkosw048]", re.ASCII)

_PROBE = "0-0"
"""No batch has the number 0, and `_TOKEN` does not match it."""

KEPT_TOKENS = 10_000
"""How many valid tokens are kept in memory, because each is received once for every call of its submission."""


class ResultTokens:
    """Signs and reads tokens.

    `secret_keys`: the first key signs, all keys verify. A new key is added at the front. An old key can be removed when
    the last batch with its tokens has ended.
    """

    def __init__(self, secret_keys: Sequence[str]) -> None:
        # itsdangerous signs with the last of its keys.
        self._signer = Signer(
            [key.encode() for key in reversed(secret_keys)], salt="result_url", digest_method=hashlib.sha256
        )
        self._known: dict[str, SubmissionKey] = {}

    def sign_probe(self) -> str:
        """A token without a submission, to check that a `result_url` leads here. Nothing can be stored with it."""
        return self._signer.sign(_PROBE).decode()

    def is_probe(self, token: str) -> bool:
        """Whether it is the token of a probe, signed here."""
        return looks_like_probe(token) and self._signer.validate(token)

    def sign(self, key: SubmissionKey) -> str:
        """The token of a submission: at most 80 characters, each safe in a path."""
        return self._signer.sign(f"{key.batch_id}-{key.submission_no}").decode()

    def read(self, token: str) -> SubmissionKey | None:
        """The submission of a token; None if it was not signed here.

        Only valid tokens are kept in memory. All others are compared in constant time, each time.
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
    """Whether it has the form of a probe's token; the signature is not checked."""
    return token.startswith(f"{_PROBE}.")


def result_url(public_url: str, token: str) -> str:
    """The URL to which the provider POSTs results."""
    return f"{public_url}/results/{token}"
