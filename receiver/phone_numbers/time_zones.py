"""The time zones that a number can be in, as the library `phonenumbers` knows them. Import this only to read a file.

A number that belongs to a place has the zones of its area; any other (most mobile numbers, toll-free ones) has all
zones of its country. `phonenumbers.timezone` takes 180 µs for a number; this does the same in a tenth of that, by
patterns that are compiled once. tests/phone_numbers/test_time_zones.py holds it against the library.
"""

from __future__ import annotations

import re
from functools import cache

from phonenumbers.phonenumberutil import _GEO_MOBILE_COUNTRIES
from phonenumbers.tzdata import TIMEZONE_DATA, TIMEZONE_LONGEST_PREFIX

from receiver.phone_numbers.numbering_plan import Country, Region, any_type, country_of, other_types

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
    region = country.region_of(national)
    if region is None:
        return False
    places, others = _patterns(region, int(country.calling_code) in _GEO_MOBILE_COUNTRIES)
    return places.fullmatch(national) is not None and others.fullmatch(national) is None


@cache
def _patterns(region: Region, has_mobile_places: bool) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """The numbers of a region that belong to a place, except those that the second pattern matches, too."""
    metadata = region.metadata
    places = [metadata.fixed_line, *([metadata.mobile] if has_mobile_places else [])]
    return any_type(metadata, places), any_type(metadata, other_types(metadata))
