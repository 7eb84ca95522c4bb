"""The destination grammar, and that the quick check agrees with phonenumbers."""

from __future__ import annotations

import os
import random
import re
import time
from collections.abc import Iterator

import phonenumbers
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata
from phonenumbers.phonemetadata import PhoneNumberDesc

from receiver.phone_numbers.destination import Destination, DestinationError, candidates, parse
from receiver.phone_numbers.numbering_plan import LONGEST_EMERGENCY_NUMBER, numbering_plan, valid_region
from tests.fuzz.destinations import check_agreement, library_number

REGIONS = sorted(phonenumbers.SUPPORTED_REGIONS)
BOSTON = 16175551234


def emergency_numbers(region: str) -> PhoneNumberDesc | None:
    """None for a few territories that have none in phonenumbers."""
    metadata = PhoneMetadata.short_metadata_for_region(region)
    return metadata.emergency if metadata is not None else None


def refusal(text: str, region: str = "US") -> DestinationError:
    with pytest.raises(DestinationError) as caught:
        parse(text, region)
    return caught.value


@pytest.mark.parametrize(
    ("text", "destination"),
    [
        ("6175551234", Destination(BOSTON)),
        ("16175551234", Destination(BOSTON)),
        ("tel:+16175551234", Destination(BOSTON)),
        ("16175551234;ani=8009957586", Destination(BOSTON, "8009957586")),
        ("16175551234;postd=2", Destination(BOSTON, None, "2")),
        ("tel:+16175551234;ani=8009957586;postd=2", Destination(BOSTON, "8009957586", "2")),
    ],
)
def test_every_form_of_the_provider_page_is_read(text: str, destination: Destination) -> None:
    assert parse(text, "US") == destination


@pytest.mark.parametrize(
    "text",
    [
        "(617) 555-1234",
        "617.555.1234",
        "[617] 555 1234",
        " 617 555 1234 ",
        "617\u00a0555\u00a01234",
        "617\u2013555\u20111234",
        "617\u2212555\u22121234",
        "(+1) 617 555 1234",
        "+1 (617) 555-1234",
        "TEL:6175551234",
        "Tel: +1 617 555 1234",
        "'6175551234'",
        "'6175551234",
        " 'tel:+16175551234' ",
    ],
)
def test_punctuation_of_people_and_spreadsheets_is_allowed(text: str) -> None:
    assert parse(text, "US") == Destination(BOSTON)


@pytest.mark.parametrize(
    "margin", [" ", "\t", "\r\n", "\n", "\u00a0", "\u200e", "\u202a", "\u202c", "\u2068", "\ufeff", "\u200b\n"]
)
def test_invisible_characters_around_a_destination_are_removed(margin: str) -> None:
    for text in ("6175551234", "tel:+1 (617) 555-1234", "'6175551234'"):
        for times in (1, 200):  # a long cell is trimmed in another way
            assert parse(f"{margin * times}{text}{margin * times}", "US") == Destination(BOSTON)
    with pytest.raises(DestinationError):
        parse(f"617555{margin.strip(' ') or 'x'}1234", "GB")


DECIMAL_PARTS = [".0", ".00", ".000", ".0000", ".000000", ". 0", ".0 ", ".0)", ".\u00a00", ".0.", ",0", ",00"]


def spellings(region: str) -> Iterator[str]:
    """Example numbers of each kind, as people in the region write them, with each separator."""
    metadata = PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    kinds = (
        metadata.fixed_line, metadata.mobile, metadata.toll_free, metadata.premium_rate, metadata.shared_cost,
        metadata.voip, metadata.personal_number, metadata.uan, metadata.pager,
    )  # fmt: skip
    for example_number in {kind.example_number for kind in kinds if kind is not None and kind.example_number}:
        number = phonenumbers.parse(f"+{metadata.country_code}{example_number}", region)
        for form in (phonenumbers.PhoneNumberFormat.NATIONAL, phonenumbers.PhoneNumberFormat.INTERNATIONAL):
            written = phonenumbers.format_number(number, form)
            yield from {
                written,
                *(re.sub("[ -]+", separator, written) for separator in (".", "-", "\u2013", "\u00a0", "")),
            }


