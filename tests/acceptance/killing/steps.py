"""Steps of the service's processes at which a process is killed (in_process/sitecustomize.py)."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from tests.acceptance.service import Service

IN_PROCESS = Path(__file__).parent / "in_process"


class Steps:
    """The folder in which steps are armed, and in which processes record that they were reached."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        for name in ("armed", "reached", "seen"):
            (folder / name).mkdir(parents=True)

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for the processes that will be killed."""
        path = os.pathsep.join(filter(None, (str(IN_PROCESS), os.environ.get("PYTHONPATH"))))
        return {"PYTHONPATH": path, "KILLING_STEPS": str(self._folder)}

    def arm(self, step: str, times: int, victim: str | int) -> None:
        """Kill `victim` (`self`, `backend` or a process id) when a process has reached the step this many times.

        The victim `hang`: a process that reaches the step waits for `release`.
        """
        (self._folder / "reached" / step).unlink(missing_ok=True)
        written = self._folder / "arming"
        written.write_text(f"{times} {victim}")
        written.rename(self._folder / "armed" / step)

    def release(self, step: str) -> None:
        (self._folder / "reached" / step).unlink()

    def is_reached(self, step: str) -> bool:
        return (self._folder / "reached" / step).exists()

    def disarm(self) -> list[str]:
        """Disarm all steps, and return those that no process reached."""
        armed = list((self._folder / "armed").iterdir())
        for each in armed:
            each.unlink(missing_ok=True)
        return [each.name for each in armed]

    def seen(self) -> set[str]:
        return {each.name for each in (self._folder / "seen").iterdir()}

    def requests(self) -> Counter[str]:
        """How many requests the worker began to send for each `result_url`, successful or not."""
        requests = self._folder / "requests"
        return Counter(requests.read_text().split() if requests.exists() else ())


def service_with(folder: Path, steps: Steps, **environment: str) -> Service:
    """A service with one web process, whose processes have the steps."""
    variables: dict[str, Any] = {**steps.environment, "WEB_CONCURRENCY": "1", **environment}
    return Service(folder, **variables)
