"""Which digits are a telephone number: phonenumbers decides, with a quick first test before it.

The library takes 33 µs for a number (parse and validity), a million rows of a CSV half a minute.
Nearly every row holds a valid number of the campaign's own country or one with its country code, so
`NumberingPlan` compiles the library's own metadata once per region and says *yes* to those in about
a microsecond. It never says *no*: what it does not recognise at once goes to the library, whose word
is final. Wherever the two could differ (international prefixes such as 011, carrier codes, prefixes
that rewrite a number) the quick test steps aside. tests/phone_numbers/test_destination.py holds it against
the library in every region.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumber
from phonenumbers.phonemetadata import PhoneNumberDesc

_Matches = Callable[[str], re.Match[str] | None]

_LONGEST_CALLING_CODE = 3
LONGEST_EMERGENCY_NUMBER = 6
"""Digits. Shorter than any number the quick test may say yes to, so that it cannot take one."""


class NumberingPlan:
    """How the digits of a number are read in one region. Build it through `numbering_plan`."""

    __slots__ = (
        "_general",
        "_home",
        "_international_prefix",
        "_prefixed",
        "_strip",
        "calling_code",
        "region",
    )

    def __init__(self, region: str) -> None:
        metadata = PhoneMetadata.metadata_for_region(region)
        if metadata is None:
            raise ValueError(f"{region!r} is no region that phonenumbers knows")
        self.region = region
        self.calling_code = str(metadata.country_code)
        self._home = _country(self.calling_code)
        self._strip = _PrefixStripper(metadata)
        self._general = compiled_pattern(metadata.general_desc).fullmatch
        prefixes = [metadata.international_prefix or "(?!)", metadata.national_prefix_for_parsing or "(?!)"]
        self._international_prefix = re.compile(prefixes[0]).match
        self._prefixed = re.compile("|".join([*prefixes, self.calling_code])).match

    def quick(self, digits: str, international: bool) -> int | None:
        """The E.164 number, where that is certain at once; None leaves the answer to `library_reading`.

        `digits` are ASCII digits only; `international` says that a plus sign stood before them.
        """
        if len(digits) <= LONGEST_EMERGENCY_NUMBER:
            return None
        code = self.calling_code
        national: str | None
        if international:
            if digits.startswith(code):
                country = self._home
            elif (abroad := country_of(digits)) is not None:
                country = abroad
                code = country.calling_code
            else:
                return None
            national = country.strip(digits[len(code) :])
        else:
            country = self._home
            national = self._national(digits) if self._prefixed(digits) else digits
        if national is None or not country.is_valid(national):
            return None
        return int(code + national)

    def _national(self, digits: str) -> str | None:
        """The national number behind a country code or national prefix, where that is certain."""
        if self._international_prefix(digits):
            return None
        if not digits.startswith(self.calling_code) or self._general(digits):
            return self._strip(digits)
        # The library drops the country code of a number written without a plus sign if that makes
        # an impossible number possible, and then reads it by the country's main region.
        national = self._strip(digits[len(self.calling_code) :])
        return self._home.strip(national) if national is not None and self._general(national) else None

    def library_reading(self, digits: str, international: bool) -> PhoneNumber | None:
        """What the library makes of the digits, valid or not; None if it can make nothing of them."""
        try:
            return phonenumbers.parse(f"+{digits}" if international else digits, self.region)
        except phonenumbers.NumberParseException:
            return None

    def read(self, digits: str, international: bool) -> int | None:
        """The E.164 number if the digits are a valid one, else None. Never raises."""
        number = self.quick(digits, international)
        if number is None:
            reading = self.library_reading(digits, international)
            if reading is not None and phonenumbers.is_valid_number(reading):
                number = int(f"{reading.country_code}{phonenumbers.national_significant_number(reading)}")
        return number


@cache
def numbering_plan(region: str) -> NumberingPlan:
    """The plan of a region; see `valid_region`. Raises ValueError for any other."""
    if not valid_region(region):
        raise ValueError(f"{region!r} is no region that phonenumbers knows")
    return NumberingPlan(region)


def valid_region(region: str) -> bool:
    """Whether it is a region's two capital letters (ISO 3166-1, as phonenumbers lists them)."""
    return region in phonenumbers.SUPPORTED_REGIONS


