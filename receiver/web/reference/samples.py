"""Requests in curl, Python and PHP, shown in the reference next to the operations that most users start with."""

from __future__ import annotations

from pathlib import Path

_FILES = Path(__file__).parent / "requests"
_ENDINGS = {"curl": ".sh", "Python": ".python.txt", "PHP": ".php"}

SAMPLES = {
    operation: {
        language: (_FILES / f"{operation}{ending}").read_text().rstrip("\n") for language, ending in _ENDINGS.items()
    }
    for operation in ("queue_batch", "get_call")
}
"""By operation, then by language. `$RECEIVER` is this installation's address, `$KEY` an API key."""
