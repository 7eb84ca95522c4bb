"""A measured figure beside what it is to reach, the table of them, and the JSON that keeps them."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table. `at_least` or `at_most` is the goal, in the figure's own unit; None: only told."""

    what: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None
    note: str = ""

    def reaches(self, loose: float = 1.0) -> bool | None:
        """Whether the goal is reached, or one that is `loose` times easier; None without a goal."""
        if self.at_least is not None:
            return self.value >= self.at_least / loose
        if self.at_most is not None:
            return self.value <= self.at_most * loose
        return None


def table(figures: Sequence[Figure]) -> str:
    """The figures as Markdown."""
    lines = ["| what | measured | goal | |", "| --- | ---: | ---: | --- |"]
    for figure in figures:
        goal = ""
        if figure.at_least is not None:
            goal = f"≥ {_number(figure.at_least)} {figure.unit}".rstrip()
        elif figure.at_most is not None:
            goal = f"≤ {_number(figure.at_most)} {figure.unit}".rstrip()
        verdict = {True: "reached", False: "missed", None: ""}[figure.reaches()]
        remark = "; ".join(part for part in (verdict, figure.note) if part)
        lines.append(f"| {figure.what} | {_number(figure.value)} {figure.unit} | {goal} | {remark} |")
    return "\n".join(lines)


def keep(figures: Sequence[Figure], folder: Path, name: str) -> Path:
    """Write the figures, with when and on what they were measured, as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    content = {
        "measured_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load_average": os.getloadavg(),
        "figures": [asdict(figure) | {"reached": figure.reaches()} for figure in figures],
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def _number(value: float) -> str:
    if value != value:  # NaN
        return "?"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