def number_or_none(text: str, region: str) -> int | None:
    try:
        return parse(text, region).phone_number
    except DestinationError:
        return None


@pytest.mark.parametrize("region", REGIONS)
def test_separators_never_change_a_number_and_decimal_parts_never_extend_it(region: str) -> None:
    read = 0
    for written in spellings(region):
        digits = "+" * written.startswith("+") + "".join(re.findall("[0-9]", written))
        number = number_or_none(digits, region)
        assert number_or_none(written, region) == number, written
        if number is not None:
            read += 1
            assert not [part for part in DECIMAL_PARTS if number_or_none(written + part, region) is not None], written
    assert read


@settings(max_examples=500, deadline=None)
@given(st.sampled_from(REGIONS), st.randoms(use_true_random=False), st.data())
def test_separators_anywhere_do_not_change_the_number(region: str, chosen: random.Random, data: st.DataObject) -> None:
    digits = "".join(re.findall("[0-9]", numbers_near_valid(chosen, region)))
    separators = st.text(st.sampled_from(" .-()[]\u00a0\u2013"), max_size=2)
    written = "".join(data.draw(separators) + digit for digit in digits) + data.draw(separators)
    assert number_or_none(written, region) in (None, number_or_none(digits, region))
    if written.count(".") == 0:
        assert number_or_none(written, region) == number_or_none(digits, region)


@pytest.mark.parametrize(
    ("text", "region", "number"),
    [
        ("617.555.1234", "US", BOSTON),
        ("1.617.555.1234", "US", BOSTON),
        ("617.555.1200", "US", 16175551200),
        ("617.555.0000", "US", 16175550000),
        ("(617) 555.1234", "US", BOSTON),
        ("(617) 555.0000", "US", 16175550000),
        ("617555.1234", "US", BOSTON),
        ("+1.6175551234", "US", BOSTON),
        ("06.12.34.56.00", "FR", 33612345600),
        ("0664.123456", "AT", 43664123456),
        ("0664.123456.78", "AT", 4366412345678),
        ("27.12.34.56", "LU", 35227123456),
        ("2123.1234", "UY", 59821231234),
    ],
)
def test_dots_separate_digits(text: str, region: str, number: int) -> None:
    assert parse(text, region).phone_number == number


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("0664123456.0", "AT"),
        ("0664123456,0", "AT"),
        ("0664123456.00", "AT"),
        ("0664123456.125", "AT"),
        ("0664.123456.0", "AT"),
        ("0664.123456.00", "AT"),
        ("+43 664 123456.0", "US"),
        ("tel:+43664123456.0;postd=2", "US"),
        ("'0664123456.0'", "AT"),
        ("617555123.0", "US"),
        ("6175551.000", "US"),
        ("6175551.00", "US"),
        ("6175551234.5", "US"),
    ],
)
def test_possible_decimal_part_is_refused_and_explained(text: str, region: str) -> None:
    error = refusal(text, region)
    assert error.code == "destination_malformed"
    assert "decimal part" in str(error)


def test_extension_is_not_taken_for_a_decimal_part() -> None:
    assert "without words and extensions" in str(refusal("617-555-1234 ext. 22", "US"))


def test_message_about_an_invalid_number_is_readable() -> None:
    assert str(refusal("555-0199", "US")).startswith("The number (ending in 99) is not a valid US phone number;")


def test_caller_id_with_a_decimal_part_is_refused() -> None:
    assert parse("6175551234;ani=800.995.7586", "US").ani == "8009957586"
    assert refusal("6175551234;ani=8009957586.0").code == "destination_parameter"


@pytest.mark.parametrize(
    "text", ["4.47911E+11", "4,47911E+11", "4.47911e11", " 6.17556E+09 ", "6E9", "+4.4E+11", "6.175551234E9"]
)
def test_scientific_notation_is_refused_and_explained(text: str) -> None:
    error = refusal(text, "GB")
    assert error.code == "destination_malformed"
    assert "A spreadsheet shortened this number" in str(error) and "digits are lost" in str(error)


def test_parameters_may_have_any_order_and_case() -> None:
    assert parse("'6175551234 ;POSTD=2,W#P*; Ani=+1 (800) 995-7586'", "US") == Destination(
        BOSTON, "+18009957586", "2,w#p*"
    )


