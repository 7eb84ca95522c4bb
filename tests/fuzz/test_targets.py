"""Every target, with its corpus and with inputs that Hypothesis generates.

With `FUZZ_SECONDS`, Hypothesis tests each target for that long, with different inputs each time (`make fuzz`).
"""

from __future__ import annotations

import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz.strategies import inputs_for
from tests.fuzz.targets import CORPUS, MEMORY_BYTES, SECONDS, TARGETS

LONG_RUN_SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
SHORT = settings(
    max_examples=100,
    derandomize=True,
    database=None,
    deadline=None,  # the machine may be busy; a corpus test limits processor time
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much],
)
LONG = settings(SHORT, max_examples=500, derandomize=False, phases=[Phase.generate, Phase.shrink], print_blob=True)

SAVED = [pytest.param(name, path, id=f"{name}-{path.name}") for name in TARGETS for path in TARGETS[name].corpus()]


def _once(name: str, chosen: settings) -> Callable[[], None]:
    @chosen
    @given(inputs_for(name))
    def try_inputs(inputs: bytes) -> None:
        TARGETS[name].check(inputs)

    return try_inputs


@pytest.mark.skipif(LONG_RUN_SECONDS > 0, reason="the long run includes these inputs")
@pytest.mark.parametrize("name", TARGETS)
def test_promises_hold_for_generated_inputs(name: str) -> None:
    _once(name, settings(SHORT, max_examples=TARGETS[name].examples))()


@pytest.mark.skipif(LONG_RUN_SECONDS == 0, reason="FUZZ_SECONDS is not set; `make fuzz` sets it")
@pytest.mark.parametrize("name", TARGETS)
def test_promises_hold_for_many_generated_inputs(name: str) -> None:
    until = time.monotonic() + LONG_RUN_SECONDS
    start = int(time.time())
    rounds = 0
    while time.monotonic() < until:
        seed(start + rounds)(_once(name, LONG))()
        rounds += 1
    print(f"\n{name}: {rounds * LONG.max_examples:,} inputs")


@pytest.mark.parametrize("name", TARGETS)
def test_samples_keep_the_promises(name: str) -> None:
    samples = list(TARGETS[name].samples())
    assert samples
    for inputs in samples:
        TARGETS[name].check(inputs)


@pytest.mark.parametrize(("name", "path"), SAVED)
def test_corpus_keeps_the_promises_in_bounded_time_and_memory(name: str, path: Path) -> None:
    inputs = path.read_bytes()
    target = TARGETS[name]
    tracemalloc.start()
    try:
        target.check(inputs)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < MEMORY_BYTES
    began = time.process_time()
    target.check(inputs)
    assert time.process_time() - began < SECONDS


def test_corpus_is_small_and_belongs_to_targets() -> None:
    assert {folder.name for folder in CORPUS.iterdir()} == set(TARGETS)
    assert sum(path.stat().st_size for path in CORPUS.rglob("*") if path.is_file()) < 200_000
