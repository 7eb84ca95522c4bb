"""Find and remove one phone number in a text, in any spelling. No I/O."""

from __future__ import annotations

import html
import re
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from urllib.parse import unquote_plus

import phonenumbers

from receiver.model import ERASED, e164

_SEPARATORS = (
    r" \t\r\n\v\f+.,:_()\[\]/'\-\u00a0\u00ad\u1680\u2000-\u2015\u2028-\u202f\u205f-\u2069\u2212\u3000"
    r"\ufe58\ufe63\ufeff\uff0b-\uff0f"
)
"""The characters that may separate two digits of a number, as the inside of a character class."""

_MOST_SEPARATORS = 3

_ENCODING_ROUNDS = 3
"""How many encodings may be nested, such as a JSON text in a field of a form."""

_escaped = re.compile(r"\\+u([0-9A-Fa-f]{4})")
_exponent = re.compile(rb"[0-9]\.?[Ee][+0-9]")
_ENCODED = (b"%", b"\\u", b"&#")
_NO_DIGIT = bytes(byte for byte in range(256) if not 0x30 <= byte <= 0x39)


class Mentions:
    """Finds one number in texts. It is given as E.164 without its plus sign.

    A spelling is the digits, of any script, with up to three separators between two digits, and with or without the
    country code (after a plus sign, 00, 011 or nothing) and a trunk 0. No other digit may be next to it. Scientific
    notation is a spelling, too (`6.175551234E9`). Digits and separators may be percent-encoded, or escaped as in JSON
    or XML.
    """

    def __init__(self, phone_number: int) -> None:
        parsed = phonenumbers.parse(e164(phone_number))
        digits = phonenumbers.national_significant_number(parsed)
        written = (digits, f"{parsed.country_code}{digits}")
        self._digits = digits.encode()
        self._values = tuple(int(each) for each in written)
        self.sieve = _sieve(digits, str(parsed.country_code))
        """A regular expression for Postgres. It matches each text that mentions the number, and some others."""
        between = f"[{_SEPARATORS}]{{0,{_MOST_SEPARATORS}}}"
        country = between.join(str(parsed.country_code))
        national = between.join(digits)
        self._spelt = re.compile(
            rf"(?<![0-9])(?:(?:\+|00{between}|011{between})?{country}{between})?(?:0{between})?{national}(?![0-9])"
        )
        # After the code of another country, the digits are another number.
        self._abroad = re.compile(rf"\+[0-9]{{1,3}}{between}\Z")
        self._scientific = re.compile("|".join(map(_scientific, written)))

    def within(self, text: str) -> bool:
        """Whether the text mentions the number, encoded or not."""
        for _ in range(_ENCODING_ROUNDS):
            if self._is_spelt(text):
                return True
            decoded = _decoded(text)
            if decoded == text:
                return False
            text = decoded
        return self._is_spelt(text)

    def may_be_within(self, body: bytes) -> bool:
        """A quick check of a body. If it is False, `within` is False for the body's text.

        Always True for a body that is not ASCII or contains an encoding.
        """
        if not body.isascii() or b"\0" in body or any(mark in body for mark in _ENCODED):
            return True
        if self._digits in body.translate(None, _NO_DIGIT):
            return True
        return _exponent.search(body) is not None

    def removed(self, text: str) -> str:
        """The text with the number replaced by `erased`. A text that contains it encoded is decoded first."""
        for _ in range(_ENCODING_ROUNDS + 1):
            text = self._spelt.sub(lambda found: found[0] if self._is_abroad(found) else ERASED, text)
            text = self._scientific.sub(lambda found: ERASED if self._is_value(found[0]) else found[0], text)
            if not self.within(text):
                return text
            text = _decoded(text)
        return ERASED

    def _is_spelt(self, text: str) -> bool:
        return any(not self._is_abroad(found) for found in self._spelt.finditer(text)) or any(
            self._is_value(found[0]) for found in self._scientific.finditer(text)
        )

    def _is_abroad(self, found: re.Match[str]) -> bool:
        return self._abroad.search(found.string, max(0, found.start() - 8), found.start()) is not None

    def _is_value(self, written: str) -> bool:
        try:
            return Decimal(written.replace(",", ".")) in self._values
        except InvalidOperation:
            return False


def _sieve(digits: str, country_code: str) -> str:
    between = rf"(?:[^0-9]|%[0-9A-Fa-f]{{2}}){{0,{_MOST_SEPARATORS}}}"
    spelt = between.join(f"[{_scripts()[int(digit)]}]" for digit in digits)
    mantissa = "[.,]?".join(digits.rstrip("0"))
    scientific = rf"(?:{'[.,]?'.join(country_code)})?[.,]?{mantissa}[.,]?0*[.,]?0*[eE][+]?[0-9]"
    # Match every text with an encoded digit: they are rare, and an exact pattern for them takes eight times as long.
    return "|".join([spelt, scientific, r"%3[0-9]|\\u[0-9]|&#"])


def _scientific(digits: str) -> str:
    return rf"(?<![0-9.,]){'[.,]?'.join(digits.rstrip('0'))}[.,]?0*[eE]\+?[0-9]{{1,2}}(?![0-9])"


def _decoded(text: str) -> str:
    """One round of decoding: percent-encoding, escapes of JSON and XML, digits of other scripts."""
    if "%" in text:
        text = unquote_plus(text)
    if "\\" in text:
        text = _escaped.sub(lambda found: chr(int(found[1], 16)), text)
    if "&" in text:
        text = html.unescape(text)
    return text if text.isascii() else text.translate(_ascii_digits())


@lru_cache(maxsize=1)
def _ascii_digits() -> dict[int, str]:
    """The ASCII digit for each decimal digit of another script."""
    return {code: str(int(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()}


@lru_cache(maxsize=1)
def _scripts() -> tuple[str, ...]:
    """For each value from 0 to 9, its digits in all scripts."""
    return tuple(
        digit + "".join(chr(code) for code, value in _ascii_digits().items() if value == digit)
        for digit in "0123456789"
    )