def test_local_number_is_read_in_its_region() -> None:
    assert parse("020 7183 8750", "GB").phone_number == 442071838750
    assert parse("+44 (0)20 7183 8750", "US").phone_number == 442071838750
    assert parse("06 12 34 56 78", "FR").phone_number == 33612345678
    assert parse("02 1234 5678", "IT").phone_number == 390212345678


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("", "destination_empty"),
        ("  \u00a0", "destination_empty"),
        ("''", "destination_empty"),
        ("tel:", "destination_malformed"),
        ("()", "destination_malformed"),
        ("1-800-FLOWERS", "destination_malformed"),
        ("6175551234 x123", "destination_malformed"),
        ("6175551234#123", "destination_malformed"),
        ("617/555/1234", "destination_malformed"),
        ("++16175551234", "destination_malformed"),
        ("1+6175551234", "destination_malformed"),
        ("tel:tel:6175551234", "destination_malformed"),
        ('="6175551234"', "destination_malformed"),
        ("617555\x001234", "destination_malformed"),
        ("\u0666\u0661\u0667\u0665\u0665\u0665\u0661\u0662\u0663\u0664", "destination_malformed"),
        ("\uff16\uff11\uff17\uff15\uff15\uff15\uff11\uff12\uff13\uff14", "destination_malformed"),
        ("617\u202a5551234", "destination_malformed"),
        ("6175551234\u00b2", "destination_malformed"),
        ("6175551234;", "destination_parameter"),
        ("6175551234;ext=12", "destination_parameter"),
        ("5551234;phone-context=+1617", "destination_parameter"),
        ("6175551234;ani=", "destination_parameter"),
        ("6175551234;ani=my phone", "destination_parameter"),
        ("6175551234;ani=1234567890123456", "destination_parameter"),
        ("6175551234;postd=", "destination_parameter"),
        ("6175551234;postd=2 3", "destination_parameter"),
        ("6175551234;postd=" + "2" * 65, "destination_parameter"),
        ("6175551234;postd=1;postd=2", "destination_parameter"),
        ("911", "destination_emergency"),
        ("9-1-1", "destination_emergency"),
        ("tel:112", "destination_emergency"),
        ("+1911", "destination_emergency"),
        ("411", "destination_short_code"),
        ("5551234", "destination_invalid"),
        ("1234567890", "destination_invalid"),
        ("+999123456789", "destination_invalid"),
        ("0", "destination_invalid"),
        ("1" * 19, "destination_too_long"),
        ("6175551" + " " * 191 + "234", "destination_too_long"),
    ],
)
def test_invalid_destination_is_refused_with_its_code(text: str, code: str) -> None:
    error = refusal(text)
    assert error.code == code
    assert str(error).endswith(".")


def test_number_longer_than_e164_is_refused_even_if_phonenumbers_accepts_it() -> None:
    digits = next(
        f"49{start}{'0' * 12}" for start in range(200, 999) if library_number(f"49{start}{'0' * 12}", True, "DE")
    )
    assert len(digits) == 17
    assert refusal(f"+{digits}", "DE").code == "destination_too_long"


@pytest.mark.parametrize("region", [region for region in REGIONS if emergency_numbers(region)])
def test_emergency_numbers_of_every_region_are_refused(region: str) -> None:
    numbers = emergency_numbers(region)
    assert numbers is not None and numbers.example_number is not None
    assert refusal(numbers.example_number, region).code == "destination_emergency"
    assert max(numbers.possible_length) <= LONGEST_EMERGENCY_NUMBER


@pytest.mark.parametrize(
    "text",
    ["6175551234x", "16175551", "tel:+999123456789", "6175551234;ext=1", "61755512349999999999", "6;6175551299"],
)
def test_refusals_never_show_the_whole_number(text: str) -> None:
    assert not re.search("[0-9]{7}", str(refusal(text)))


def test_refusal_names_the_wrong_character_on_one_line() -> None:
    assert 'The letter "F"' in str(refusal("1-800-FLOWERS"))
    assert '";ex\u240at"' in str(refusal("6175551234;ex\nt=1"))
    assert "U+202A (left-to-right embedding)" in str(refusal("617\u202a5551234"))