class Country:
    """All regions behind one calling code: which national numbers are valid in any of them."""

    __slots__ = ("_claims", "calling_code", "strip")

    def __init__(self, calling_code: str) -> None:
        self.calling_code = calling_code
        self._claims: list[tuple[_Matches | None, _Matches]] = []
        for region in COUNTRY_CODE_TO_REGION_CODE[int(calling_code)]:
            metadata = PhoneMetadata.metadata_for_region_or_calling_code(int(calling_code), region)
            if metadata is None:
                continue
            if not self._claims:
                self.strip = _PrefixStripper(metadata)
            leading = re.compile(metadata.leading_digits).match if metadata.leading_digits else None
            self._claims.append((leading, _valid_pattern(metadata).fullmatch))

    def is_valid(self, national: str) -> bool:
        """As phonenumbers.is_valid_number: the first region that claims the number decides.

        A region claims it by its leading digits where it has such (242 for the Bahamas, say), even
        if the number turns out invalid there, and else by the number being valid in it.
        """
        for leading, valid in self._claims:
            if leading is None:
                if valid(national):
                    return True
            elif leading(national):
                return valid(national) is not None
        return False


@cache
def _country(calling_code: str) -> Country:
    return Country(calling_code)


def country_of(digits: str) -> Country | None:
    """The country whose calling code the digits begin with. No calling code begins another."""
    for length in range(1, _LONGEST_CALLING_CODE + 1):
        if digits[0] != "0" and int(digits[:length]) in COUNTRY_CODE_TO_REGION_CODE:
            return _country(digits[:length])
    return None


class _PrefixStripper:
    """Takes a national prefix (0 in most countries, 1 in North America) off a number.

    Returns None where the library might decide otherwise than by simply dropping it.
    """

    __slots__ = ("_general", "_lengths", "_prefix", "_rewrites")

    def __init__(self, metadata: PhoneMetadata) -> None:
        self._prefix = re.compile(metadata.national_prefix_for_parsing or "(?!)").match
        self._rewrites = bool(metadata.national_prefix_transform_rule)
        self._general = compiled_pattern(metadata.general_desc).fullmatch
        description = metadata.general_desc
        self._lengths = frozenset(description.possible_length if description is not None else ())

    def __call__(self, number: str) -> str | None:
        prefix = self._prefix(number)
        if prefix is None:
            return number
        if self._rewrites and prefix.groups()[-1:] != (None,):
            return None
        rest = number[prefix.end() :]
        return rest if len(rest) in self._lengths and self._general(rest) else None


def _valid_pattern(metadata: PhoneMetadata) -> re.Pattern[str]:
    """One pattern for "the number is of some type here", in place of the library's eleven in turn."""
    types = [metadata.fixed_line]
    if not metadata.same_mobile_and_fixed_line_pattern:
        types.append(metadata.mobile)
    types += [metadata.toll_free, metadata.premium_rate, metadata.shared_cost, metadata.voip]
    types += [metadata.personal_number, metadata.pager, metadata.uan, metadata.voicemail]
    any_type = "|".join(compiled_pattern(description, lengths=True).pattern for description in types)
    return re.compile(f"(?={compiled_pattern(metadata.general_desc, lengths=True).pattern}\\Z)(?:{any_type})")


def compiled_pattern(description: PhoneNumberDesc | None, *, lengths: bool = False) -> re.Pattern[str]:
    """The description's own pattern; with `lengths`, only for numbers of its possible lengths."""
    if description is None or not description.national_number_pattern:
        return re.compile("(?!)")
    pattern = f"(?:{description.national_number_pattern})"
    if lengths and description.possible_length:
        # A length of -1 stands for "no such number here", and must never match.
        sizes = "|".join(rf"\d{{{size}}}" if size > 0 else "(?!)" for size in description.possible_length)
        pattern = rf"(?:(?=(?:{sizes})\Z){pattern})"
    return re.compile(pattern)
