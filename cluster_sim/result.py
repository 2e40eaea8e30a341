"""What a simulation gives, whatever it was of."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster_sim.facts import Facts


@dataclass(frozen=True, slots=True)
class Result:
    """One row of numbers, the rows behind it (requests, of training steps: ``table`` names them),
    and the manifest with their origin; ``facts`` if they are to be kept.
    """

    summary: dict[str, Any]
    requests: dict[str, Any]
    manifest: dict[str, Any]
    partial: bool
    facts: Facts | None = None
    table: str = "requests"

    def __repr__(self) -> str:
        return f"<Result {self.summary.get('run_id')}: {len(self.summary)} columns>"
