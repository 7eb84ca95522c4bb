"""A destination. Our quick check of its digits must agree with the phonenumbers library."""

from __future__ import annotations

import re
from collections.abc import Iterator

import phonenumbers

from receiver.model import e164
from receiver.phone_numbers.destination import Destination, DestinationError, candidates, parse
from receiver.phone_numbers.numbering_plan import numbering_plan, valid_region
from tests.fuzz.envelope import join_input, split_input

_WHOLE_NUMBER = re.compile(r"[0-9]{7}")


def check_destination(inputs: bytes) -> None:
    """The input: a line with the region (an unknown one counts as US), and the destination."""
    (region, *_), rest = split_input(inputs, 1)
    region = region if valid_region(region) else "US"
    text = rest.decode("utf-8", "surrogateescape")
    found = candidates(text, region)
    assert all(0 < number < 10**15 for number in found) and len(set(found)) == len(found) <= 12
    try:
        destination = parse(text, region)
    except DestinationError as error:
        assert error.code.startswith("destination_")
        assert _WHOLE_NUMBER.search(str(error)) is None
        assert str(error).isprintable() and len(str(error)) < 200
    else:
        assert 0 < destination.phone_number < 10**15
        assert destination.phone_number in found
        assert parse(written(destination), region) == destination
    digits = "".join(re.findall("[0-9]", text))[:20]
    if digits:
        for international in (False, True):
            check_agreement(digits, international, region)


def written(destination: Destination) -> str:
    """The destination in the provider's longest form."""
    text = f"tel:{e164(destination.phone_number)}"
    for name, setting in (("ani", destination.ani), ("postd", destination.postd)):
        if setting is not None:
            text += f";{name}={setting}"
    return text


def check_agreement(digits: str, international: bool, region: str) -> bool:
    """Whether the digits are a valid number; fails if our numbering plan and the library disagree."""
    expected = library_number(digits, international, region)
    plan = numbering_plan(region)
    assert plan.quick(digits, international) in (None, expected), (region, digits, international)
    assert plan.read(digits, international) == expected, (region, digits, international)
    return expected is not None


def library_number(digits: str, international: bool, region: str) -> int | None:
    """The E.164 number according to phonenumbers; None if it is invalid."""
    try:
        number = phonenumbers.parse(("+" if international else "") + digits, region)
    except phonenumbers.NumberParseException:
        return None
    if not phonenumbers.is_valid_number(number):
        return None
    return int(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)[1:])


def samples() -> Iterator[bytes]:
    forms = (
        "6175551234",
        "(617) 555-1234",
        "'+1.617.555.1234'",
        "tel:+16175551234;ani=8009957586;postd=2,W#",
        "01144207183875",
        "+44 (0)20 7183 8750",
        "911",
        "+390212345678",
    )
    for region in ("US", "GB", "DE", "BR", "MX", "IT"):
        for form in forms:
            yield join_input(region, form)
