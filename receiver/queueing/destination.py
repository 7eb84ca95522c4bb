"""The provider's destination (provider page: Queue multiple calls, "The CSV") read as E.164.

    6175551234   16175551234   tel:+16175551234   16175551234;ani=8009957586
    16175551234;postd=2   tel:+16175551234;ani=8009957586;postd=2

Spaces, dots, brackets and dashes may stand anywhere between the digits, and a spreadsheet's
apostrophes around the whole. The provider is sent the user's own spelling, so whatever it could not
be expected to read (letters, digits of other scripts, extensions, parameters it does not document) is
refused here, row by row, where the provider would refuse the whole CSV or dial someone else.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from typing import NoReturn

import phonenumbers
from phonenumbers import shortnumberinfo

from receiver.errors import ReceiverError
from receiver.model import masked
from receiver.queueing.numbering_plan import (
    LONGEST_EMERGENCY_NUMBER,
    NumberingPlan,
    numbering_plan,
    valid_region,
)
from receiver.queueing.quoting import quoted

__all__ = ["Destination", "DestinationError", "candidates", "parse", "valid_region"]

MAX_LENGTH = 200
"""Characters of a destination, parameters included; longer text is refused before it is looked at."""

MAX_DIGITS = 15
"""Digits of an E.164 number, country code included (ITU-T E.164, 6.2.1)."""

_SPACES = " \u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
_DASHES = "-\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe58\ufe63\uff0d"
_WITHOUT_PUNCTUATION = str.maketrans("", "", _SPACES + _DASHES + ".()[]")

_plain = re.compile(r"(?:[Tt][Ee][Ll]:)?(\+?)([0-9]{1,32})").fullmatch
_caller_id = re.compile(r"\+?[0-9]{3,15}").fullmatch
_keys = re.compile(r"[0-9*#a-d,pw]{1,64}").fullmatch
_digits_only = re.compile(r"[0-9]+").fullmatch
_digit_runs = re.compile(r"[0-9]+").findall
_echoed = re.compile(r"'?(?:[Tt][Ee][Ll]:)?(\+?)([0-9]{1,32})'?").fullmatch


class DestinationError(ReceiverError):
    """The text is no destination that can be dialed. The message never shows the whole number.

    Codes: `destination_empty`, `destination_too_long` (text, or more digits than E.164 has),
    `destination_malformed` (what is neither digit nor allowed punctuation), `destination_parameter`
    (unknown, repeated or unreadable `;name=value`), `destination_emergency`, `destination_short_code`,
    `destination_invalid` (digits, but no number that exists).
    """

    code = "destination_invalid"


@dataclass(frozen=True, slots=True)
class Destination:
    """Whom to call, and how: the E.164 number without its plus sign, the caller id to show (digits, with
    a plus sign if it was written), and the keys to press once connected (letters in lower case).
    """

    phone_number: int
    ani: str | None = None
    postd: str | None = None


def parse(text: str, region: str) -> Destination:
    """Read a destination; a number without country code is one of `region` (see `valid_region`).

    Raises `DestinationError`, and ValueError for an unknown region.
    """
    plan = numbering_plan(region)
    number = None
    if len(text) <= 2 * MAX_DIGITS and text.isdigit() and text.isascii():
        number = plan.quick(text, False)
    elif (plain := _plain(text)) is not None:
        number = plan.quick(plain[2], plain[1] != "")
    if number is not None and number < 10**MAX_DIGITS:
        return Destination(number)
    return _parse_any(text, plan)


def candidates(text: str, region: str) -> tuple[int, ...]:
    """The E.164 numbers that a callback's `phone_number` may stand for, the likeliest first.

    Callbacks are not held to the CSV's spelling (provider page: The callback), so beside the number
    as `parse` reads it come its digits as they stand, with the region's country code before them, and
    with a 1 more or less in front. The caller looks them up among one submission's numbers, in turn.
    Empty if no number could be meant. Never raises: for a region that a newer phonenumbers no longer
    knows, the readings that need none are left.
    """
    plan = numbering_plan(region) if valid_region(region) else None
    echoed = _echoed(text)
    if echoed is not None:
        international, digits = echoed[1] != "", echoed[2]
    else:
        written = text[:MAX_LENGTH].partition(";")[0]
        digits = "".join(_digit_runs(written))
        international = "+" in written
        if not 1 <= len(digits) <= 2 * MAX_DIGITS:
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
    # Beyond E.164's length no call can have the number, and a bigint might not hold it.
    return tuple([number for number in dict.fromkeys(readings) if 0 < number < 10**MAX_DIGITS])


def _parse_any(text: str, plan: NumberingPlan) -> Destination:
    """Every spelling, at leisure; each refusal names what is wrong with it."""
    if len(text) > MAX_LENGTH:
        raise DestinationError(
            f"The destination is {len(text)} characters long; {MAX_LENGTH} are the most.",
            code="destination_too_long",
        )
    written = text.strip(_SPACES).removeprefix("'").removesuffix("'").strip(_SPACES)
    if not written:
        raise DestinationError("The destination is empty; every row needs a number.", code="destination_empty")
    if written[:4].lower() == "tel:":
        written = written[4:]
    number, *parameters = written.split(";")
    ani, postd = _parameters(parameters)
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


def _parameters(parameters: list[str]) -> tuple[str | None, str | None]:
    """`ani` and `postd` from what stood between semicolons, in any order.

    Any other parameter is refused: the provider documents only these two, and the ones that RFC 3966
    adds (`ext`, `phone-context`, `isub`) change who is reached.
    """
    found: dict[str, str] = {}
    for parameter in parameters:
        name, _, setting = (part.strip(_SPACES) for part in parameter.partition("="))
        name = name.lower()
        if name not in ("ani", "postd"):
            # A second number may stand here, which no message shows.
            shown = "".join("*" if c.isdigit() else c for c in quoted(name, 20))
            raise DestinationError(
                f'";{shown}" is not understood; only ";ani=" and ";postd=" may follow the number.',
                code="destination_parameter",
            )
        if name in found:
            raise DestinationError(f'";{name}=" stands twice; give it once.', code="destination_parameter")
        found[name] = setting
    ani, postd = found.get("ani"), found.get("postd")
    if ani is not None and not _caller_id(ani := ani.translate(_WITHOUT_PUNCTUATION)):
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
    stranger = next((character for character in text if character not in "0123456789"), None)
    if stranger is None:
        reason = "There is no digit in the destination."
    elif stranger == "+":
        reason = "A plus sign may stand only once, before the first digit."
    elif stranger.isascii() and stranger.isalpha():
        reason = f'The letter "{stranger}" cannot be dialed; write digits only, without words and extensions.'
    elif stranger.isascii() and stranger.isprintable():
        reason = f'"{stranger}" cannot stand in a number; only digits, spaces, dots, brackets and dashes can.'
    else:
        name = unicodedata.name(stranger, "a control character").lower()
        reason = f"The character U+{ord(stranger):04X} ({name}) cannot stand in a number; use plain digits."
    raise DestinationError(reason, code="destination_malformed")


def _refuse_length(digits: str) -> NoReturn:
    raise DestinationError(
        f"{len(digits)} digits, the last two {digits[-2:]}, are too many; a number has at most {MAX_DIGITS} with its"
        " country code.",
        code="destination_too_long",
    )


def _refuse_number(digits: str, international: bool, plan: NumberingPlan) -> NoReturn:
    """Say why digits that are no valid number are none."""
    if len(digits) > MAX_DIGITS + len("011"):
        _refuse_length(digits)
    local = digits.removeprefix(plan.calling_code) if international else digits
    if shortnumberinfo.is_emergency_number(local, plan.region):
        raise DestinationError(f"{local} is an emergency number; it cannot be called.", code="destination_emergency")
    reading = plan.library_reading(digits, international)
    if reading is not None and shortnumberinfo.is_valid_short_number_for_region(reading, plan.region):
        raise DestinationError(
            f"{masked(digits)} is a short code; only whole telephone numbers can be called.",
            code="destination_short_code",
        )
    reason = f"{masked(digits)} is no valid telephone number"
    if not international:
        reason += f", read as one of {plan.region}; give an area code, or + and a country code"
    elif reading is None or reading.country_code not in phonenumbers.COUNTRY_CODE_TO_REGION_CODE:
        reason += "; no country has a code that it begins with"
    raise DestinationError(f"{reason}.")
