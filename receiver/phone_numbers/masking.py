"""Where a text mentions one phone number, in any spelling. No I/O."""

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
"""The inside of a character class: what may come between two digits of a number."""

_MOST_SEPARATORS = 3

_ENCODING_ROUNDS = 3
"""How many encodings may be nested in one another, such as a JSON text in a field of a form."""

_escaped = re.compile(r"\\+u([0-9A-Fa-f]{4})")
_exponent = re.compile(rb"[0-9]\.?[Ee][+0-9]")
_ENCODED = (b"%", b"\\u", b"&#")
_NO_DIGIT = bytes(byte for byte in range(256) if not 0x30 <= byte <= 0x39)


class Mentions:
    """Finds one number, given as E.164 without its plus sign, in texts.

    A spelling is the digits, of any script, with up to three separators between any two, with or without the country
    code (after a plus sign, 00, 011 or nothing) and a trunk 0; no other digit touches it. `6.17555E9` is one, too.
    Digits and separators may be percent-encoded, or written as escapes of JSON or of XML.
    """

    def __init__(self, phone_number: int) -> None:
        parsed = phonenumbers.parse(e164(phone_number))
        digits = phonenumbers.national_significant_number(parsed)
        written = (digits, f"{parsed.country_code}{digits}")
        self._digits = digits.encode()
        self._values = tuple(int(each) for each in written)
        self.sieve = _sieve(digits, str(parsed.country_code))
        """A regular expression for Postgres: true of each text that mentions the number, and of some that do not."""
        between = f"[{_SEPARATORS}]{{0,{_MOST_SEPARATORS}}}"
        country = between.join(str(parsed.country_code))
        national = between.join(digits)
        self._spelt = re.compile(
            rf"(?<![0-9])(?:(?:\+|00{between}|011{between})?{country}{between})?(?:0{between})?{national}(?![0-9])"
        )
        # The code of another country before the digits makes them another number.
        self._abroad = re.compile(rf"\+[0-9]{{1,3}}{between}\Z")
        self._scientific = re.compile("|".join(map(_scientific, written)))

    def within(self, text: str) -> bool:
        """Whether the text names the number, also where it is encoded."""
        if self._is_spelt(text):
            return True
        for _ in range(_ENCODING_ROUNDS):
            decoded = _decoded(text)
            if decoded == text:
                return False
            if self._is_spelt(decoded):
                return True
            text = decoded
        return False

    def may_be_within(self, body: bytes) -> bool:
        """A quick test of a body: False only where `within` is False for the text that it holds.

        Of a body that is not ASCII, or holds an encoding, it says nothing: True.
        """
        if not body.isascii() or b"\0" in body or any(mark in body for mark in _ENCODED):
            return True
        if self._digits in body.translate(None, _NO_DIGIT):
            return True
        return _exponent.search(body) is not None

    def removed(self, text: str) -> str:
        """The text with `erased` in place of the number. Where the number is encoded, the text is decoded first."""
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
    # Encoded digits are so rare that each text with one may be read again: to describe them takes eight times as long.
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
    """Each decimal digit of another script, and the same of ASCII."""
    return {code: str(int(chr(code))) for code in range(0x80, 0x20000) if chr(code).isdecimal()}


@lru_cache(maxsize=1)
def _scripts() -> tuple[str, ...]:
    """By value: this digit in all scripts."""
    return tuple(
        digit + "".join(chr(code) for code, value in _ascii_digits().items() if value == digit)
        for digit in "0123456789"
    )
