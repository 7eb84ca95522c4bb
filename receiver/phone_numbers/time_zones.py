"""The time zones that a number can be in, as the library `phonenumbers` knows them. Import this only to read a file.

A number that belongs to a place has the zones of its area; any other (most mobile numbers, toll-free ones) has all
zones of its country. `phonenumbers.timezone` takes 180 µs for a number; this does the same in a tenth of that, by
patterns that are compiled once. tests/phone_numbers/test_time_zones.py holds it against the library.
"""

from __future__ import annotations

import re
from functools import cache

from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.phonenumberutil import _GEO_MOBILE_COUNTRIES
from phonenumbers.tzdata import TIMEZONE_DATA, TIMEZONE_LONGEST_PREFIX

from receiver.phone_numbers.numbering_plan import Country, compiled_pattern, country_of

UNKNOWN_ZONE = "Etc/Unknown"


def zones_of(phone_number: int) -> tuple[str, ...]:
    """Every zone known for a valid number, given as E.164 without its plus sign; empty if none is."""
    digits = str(phone_number)
    country = country_of(digits)
    if country is None:
        return ()
    of_area = _of_prefix(digits[:TIMEZONE_LONGEST_PREFIX])
    of_country = _of_prefix(country.calling_code)
    if of_area == of_country or _is_of_a_place(country, digits[len(country.calling_code) :]):
        return of_area
    return of_country


@cache
def _of_prefix(prefix: str) -> tuple[str, ...]:
    for length in range(len(prefix), 0, -1):
        if (zones := TIMEZONE_DATA.get(prefix[:length])) is not None:
            return tuple(sorted(zone for zone in zones if zone != UNKNOWN_ZONE))
    return ()


def _is_of_a_place(country: Country, national: str) -> bool:
    """As phonenumbers.is_number_type_geographical: a fixed line, or in some countries a mobile phone."""
    for types in _types(country.calling_code):
        if types.claims(national):
            return types.is_of_a_place(national)
    return False


class _Types:
    """The types of one region's numbers."""

    def __init__(self, metadata: PhoneMetadata, calling_code: str) -> None:
        self._leading = re.compile(metadata.leading_digits).match if metadata.leading_digits else None
        self._general = compiled_pattern(metadata.general_desc, lengths=True).fullmatch
        # In this order: the first type that fits is the number's.
        others = [metadata.premium_rate, metadata.toll_free, metadata.shared_cost, metadata.voip]
        others += [metadata.personal_number, metadata.pager, metadata.uan, metadata.voicemail]
        self._other = re.compile("|".join(compiled_pattern(each, lengths=True).pattern for each in others)).fullmatch
        places = [metadata.fixed_line]
        if int(calling_code) in _GEO_MOBILE_COUNTRIES:
            places.append(metadata.mobile)
        self._place = re.compile("|".join(compiled_pattern(each, lengths=True).pattern for each in places)).fullmatch
        self._mobile = compiled_pattern(metadata.mobile, lengths=True).fullmatch

    def claims(self, national: str) -> bool:
        if self._leading is not None:
            return self._leading(national) is not None
        return self._general(national) is not None and bool(
            self._other(national) or self._place(national) or self._mobile(national)
        )

    def is_of_a_place(self, national: str) -> bool:
        return bool(self._general(national) and not self._other(national) and self._place(national))


@cache
def _types(calling_code: str) -> list[_Types]:
    found = []
    for region in COUNTRY_CODE_TO_REGION_CODE[int(calling_code)]:
        metadata = PhoneMetadata.metadata_for_region_or_calling_code(int(calling_code), region)
        if metadata is not None:
            found.append(_Types(metadata, calling_code))
    return found
