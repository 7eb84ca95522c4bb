from __future__ import annotations

import hmac
import string

import pytest
from itsdangerous import Signer

import receiver.intake.token as token_module
from receiver.intake.token import ResultTokens, result_url
from receiver.model import SubmissionKey

KEY = SubmissionKey(42, 7)
TOKENS = ResultTokens(["first secret"])
TOKEN = TOKENS.sign(KEY)


@pytest.mark.parametrize("key", [SubmissionKey(1, 1), KEY, SubmissionKey(10**18 - 1, 10**9 - 1)])
def test_token_names_its_submission_and_fits_a_result_url(key: SubmissionKey) -> None:
    token = TOKENS.sign(key)
    assert TOKENS.read(token) == key
    assert len(token) <= 80
    assert set(token) <= set(string.ascii_letters + string.digits + "-_.")
    assert result_url("https://calls.example", token) == f"https://calls.example/results/{token}"


def test_same_submission_gets_the_same_token_again() -> None:
    assert TOKENS.sign(KEY) == ResultTokens(["first secret"]).sign(KEY) == TOKEN


def test_first_secret_signs_and_all_verify() -> None:
    rotated = ResultTokens(["new secret", "first secret", "oldest secret"])
    assert rotated.sign(KEY) == ResultTokens(["new secret"]).sign(KEY)
    for secret in ("new secret", "first secret", "oldest secret"):
        assert rotated.read(ResultTokens([secret]).sign(KEY)) == KEY


def test_token_of_a_dropped_secret_is_refused() -> None:
    assert ResultTokens(["new secret"]).read(TOKEN) is None
    assert TOKENS.read(ResultTokens(["new secret", "first secret"]).sign(KEY)) is None


def test_no_character_can_be_changed() -> None:
    """Also not the last one, although its lowest bits are not part of the signature."""
    alphabet = string.ascii_letters + string.digits + "-_."
    for position, original in enumerate(TOKEN):
        for other in alphabet.replace(original, ""):
            assert TOKENS.read(TOKEN[:position] + other + TOKEN[position + 1 :]) is None, (position, other)


def test_probe_is_signed_and_names_no_submission() -> None:
    probe = TOKENS.sign_probe()
    assert TOKENS.is_probe(probe) and ResultTokens(["new secret", "first secret"]).is_probe(probe)
    assert TOKENS.read(probe) is None
    assert not TOKENS.is_probe(TOKEN)
    for forged in (
        ResultTokens(["another"]).sign_probe(),
        probe[:-1],
        probe + "A",
        "0-0.",
        "0-0",
        TOKEN.replace("42-7", "0-0"),
    ):
        assert not TOKENS.is_probe(forged), forged


@pytest.mark.parametrize("length", range(len(TOKEN)))
def test_truncated_token_is_refused(length: int) -> None:
    assert TOKENS.read(TOKEN[:length]) is None
    assert TOKENS.read(TOKEN[len(TOKEN) - length :]) is None


@pytest.mark.parametrize("junk", [" ", "!", "=", "\n", ".", "/", "%20", "\0", "é", "A", "\u0661"])
def test_nothing_may_be_added(junk: str) -> None:
    for position in range(len(TOKEN) + 1):
        assert TOKENS.read(TOKEN[:position] + junk + TOKEN[position:]) is None, position


def test_parts_of_two_tokens_do_not_combine() -> None:
    payload, signature = TOKEN.split(".")
    other_payload, other_signature = TOKENS.sign(SubmissionKey(42, 8)).split(".")
    for swapped in (
        f"{payload}.{other_signature}",
        f"{other_payload}.{signature}",
        f"{signature}.{payload}",
        f"7-42.{signature}",
    ):
        assert TOKENS.read(swapped) is None


def test_signature_made_for_another_purpose_is_refused() -> None:
    for salt in ("itsdangerous.Signer", "cursor calls", ""):
        assert TOKENS.read(Signer("first secret", salt=salt).sign("42-7").decode()) is None


@pytest.mark.parametrize(
    "payload",
    ["", "42", "42-", "-7", "0-7", "42-0", "042-7", "42-7-1", "+42-7", " 42-7", "42-7 ", "4_2-7", "42.7-1", "a-b",
     "\u0664\u0662-7", "42-7\n", f"{10**18}-1", f"1-{10**9}"],
)  # fmt: skip
def test_signed_text_of_another_format_is_refused(payload: str) -> None:
    signer = TOKENS._signer
    assert TOKENS.read(signer.sign(payload).decode()) is None


@pytest.mark.parametrize(
    "text", ["", ".", "..", "-", "é", "\ud800", "\0", "🦄.🦄", "null", "../../etc/passwd", "a" * 100_000, "." * 10_000]
)
def test_any_other_text_is_refused(text: str) -> None:
    assert TOKENS.read(text) is None


def test_memory_of_valid_tokens_is_limited_and_forged_ones_are_not_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(token_module, "KEPT_TOKENS", 3)
    tokens = ResultTokens(["first secret"])
    for number in range(1, 11):
        key = SubmissionKey(42, number)
        genuine = tokens.sign(key)
        forged = genuine[:-43] + TOKENS.sign(SubmissionKey(9, 9))[-43:]
        for _ in range(2):
            assert tokens.read(genuine) == key
            assert tokens.read(forged) is None
        assert forged not in tokens._known
        assert len(tokens._known) <= 3


def test_signature_is_compared_in_constant_time_and_by_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    """So the time of an answer does not show how much of a forged signature was right."""
    compared: list[tuple[int, int]] = []
    really, agree = hmac.compare_digest, [True]

    def compare(left: bytes, right: bytes) -> bool:
        compared.append((len(left), len(right)))
        return really(left, right) if agree[0] else False

    monkeypatch.setattr(hmac, "compare_digest", compare)
    rotated = ResultTokens(["new secret", "first secret"])
    payload, signature = TOKEN.split(".")
    for forged in ("A" * 43, signature[:-1] + ("A" if signature[-1] != "A" else "E"), "A" + signature[1:]):
        compared.clear()
        assert rotated.read(f"{payload}.{forged}") is None
        assert compared == [(32, 32)] * 2, "each secret, the whole signature, however much of it is right"
    agree[0] = False
    assert rotated.read(TOKEN) is None, "no other check accepts a token"
    agree[0] = True
    assert rotated.read(TOKEN) == KEY
