"""A token: only a correctly signed token identifies a submission; a changed token never does."""

from __future__ import annotations

import string
from collections.abc import Iterator

from receiver.intake.token import ResultTokens, result_url
from receiver.model import SubmissionKey
from tests.fuzz.envelope import text

TOKENS = ResultTokens(["a secret that signs", "an older one"])
_ALPHABET = string.ascii_letters + string.digits + "-_."
_OLDER = ResultTokens(["an older one"])


def check_token(inputs: bytes) -> None:
    """The input: the token as it is in the URL."""
    token = text(inputs)
    key = TOKENS.read(token)
    if key is not None:
        assert token in (TOKENS.sign(key), _OLDER.sign(key))
    if len(inputs) >= 8:
        batch_id = int.from_bytes(inputs[:8], "big") % (10**18 - 1) + 1
        submission_no = int.from_bytes(inputs[-4:], "big") % (10**9 - 1) + 1
        key = SubmissionKey(batch_id, submission_no)
        signed = TOKENS.sign(key)
        assert TOKENS.read(signed) == key
        assert len(signed) <= 80 and len(result_url("https://" + "h" * 100, signed)) <= 255
        assert TOKENS.read(signed + token) is None and TOKENS.read(token + signed) is None
        for at in (inputs[0] % len(signed), -1):  # two bits of the last character have no meaning
            changed = list(signed)
            changed[at] = _ALPHABET[inputs[1] % len(_ALPHABET)]
            assert changed == list(signed) or TOKENS.read("".join(changed)) is None


def samples() -> Iterator[bytes]:
    for key in (SubmissionKey(42, 7), SubmissionKey(10**18 - 1, 10**9 - 1)):
        yield TOKENS.sign(key).encode()
        yield _OLDER.sign(key).encode()
    yield b"42-7."
