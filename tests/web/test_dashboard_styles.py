"""Colours: text and marks have the contrast that WCAG 2.2 requires, in both colour schemes."""

from __future__ import annotations

import re

import pytest

from receiver.model import OUTCOMES
from receiver.web.dashboard.assets import STATIC

CSS = (STATIC / "app.css").read_text()
MARKS = [*OUTCOMES, "pending", "overdue", "refused", "withdrawn"]


def tokens(scheme: str) -> dict[str, str]:
    light = CSS[CSS.index(":root {") : CSS.index("@media")]
    dark = CSS[CSS.index("prefers-color-scheme: dark") :].partition("\n}\n")[0]
    found = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", light))
    if scheme == "dark":
        overridden = dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", dark))
        assert overridden.keys() == found.keys()
        found |= overridden
    return found


def luminance(colour: str) -> float:
    """WCAG 2.2, relative luminance."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first: str, second: str) -> float:
    lighter, darker = sorted((luminance(first), luminance(second)), reverse=True)
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_has_a_contrast_of_4_5(scheme: str) -> None:
    found = tokens(scheme)
    grounds = ("page", "surface", "sunken")
    for text in ("text", "quiet", "accent", "good", "bad", "warn"):
        for ground in grounds:
            assert contrast(found[text], found[ground]) >= 4.5, (scheme, text, ground)
    assert contrast(found["on-accent"], found["accent"]) >= 4.5


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_marks_edges_and_focus_have_a_contrast_of_3(scheme: str) -> None:
    found = tokens(scheme)
    for mark in (*MARKS, "edge", "focus"):
        for ground in ("page", "surface"):
            assert contrast(found[mark], found[ground]) >= 3, (scheme, mark, ground)
    for outcome in OUTCOMES:
        assert contrast(found["texture"], found[outcome]) >= 3, (scheme, outcome)


def test_every_outcome_and_state_has_its_colour_and_no_two_the_same() -> None:
    for scheme in ("light", "dark"):
        found = tokens(scheme)
        assert len({found[mark] for mark in MARKS}) == len(MARKS)
    for name in OUTCOMES:
        assert f".outcome-{name} {{ fill: var(--{name}); }}" in CSS
        assert f".badge-{name}::before {{ --mark: var(--{name});" in CSS
    for state in ("pending", "overdue", "refused", "withdrawn"):
        assert f".state-{state} {{ fill: var(--{state}); }}" in CSS