@pytest.mark.parametrize(
    "junk",
    [
        "1" * 65536,
        "(" * 65536,
        "'" * 65536,
        "1;" * 32768,
        "tel:" + "-" * 65536,
        " " * 65536 + "x",
        "é" * 65536,
        "\u200b" * 65536,
        "\u2069" * 65536,
        " \u200b'" * 21845,
        "\u200b" * 32768 + "x" + "'\ufeff" * 16383,
        "\u200bx" * 32768,
    ],
    ids=lambda junk: ascii(junk[:6]),
)
def test_64_kib_of_junk_is_refused_within_a_millisecond(junk: str) -> None:
    def once() -> float:
        start = time.thread_time()
        refusal(junk)
        candidates(junk, "US")
        return time.thread_time() - start

    once()
    assert min(once() for _ in range(20)) < 0.001


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=40), st.sampled_from(["US", "DE", "IT"]))
@example("6175551234\ud800", "US")
def test_any_text_is_read_or_refused(text: str, region: str) -> None:
    try:
        destination = parse(text, region)
    except DestinationError as error:
        assert error.code.startswith("destination_")
    else:
        assert 0 < destination.phone_number < 10**15
        assert destination.phone_number in candidates(text, region)


def numbers_near_valid(chosen: random.Random, region: str) -> str:
    """Digits that are often a valid number in the region: an example, cut anywhere and filled with random digits."""
    metadata = PhoneMetadata.metadata_for_region(region)
    assert metadata is not None
    kinds = (metadata.fixed_line, metadata.mobile, metadata.toll_free, metadata.premium_rate, metadata.uan)
    examples = [kind.example_number for kind in kinds if kind is not None and kind.example_number]
    whole = chosen.choice(examples)
    kept = whole[: chosen.randint(0, len(whole))]
    number = kept + "".join(chosen.choices("0123456789", k=len(whole) - len(kept)))
    code, prefix = str(metadata.country_code), metadata.national_prefix or ""
    return chosen.choice(["", "", code, prefix, code + prefix, metadata.international_prefix or ""]) + number


@pytest.mark.parametrize("seed", [20261201, pytest.param(None, marks=pytest.mark.long)])
def test_quick_check_agrees_with_phonenumbers_in_every_region(seed: int | None) -> None:
    if seed is None:  # a new seed each time; the assertions show it
        seed = random.randrange(10**9)
    chosen = random.Random(seed)
    common = ["US", "CA", "BS", "GB", "DE", "FR", "IN", "AU", "MX", "IT", "BR"] * 25
    quick_answers = valid = 0
    for region in chosen.choices(REGIONS + common, k=12_000):
        digits = numbers_near_valid(chosen, region)
        digits = "".join(character for character in digits if character in "0123456789")
        international = chosen.random() < 0.35
        expected = library_number(digits, international, region)
        plan = numbering_plan(region)
        quick = plan.quick(digits, international)
        assert quick in (None, expected), (seed, region, digits, international)
        assert plan.read(digits, international) == expected, (seed, region, digits, international)
        valid += expected is not None
        quick_answers += quick is not None
    # Agreement proves nothing if the quick check rarely answers.
    assert valid > 3000
    assert quick_answers > 0.9 * valid


@pytest.mark.skipif("FUZZ_SECONDS" not in os.environ, reason="FUZZ_SECONDS is not set; `make fuzz` sets it")
def test_quick_check_agrees_with_phonenumbers_on_every_north_american_exchange() -> None:
    """Each of the million area codes and exchanges, with a random line number."""
    chosen = random.Random()
    valid = sum(
        check_agreement(f"{prefix:06}{chosen.randrange(10_000):04}", False, "US") for prefix in range(1_000_000)
    )
    assert valid > 200_000


@settings(max_examples=500, deadline=None)
@given(
    st.from_regex(r"[0-9]{1,18}", fullmatch=True),
    st.booleans(),
    st.sampled_from(["US", "CA", "GB", "RU", "BR"]),
)
@example("16175551234", False, "BS")
@example("116175551234", False, "US")
@example("01144207183875", False, "US")
@example("3612345", False, "BS")
def test_quick_check_agrees_with_phonenumbers_on_any_digits(digits: str, international: bool, region: str) -> None:
    check_agreement(digits, international, region)


