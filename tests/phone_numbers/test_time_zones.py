"""The zones of a number are those that the library knows, for every region and type of number."""

from __future__ import annotations

import random

import phonenumbers
import pytest
from phonenumbers import PhoneNumberType, timezone

from receiver.phone_numbers.time_zones import UNKNOWN_ZONE, zones_of


def test_zones_are_those_of_the_library_for_each_region_and_type() -> None:
    chance = random.Random(7)
    compared = 0
    for region in sorted(phonenumbers.SUPPORTED_REGIONS):
        for number_type in PhoneNumberType.values():
            example = phonenumbers.example_number_for_type(region, number_type)
            if example is None:
                continue
            number = int(f"{example.country_code}{phonenumbers.national_significant_number(example)}")
            for candidate in (number, number - number % 1000 + chance.randrange(1000)):
                parsed = phonenumbers.parse(f"+{candidate}")
                if not phonenumbers.is_valid_number(parsed):
                    continue
                expected = sorted(set(timezone.time_zones_for_number(parsed)) - {UNKNOWN_ZONE})
                assert zones_of(candidate) == tuple(expected), candidate
                compared += 1
    assert compared > 1500


@pytest.mark.parametrize(
    ("number", "zones"),
    [
        (16175551234, 1),  # Boston
        (18005551234, 42),  # toll-free: anywhere in North America
        (74951234567, 1),  # Moscow
        (79161234567, 16),  # a Russian mobile phone
        (80012345678, 0),  # an international toll-free number
    ],
)
def test_how_many_zones_a_number_has(number: int, zones: int) -> None:
    assert len(zones_of(number)) == zones
