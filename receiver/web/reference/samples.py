"""Requests in curl, Python, PHP and JavaScript, which the reference shows next to the most used operations."""

from __future__ import annotations

from pathlib import Path

_FILES = Path(__file__).parent / "requests"
_ENDINGS = {"curl": ".sh", "Python": ".python.txt", "PHP": ".php", "JavaScript": ".mjs"}

SAMPLES = {
    operation: {
        language: (_FILES / f"{operation}{ending}").read_text().rstrip("\n") for language, ending in _ENDINGS.items()
    }
    for operation in ("queue_batch", "get_call", "follow_up", "list_results")
}
"""By operation, then by language. `$RECEIVER` is this installation's address, `$KEY` an API key."""
