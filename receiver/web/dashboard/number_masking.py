"""Phone numbers on pages: shown completely, or with only their last four digits. The viewer chooses.

This protects numbers on shared screens, printed pages and copied text. It does not limit the rights of a key: the API
and the downloads give complete numbers to every key.
"""

from __future__ import annotations

import re

from flask import session

from receiver.web.auth import current_key
from receiver.web.dashboard.pages import blueprint

HIDDEN_DIGIT = "•"
SHOWN_DIGITS = 4

_CHOICE = "whole_numbers"
"""The viewer's choice in the session. Without one, the key's scope decides."""

_DIGIT = re.compile(r"\d")
# Callbacks contain many time stamps, which have as many digits as phone numbers. So ten digits after the field name
# `timestamp` are not hidden.
_NUMBER = re.compile(
    r"""(?P<kept>timestamp(?:["'\])\s:=>]|%5D|%22|%3A){1,8}1\d{9}(?!\d))"""
    r"""|\+\d(?:[\s().-]{0,2}\d){6,14}"""  # international, with any spacing
    r"""|\(?\d{2,4}\)?[\s.-]{1,2}\d{3,4}[\s.-]\d{3,4}(?!\d)"""  # (617) 555-1234, and no date: 2026-12-01
    r"""|\d{7,}""",
    re.IGNORECASE,
)


@blueprint.app_template_global()
def numbers_whole() -> bool:
    """Whether this viewer sees complete numbers. Default: with a key of scope `queue` or `admin`."""
    chosen = session.get(_CHOICE)
    return chosen if isinstance(chosen, bool) else current_key().allows("queue")


def choose_numbers(whole: bool) -> None:
    """Remember the choice for as long as the session lasts."""
    session[_CHOICE] = whole


@blueprint.app_template_filter()
def shown_number(phone_number: str) -> str:
    """An E.164 number, hidden if the viewer does not see complete numbers."""
    return phone_number if numbers_whole() else hide_digits(phone_number)


@blueprint.app_template_filter()
def shown_text(text: str) -> str:
    """A text that may contain numbers (a destination, a variable, a body), hidden in the same way."""
    return text if numbers_whole() else hide_numbers(text)


def hide_numbers(text: str) -> str:
    """Hide everything in a text that looks like a phone number, except its last four digits."""
    return _NUMBER.sub(lambda match: match[0] if match["kept"] else hide_digits(match[0]), text)


def hide_digits(text: str) -> str:
    """Hide all digits except the last four. Other characters stay."""
    hidden = len(_DIGIT.findall(text)) - SHOWN_DIGITS
    return _DIGIT.sub(HIDDEN_DIGIT, text, count=hidden) if hidden > 0 else text
