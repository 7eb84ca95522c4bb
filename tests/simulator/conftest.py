from __future__ import annotations

import pytest


@pytest.fixture(autouse=True)
def patient_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine must not be taken for a receiver that does not answer."""
    monkeypatch.setattr("receiver.simulator.delivery.TIMEOUT", 60.0)
