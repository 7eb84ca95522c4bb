from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow answer of a busy machine must not count as a failed delivery."""
    monkeypatch.setattr("receiver.simulator.delivery.TIMEOUT", 60.0)
