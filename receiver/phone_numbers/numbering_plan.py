"""Decide which digits are a phone number: a quick check for the common numbers, and phonenumbers for all others.

phonenumbers needs 33 µs to parse and validate a number, which is half a minute for a CSV of a million rows. Nearly
every row has a valid number of the campaign's own country, or one with a country code. `NumberingPlan` compiles the
metadata of phonenumbers once per region, and accepts such a number in about a microsecond. It never refuses a number:
if it is not certain, phonenumbers decides. It is not certain about any number for which the two could differ
(international prefixes such as 011, carrier codes, prefixes that rewrite a number).
tests/phone_numbers/test_destination.py compares both in every region.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import cache

import phonenumbers
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata, PhoneNumber
from phonenumbers.phonemetadata import PhoneNumberDesc

_LONGEST_CALLING_CODE = 3
LONGEST_EMERGENCY_NUMBER = 6
"""In digits. The quick check accepts only longer numbers, so it never accepts an emergency number."""


class NumberingPlan:
    """How the digits of a number are read in one region. Use `numbering_plan` to get one.

    Raises ValueError for an unknown region (see `valid_region`).
    """

    def __init__(self, region: str) -> None:
        metadata = PhoneMetadata.metadata_for_region(region)
        if metadata is None:
            raise ValueError(f"{region!r} is no region that phonenumbers knows")
        self.region = region
        self.calling_code = str(metadata.country_code)
        self._home = _country(self.calling_code)
        self._strip = _prefix_stripper(metadata)
        self._general = compiled_pattern(metadata.general_desc).fullmatch
        prefixes = [metadata.international_prefix or "(?!)", metadata.national_prefix_for_parsing or "(?!)"]
        self._international_prefix = re.compile(prefixes[0]).match
        self._prefixed = re.compile("|".join([*prefixes, self.calling_code])).match

    def quick(self, digits: str, international: bool) -> int | None:
        """The E.164 number if it is certain. None: ask `library_reading`.

        `digits` are ASCII digits only. `international`: a plus sign was before them.
        """
        if len(digits) <= LONGEST_EMERGENCY_NUMBER:
            return None
        country = country_of(digits) if international else self._home
        if country is None:
            return None
        if international:
            national = country.strip(digits[len(country.calling_code) :])
        else:
            national = self._national(digits) if self._prefixed(digits) else digits
        if national is None or not country.is_valid(national):
            return None
        return int(country.calling_code + national)

    def _national(self, digits: str) -> str | None:
        """The national number after a country code or national prefix, if it is certain."""
        if self._international_prefix(digits):
            return None
        if not digits.startswith(self.calling_code) or self._general(digits):
            return self._strip(digits)
        # phonenumbers removes a country code without a plus sign if this makes an impossible number possible. Then it
        # reads the number as one of the country's main region.
        national = self._strip(digits[len(self.calling_code) :])
        return self._home.strip(national) if national is not None and self._general(national) else None

    def library_reading(self, digits: str, international: bool) -> PhoneNumber | None:
        """The digits as phonenumbers reads them, valid or not. None: it cannot read them."""
        try:
            return phonenumbers.parse(f"+{digits}" if international else digits, self.region)
        except phonenumbers.NumberParseException:
            return None

    def read(self, digits: str, international: bool) -> int | None:
        """The E.164 number, or None if the digits are not a valid number. Never raises."""
        number = self.quick(digits, international)
        if number is None:
            reading = self.library_reading(digits, international)
            if reading is not None and phonenumbers.is_valid_number(reading):
                number = int(f"{reading.country_code}{phonenumbers.national_significant_number(reading)}")
        return number


@cache
def numbering_plan(region: str) -> NumberingPlan:
    return NumberingPlan(region)


def valid_region(region: str) -> bool:
    """Whether phonenumbers knows the region: two capital letters (ISO 3166-1)."""
    return region in phonenumbers.SUPPORTED_REGIONS


class Region:
    """One region of a country. `valid` matches its valid numbers."""

    def __init__(self, metadata: PhoneMetadata) -> None:
        self.metadata = metadata
        self.valid = _valid_pattern(metadata).fullmatch
        self.claims = re.compile(metadata.leading_digits).match if metadata.leading_digits else self.valid


class Country:
    """All regions that share a calling code."""

    def __init__(self, calling_code: str) -> None:
        self.calling_code = calling_code
        self._regions: list[Region] = []
        for region in COUNTRY_CODE_TO_REGION_CODE[int(calling_code)]:
            metadata = PhoneMetadata.metadata_for_region_or_calling_code(int(calling_code), region)
            if metadata is None:
                continue
            if not self._regions:
                self.strip = _prefix_stripper(metadata)
            self._regions.append(Region(metadata))

    def region_of(self, national: str) -> Region | None:
        """The first region whose leading digits the number has (242 for the Bahamas), even if it is invalid there. For
        a region without leading digits, it must be valid in it."""
        for region in self._regions:
            if region.claims(national):
                return region
        return None

    def is_valid(self, national: str) -> bool:
        """Whether the number is valid in its region, as phonenumbers.is_valid_number decides it."""
        region = self.region_of(national)
        return region is not None and (region.claims is region.valid or region.valid(national) is not None)


@cache
def _country(calling_code: str) -> Country:
    return Country(calling_code)


def country_of(digits: str) -> Country | None:
    """The country whose calling code the digits begin with. No calling code is the beginning of another one."""
    for length in range(1, _LONGEST_CALLING_CODE + 1):
        if digits[0] != "0" and int(digits[:length]) in COUNTRY_CODE_TO_REGION_CODE:
            return _country(digits[:length])
    return None


def _prefix_stripper(metadata: PhoneMetadata) -> Callable[[str], str | None]:
    """A function that removes the national prefix (0 in most countries, 1 in North America) from a number.

    It returns None if phonenumbers may do more than remove the prefix.
    """
    match_prefix = re.compile(metadata.national_prefix_for_parsing or "(?!)").match
    rewrites = bool(metadata.national_prefix_transform_rule)
    is_possible = compiled_pattern(metadata.general_desc, lengths=True).fullmatch

    def strip(number: str) -> str | None:
        prefix = match_prefix(number)
        if prefix is None:
            return number
        if rewrites and prefix.groups()[-1:] != (None,):
            return None
        rest = number[prefix.end() :]
        return rest if is_possible(rest) else None

    return strip


def _valid_pattern(metadata: PhoneMetadata) -> re.Pattern[str]:
    """One pattern for the valid numbers of all types. phonenumbers tries eleven patterns one after the other."""
    types = [metadata.fixed_line]
    if not metadata.same_mobile_and_fixed_line_pattern:
        types.append(metadata.mobile)
    return any_type(metadata, [*types, *other_types(metadata)])


def other_types(metadata: PhoneMetadata) -> list[PhoneNumberDesc | None]:
    """All types of numbers but fixed lines and mobile phones."""
    types = [metadata.toll_free, metadata.premium_rate, metadata.shared_cost, metadata.voip]
    return [*types, metadata.personal_number, metadata.pager, metadata.uan, metadata.voicemail]


def any_type(metadata: PhoneMetadata, types: Iterable[PhoneNumberDesc | None]) -> re.Pattern[str]:
    """A pattern for the possible numbers of a region that are of one of these types."""
    patterns = "|".join(compiled_pattern(each, lengths=True).pattern for each in types)
    return re.compile(f"(?={compiled_pattern(metadata.general_desc, lengths=True).pattern}\\Z)(?:{patterns})")


def compiled_pattern(description: PhoneNumberDesc | None, *, lengths: bool = False) -> re.Pattern[str]:
    """The description's pattern. `lengths`: it matches only numbers of a possible length."""
    if description is None or not description.national_number_pattern:
        return re.compile("(?!)")
    pattern = f"(?:{description.national_number_pattern})"
    if lengths and description.possible_length:
        # A length of -1 means that the region has no such numbers.
        sizes = "|".join(rf"\d{{{size}}}" if size > 0 else "(?!)" for size in description.possible_length)
        pattern = rf"(?:(?=(?:{sizes})\Z){pattern})"
    return re.compile(pattern)


def area_of_prefix(prefix: int) -> str:
    """The area of a number as `+1617`, or its country as `+44`. `prefix`: the first four digits of a number of +1, the
    first three of another."""
    digits = str(prefix)
    found = (digits[:length] for length in (1, 2, 3) if int(digits[:length]) in COUNTRY_CODE_TO_REGION_CODE)
    return f"+{digits if digits.startswith('1') else next(found, digits)}"
