"""What a simulation gives, whatever it was of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from cluster_sim.errors import ClusterSimError

if TYPE_CHECKING:
    from cluster_sim.engine.cluster import Use
    from cluster_sim.facts import Facts


class UsedMachine(Protocol):
    """A machine on which something ran."""

    def use(self) -> dict[str, Use]:
        """Every resource by name."""


@dataclass(frozen=True, slots=True)
class Result:
    """One row of numbers, the rows behind it (requests, of training steps: ``table`` names them),
    and the manifest with their origin; ``facts`` if they are to be kept, ``machine`` of a training
    step.
    """

    summary: dict[str, Any]
    requests: dict[str, Any]
    manifest: dict[str, Any]
    partial: bool
    facts: Facts | None = None
    table: str = "requests"
    machine: UsedMachine | None = field(default=None, repr=False, compare=False)

    @property
    def cluster(self) -> dict[str, Use]:
        """Every resource of the machine by name (SMs and memory of devices, links), with its busy
        seconds and what it carried; found when asked. Raises ClusterSimError where no facts of a
        serving run were kept.
        """
        if self.machine is not None:
            return self.machine.use()
        if self.facts is None:
            raise ClusterSimError("no facts of this run were kept; give simulate keep=True")
        from cluster_sim.busy import resource_use

        return resource_use(self.facts)

    def __repr__(self) -> str:
        return f"<Result {self.summary.get('run_id')}: {len(self.summary)} columns>"
