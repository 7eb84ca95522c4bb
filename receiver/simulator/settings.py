"""The settings of one simulator. `command` reads them from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from receiver.simulator.faults import Rates

USUAL_OUTCOMES: Mapping[str, float] = MappingProxyType({"completed": 70, "failed": 20, "canceled": 5, "rejected": 5})
DOCUMENTED_SHAPE: Mapping[str, float] = MappingProxyType({"bare": 1})

STATE_FILE = "simulator.sqlite3"
"""The name of the file in the DATA_DIR of `serve`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`speed`: simulated seconds per real second. `lines`: how many calls one submission dials at the same time.

    `epoch`: the Unix time at which every submission counts as queued; None: the real time. With an epoch, two runs
    with the same seed post the same bytes. `retry`: how often a failed delivery is tried again. `state`: the file of
    unfinished submissions, with which the next process continues; None: they end with this process.
    """

    host: str = "127.0.0.1"
    port: int = 0
    user: str = "simulator"
    key: str = field(default="simulator", repr=False)
    seed: int = 1
    speed: float = 60.0
    lines: int = 50
    outcomes: Mapping[str, float] = field(default_factory=lambda: USUAL_OUTCOMES)
    rates: Rates = field(default_factory=Rates)
    shapes: Mapping[str, float] = field(default_factory=lambda: DOCUMENTED_SHAPE)
    call_ids: Literal["list", "map"] | None = None
    check: bool = True
    retry: int = 0
    senders: int = 16
    epoch: int | None = None
    state: Path | None = None
