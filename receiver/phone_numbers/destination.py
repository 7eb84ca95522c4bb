"""Read a destination (provider page: Queue multiple calls, "The CSV") as an E.164 number.

    6175551234   16175551234   tel:+16175551234   16175551234;ani=8009957586
    16175551234;postd=2   tel:+16175551234;ani=8009957586;postd=2

Spaces, dots, brackets and dashes are allowed between the digits. The provider receives the destination as the user
wrote it, trimmed. So this refuses, row by row, what the provider may not understand: letters, digits of other scripts,
extensions, undocumented parameters. The provider would refuse the complete CSV or call a wrong number.

A spreadsheet may treat a phone number as an amount. Then it adds a decimal part (`6175551234.0`), which must not be
read as further digits, or shortens the number (`6.17556E+09`). `_has_decimal_part` distinguishes a decimal point from a
dot that separates digits.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

import phonenumbers
from phonenumbers import shortnumberinfo

from receiver.errors import Fault, InvalidInput, ReceiverError
from receiver.model import masked
from receiver.phone_numbers.numbering_plan import LONGEST_EMERGENCY_NUMBER, NumberingPlan, numbering_plan, valid_region
from receiver.text.cells import MARGIN
from receiver.text.quoting import quoted

MAX_LENGTH = 200
"""Characters of a destination, including parameters. Longer text is refused before it is parsed."""

MAX_DIGITS = 15
"""Digits of an E.164 number, country code included (ITU-T E.164, 6.2.1)."""

_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_AROUND = MARGIN + "'"
_beginning = re.compile(rf"\A[{re.escape(_AROUND)}]++").sub
_WITHOUT_SPACES = str.maketrans("", "", _SPACES)
_PUNCTUATION = _SPACES + _DASHES + ".()[]"
_WITHOUT_PUNCTUATION = str.maketrans("", "", _PUNCTUATION)

_plain = re.compile(r"(?:[Tt][Ee][Ll]:)?(\+?)([0-9]{1,32})").fullmatch
usually_spelled = re.compile(r"(?:tel:)?\s*+\+?[0-9\s().-]+(?:;[a-z]+=[!-:<-~ ]*)*", re.I | re.A).fullmatch
"""Whether a destination has only the characters of the provider page, and spaces, dots, round brackets and hyphens. The
provider may leave out others. The `*+` is possessive: without it, a long cell of spaces would take a minute."""
_caller_id = re.compile(r"\+?[0-9]{3,15}").fullmatch
_keys = re.compile(r"[0-9*#a-d,pw]{1,64}").fullmatch
_digits_only = re.compile(r"[0-9]+").fullmatch
_digit_runs = re.compile(r"[0-9]+").findall
_between = re.escape(_PUNCTUATION)
_one_number = re.compile(rf"[^0-9+]*+(\+?)[{_between}]*+([0-9][0-9{_between}]*+)[^0-9]*+").fullmatch
"""One number and no other digits. Other digits could be an extension, an exponent or an escape."""
_zero_fraction = re.compile(r"(?<=[0-9]{7})\.0+(?=[^0-9]*\Z)")
"""The end of a phone number that was converted to a floating-point number."""
_ends_with_comma_digits = re.compile(r"[^,]*[0-9],[0-9]+[^0-9,]*").fullmatch
_dots_commas_exponents = re.compile("[.,Ee]").search
_exponent = re.compile(r"[+-]?[0-9]+(?:[.,][0-9]*)?[Ee][+-]?[0-9]+").fullmatch

_MANY_DIGITS = 7
"""Fewer digits before the only dot are an area code, or an area code and an exchange (`617555.1234`)."""


class DestinationError(ReceiverError):
    """The destination cannot be called. The message never shows the whole number.

    Codes: `destination_empty`, `destination_too_long` (the text, or more digits than E.164 allows),
    `destination_malformed` (a character that is not allowed, or a decimal part), `destination_parameter` (unknown,
    repeated or unreadable `;name=value`), `destination_emergency`, `destination_short_code`, `destination_invalid`
    (digits that are not a valid number).
    """

    code = "destination_invalid"


@dataclass(frozen=True, slots=True)
class Destination:
    """The E.164 number without its plus sign, the caller id to show (digits, with a plus sign if the user wrote one),
    and the keys to press when connected (letters in lower case).
    """

    phone_number: int
    ani: str | None = None
    postd: str | None = None


def trimmed_destination(text: str) -> str:
    """The text as the provider gets it: without white space, invisible marks and apostrophes around it. Spreadsheets
    write the apostrophes, and the provider may not accept them."""
    if len(text) <= MAX_LENGTH:
        return text.strip(_AROUND)
    # `strip` takes six times as long as `sub` for a cell of 64 KiB.
    without_beginning = _beginning("", text, 1)
    return _beginning("", without_beginning[::-1], 1)[::-1]


def parse(text: str, region: str) -> Destination:
    """Read a destination. A number without country code belongs to `region` (see `valid_region`).

    Raises `DestinationError`, and ValueError for an unknown region.
    """
    plan = numbering_plan(region)
    plain = _plain(text)
    number = plan.quick(plain[2], plain[1] != "") if plain is not None else None
    if number is not None and number < 10**MAX_DIGITS:
        return Destination(number)
    return _parse_any(text, plan)


def read_number(text: str, region: str, field: str = "phone_number") -> int:
    """The E.164 number that a person entered into this field. Raises InvalidInput."""
    try:
        return parse(text.strip(), region).phone_number
    except DestinationError as error:
        fault = Fault(field, error.code, str(error))
        raise InvalidInput("This is not a valid phone number.", [fault]) from None


def candidates(text: str, region: str) -> tuple[int, ...]:
    """The E.164 numbers that a callback's `phone_number` may mean, the most probable first.

    A callback may spell the number differently from the CSV (provider page: The callback). So the readings are: the
    number as `parse` reads it, its digits unchanged, with the region's country code added, and with a leading 1 removed
    or added. The caller searches one submission for each of them in this order.

    Empty if the text contains no number, or contains other digits: together they could be another person's number.
    Never raises: if phonenumbers does not know the region, the readings are those that need no region.
    """
    plan = numbering_plan(region) if valid_region(region) else None
    if len(text) > MAX_LENGTH:
        return ()
    written = _zero_fraction.sub("", text.partition(";")[0].partition("@")[0])
    found = _one_number(written)
    if found is None or any(character.isdigit() and not character.isascii() for character in written):
        return ()
    international, digits = found[1] != "", found[2].translate(_WITHOUT_PUNCTUATION)
    if len(digits) > 2 * MAX_DIGITS:
        return ()
    readings = [int(digits)]
    if plan is not None:
        readings.append(int(plan.calling_code + digits))
        number = plan.read(digits, international)
        if number is not None:
            readings.insert(0, number)
    if digits.startswith("1"):
        readings.append(int(digits[1:] or "0"))
    readings.append(int("1" + digits))
    # No call has a number longer than E.164 allows, and a bigint may be too small for it.
    return tuple(number for number in dict.fromkeys(readings) if 0 < number < 10**MAX_DIGITS)


def _parse_any(text: str, plan: NumberingPlan) -> Destination:
    """Read any spelling. A refusal explains the fault."""
    text = trimmed_destination(text)
    if len(text) > MAX_LENGTH:
        raise DestinationError(
            f"The destination has {len(text)} characters; at most {MAX_LENGTH} are allowed.",
            code="destination_too_long",
        )
    if not text:
        raise DestinationError("The destination is empty; every row needs a phone number.", code="destination_empty")
    if text[:4].lower() == "tel:":
        text = text[4:]
    number, *parameters = text.split(";")
    ani, postd = _parameters(parameters, plan)
    _refuse_calculated(number, plan)
    bare = number.translate(_WITHOUT_PUNCTUATION)
    digits = bare.removeprefix("+")
    if not _digits_only(digits):
        _refuse_characters(digits)
    international = bare != digits
    may_be_emergency = not international and len(digits) <= LONGEST_EMERGENCY_NUMBER
    if may_be_emergency and shortnumberinfo.is_emergency_number(digits, plan.region):
        raise DestinationError(f"{digits} is an emergency number; it cannot be called.", code="destination_emergency")
    phone_number = plan.read(digits, international) if len(digits) <= 2 * MAX_DIGITS else None
    if phone_number is None:
        _refuse_number(digits, international, plan)
    if phone_number >= 10**MAX_DIGITS:
        _refuse_length(digits)
    return Destination(phone_number, ani, postd)


def _refuse_calculated(number: str, plan: NumberingPlan) -> None:
    """Raise DestinationError if a spreadsheet treated the number as an amount and changed it."""
    if _dots_commas_exponents(number) is None:
        return
    if _exponent(number.translate(_WITHOUT_SPACES)):
        raise DestinationError(
            "A spreadsheet shortened this number to scientific notation (such as E+11), and its digits are lost. Format"
            " the column as text, and enter the number again.",
            code="destination_malformed",
        )
    if _ends_with_comma_digits(number) or _has_decimal_part(number, plan):
        raise DestinationError(
            "The digits after the last dot or comma may be a decimal part, which spreadsheets add to a number. Write"
            " the number without it, or without dots.",
            code="destination_malformed",
        )


def _has_decimal_part(number: str, plan: NumberingPlan) -> bool:
    """Whether the last dot may be a decimal point. Then the digits after it do not belong to the number.

    The digits after it must be one group. Then it may be a decimal point if
    1. one digit follows it, or
    2. it is the only dot, and either two digits follow, or only zeros follow seven digits or more, or
    3. the digits before it are a valid number, and either only zeros follow, or it is the only dot and follows seven
       digits or more.
    6175551234.0, 0664123456.00 and 0664123456.125 may have a decimal part. 617.555.1234, 617.555.0000, 0664.123456
    and 06.12.34.56.00 have none.
    """
    runs = _digit_runs(number)
    if len(runs) < 2:
        return False
    after = runs.pop()
    before, dot, between = number.rpartition(after)[0].rpartition(".")
    digits = "".join(runs)
    if not dot or len(digits) > 2 * MAX_DIGITS or any(map(str.isdigit, between)) or any(map(str.isalpha, before)):
        return False
    only_zeros = not after.strip("0")
    is_only_dot, many = "." not in before, len(digits) >= _MANY_DIGITS
    if len(after) == 1 or (is_only_dot and (len(after) == 2 or (only_zeros and many))):
        return True
    if not (only_zeros or (is_only_dot and many)):
        return False
    return plan.read(digits, "+" in before) is not None


def _parameters(parameters: list[str], plan: NumberingPlan) -> tuple[str | None, str | None]:
    """`ani` and `postd`, which may follow the number in any order.

    Any other parameter is refused: the provider documents only these two, and those of RFC 3966 (`ext`,
    `phone-context`, `isub`) change who is called.
    """
    found: dict[str, str] = {}
    for parameter in parameters:
        name, _, setting = (part.strip(_SPACES) for part in parameter.partition("="))
        name = name.lower()
        if name not in ("ani", "postd"):
            # This may be a second number, so the message hides the digits.
            shown = "".join("*" if c.isdigit() else c for c in quoted(name, 20))
            raise DestinationError(
                f'";{shown}" is not supported; only ";ani=" and ";postd=" may follow the number.',
                code="destination_parameter",
            )
        if name in found:
            raise DestinationError(f'";{name}=" appears twice; use it only once.', code="destination_parameter")
        found[name] = setting
    ani, postd = found.get("ani"), found.get("postd")
    if ani is not None and (_has_decimal_part(ani, plan) or not _caller_id(ani := ani.translate(_WITHOUT_PUNCTUATION))):
        raise DestinationError(
            'The caller id after ";ani=" must be a number of 3 to 15 digits.', code="destination_parameter"
        )
    if postd is not None and not _keys(postd := postd.lower()):
        raise DestinationError(
            'The keys after ";postd=" must be 1 to 64 of 0-9, *, #, A-D, and p, w or a comma to wait.',
            code="destination_parameter",
        )
    return ani, postd


def _refuse_characters(text: str) -> NoReturn:
    wrong = next((character for character in text if character not in "0123456789"), None)
    if wrong is None:
        reason = "The destination has no digits."
    elif wrong == "+":
        reason = "Only one plus sign is allowed, before the first digit."
    elif wrong.isascii() and wrong.isalpha():
        reason = f'The letter "{wrong}" cannot be dialed; use digits only, without words and extensions.'
    elif wrong.isascii() and wrong.isprintable():
        reason = f'"{wrong}" is not allowed in a number; use only digits, spaces, dots, brackets and dashes.'
    else:
        name = unicodedata.name(wrong, "a control character").lower()
        reason = f"The character U+{ord(wrong):04X} ({name}) is not allowed in a number; use plain digits."
    raise DestinationError(reason, code="destination_malformed")


def _refuse_length(digits: str) -> NoReturn:
    raise DestinationError(
        f"The number (ending in {digits[-2:]}) has {len(digits)} digits; at most {MAX_DIGITS} are allowed, including"
        " the country code.",
        code="destination_too_long",
    )


def _refuse_number(digits: str, international: bool, plan: NumberingPlan) -> NoReturn:
    """Explain why the digits are not a valid number."""
    if len(digits) > MAX_DIGITS + len("011"):
        _refuse_length(digits)
    local = digits.removeprefix(plan.calling_code) if international else digits
    if shortnumberinfo.is_emergency_number(local, plan.region):
        raise DestinationError(f"{local} is an emergency number; it cannot be called.", code="destination_emergency")
    reading = plan.library_reading(digits, international)
    if reading is not None and shortnumberinfo.is_valid_short_number_for_region(reading, plan.region):
        raise DestinationError(
            f"{masked(digits)} is a short code; only full phone numbers can be called.", code="destination_short_code"
        )
    region = "" if international else f"{plan.region} "
    reason = f"The number (ending in {digits[-2:]}) is not a valid {region}phone number"
    if digits.startswith("00"):
        reason += "; write + in place of 00"
    elif not international:
        reason += "; add the area code, or + and the country code"
    elif reading is None or reading.country_code not in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        reason += "; it does not begin with a known country code"
    raise DestinationError(f"{reason}.")
