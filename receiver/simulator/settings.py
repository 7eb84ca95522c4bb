"""What one pretended provider is like. Values only; `command` reads them from the command line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from receiver.simulator.faults import Rates

USUAL_OUTCOMES: Mapping[str, float] = MappingProxyType({"completed": 70, "failed": 20, "canceled": 5, "rejected": 5})
DOCUMENTED_SHAPE: Mapping[str, float] = MappingProxyType({"bare": 1})


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """`speed`: simulated seconds in a real one. `lines`: calls that one submission dials at a time.

    `epoch`: Unix seconds at which every submission counts as queued; None: when it really is. With
    it, two runs of one seed post the same bytes. `retry`: further tries of a failed delivery.
    `state`: a file that keeps what is under way, for the next process to go on with; None: it ends with this one.
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
    ledger: Path | None = None
    state: Path | None = None
