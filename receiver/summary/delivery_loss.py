"""How many results were never delivered: what the provider owes us once a batch is due. Found from counters only.

A result that had to be fetched was not delivered either. One that came after it was fetched is counted all
the same: by then its call was overdue.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Loss:
    """Of batches past their due time: calls that were to have a result, those without one, those with a fetched one."""

    due: int
    overdue: int
    polled: int

    @property
    def rate(self) -> float | None:
        """Results never delivered, over all that were due; None where none was."""
        return round((self.overdue + self.polled) / self.due, 6) if self.due else None
