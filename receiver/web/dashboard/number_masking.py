"""Phone numbers on pages: whole, or all but their last four digits hidden, as the viewer chose or their key asks.

This guards against who looks over a shoulder or at a shared screen, and pages that are printed or pasted. It is no
limit of a key's rights: the API and the downloads give whole numbers to every key.
"""

from __future__ import annotations

import re

from flask import session

from receiver.web.auth import current_key
from receiver.web.dashboard.pages import blueprint

HIDDEN_DIGIT = "•"
SHOWN_DIGITS = 4

_CHOICE = "whole_numbers"
"""Where the session remembers a choice; without one, the key's scope decides."""

_DIGIT = re.compile(r"\d")
# A time stamp is as long as a number, and half of a callback is time stamps: a run of ten digits that a field
# of that name introduces stays.
_NUMBER = re.compile(
    r"""(?P<kept>timestamp(?:["'\])\s:=>]|%5D|%22|%3A){1,8}1\d{9}(?!\d))"""
    r"""|\+\d(?:[\s().-]{0,2}\d){6,14}"""  # international, however it is spaced
    r"""|\(?\d{2,4}\)?[\s.-]{1,2}\d{3,4}[\s.-]\d{3,4}(?!\d)"""  # (617) 555-1234, and no date: 2026-12-01
    r"""|\d{7,}""",
    re.IGNORECASE,
)


@blueprint.app_template_global()
def numbers_whole() -> bool:
    """Whether this viewer sees whole numbers: by choice, else keys of scope `queue` and `admin` do."""
    chosen = session.get(_CHOICE)
    return chosen if isinstance(chosen, bool) else current_key().allows("queue")


def choose_numbers(whole: bool) -> None:
    """Remember the choice for as long as the session lasts."""
    session[_CHOICE] = whole


@blueprint.app_template_filter()
def shown_number(phone_number: str) -> str:
    """An E.164 number as this viewer may see it."""
    return phone_number if numbers_whole() else hide_digits(phone_number)


@blueprint.app_template_filter()
def shown_text(text: str) -> str:
    """A text in which numbers may stand (a destination, a variable, a body) as this viewer may see it."""
    return text if numbers_whole() else hide_numbers(text)


def hide_numbers(text: str) -> str:
    """Everything in a text that has a phone number's length and form, with its last four digits left."""
    return _NUMBER.sub(lambda match: match[0] if match["kept"] else hide_digits(match[0]), text)


def hide_digits(text: str) -> str:
    """Every digit but the last four hidden, whatever stands between them kept."""
    hidden = len(_DIGIT.findall(text)) - SHOWN_DIGITS
    return _DIGIT.sub(HIDDEN_DIGIT, text, count=hidden) if hidden > 0 else text