def test_common_north_american_forms_are_answered_quickly() -> None:
    plan = numbering_plan("US")
    assert plan.quick("6175551234", False) == BOSTON
    assert plan.quick("16175551234", False) == BOSTON
    assert plan.quick("16175551234", True) == BOSTON
    assert plan.quick("4165551234", False) == 14165551234
    assert plan.quick("442071838750", True) == 442071838750


def test_no_calling_code_is_the_beginning_of_another() -> None:
    codes = [str(code) for code in COUNTRY_CODE_TO_REGION_CODE]
    assert not [(a, b) for a in codes for b in codes if a != b and b.startswith(a)]


@pytest.mark.parametrize(
    "echoed",
    [
        "6175551234",
        "'6175551234'",
        "16175551234",
        "+16175551234",
        "tel:+1-617-555-1234;postd=2",
        " (617) 555.1234",
        "(+1) 617 555 1234",
        "+ 1 617 555 1234",
        "6175551234.0",
        "6175551234.00'",
        "617.555.1234",
        "sip:6175551234@10.0.0.1",
        "Phone: 617-555-1234.",
    ],
)
def test_first_candidate_is_the_number_as_read_in_the_region(echoed: str) -> None:
    assert candidates(echoed, "US")[0] == BOSTON


@pytest.mark.parametrize(
    ("sent", "echoed", "region"),
    [
        (BOSTON, "6175551234", "GB"),
        (BOSTON, "16175551234", "GB"),
        (442071838750, "442071838750", "US"),
        (442071838750, "2071838750", "GB"),
        (442071838750, "02071838750", "GB"),
        (442071838750, "'1442071838750'", "US"),
    ],
)
def test_candidates_include_the_number_with_another_country_code(sent: int, echoed: str, region: str) -> None:
    assert sent in candidates(echoed, region)


def test_decimal_part_in_a_callback_does_not_make_another_number() -> None:
    assert candidates("0664123456.0", "AT")[0] == 43664123456
    assert not {436641234560, 6641234560} & set(candidates("664123456.0", "AT"))
    assert candidates("6.17556E+09", "US") == ()
    assert candidates("617.555.0000", "US")[0] == 16175550000


@pytest.mark.parametrize(
    "echoed",
    [
        "6175551234x5",
        "6175551234 ext. 5",
        "6.175551234E+9",
        "=276175551234=27",
        "%276175551234%27",
        "6175551234, 6175551299",
        "+1+6175551234",
        "\u0666175551234",
        "6175551234\u00b2",
    ],
)
def test_no_candidates_if_other_digits_are_beside_the_number(echoed: str) -> None:
    """6175551234x5 would become +61 7 5551 2345, a number in Australia."""
    assert candidates(echoed, "US") == ()


def test_no_candidates_without_digits_or_with_too_many() -> None:
    assert candidates("", "US") == candidates("unknown", "US") == candidates("\u0661\u0662", "US") == ()
    assert candidates("9" * 31, "US") == candidates("0", "ZZ")[1:] == ()


def test_candidates_without_a_known_region() -> None:
    assert candidates("16175551234", "ZZ") == (BOSTON, 6175551234, 116175551234)


@settings(max_examples=300, deadline=None)
@given(st.text(alphabet=st.characters(), max_size=60) | st.from_regex(r"'?\+?[0-9 ()-]{1,40}'?"))
def test_candidates_fit_a_bigint_and_never_raise(text: str) -> None:
    found = candidates(text, "US")
    assert all(0 < number < 10**15 for number in found)
    assert len(set(found)) == len(found)


def test_region_is_two_capital_letters_of_a_known_country() -> None:
    assert valid_region("US")
    assert not any(map(valid_region, ["us", "", "ZZ", "001", "USA"]))
    with pytest.raises(ValueError, match="ZZ"):
        parse("6175551234", "ZZ")


def test_number_that_begins_with_00_is_told_to_begin_with_plus() -> None:
    assert str(refusal("0049 30 1234567")).endswith("; write + in place of 00.")
