"""The facts of a run: what went in and what was recorded."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.capacity import Capacity, Saturation
from cluster_sim.metrics import Targets, targets
from cluster_sim.origin import Origin
from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.plan import Choice
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.workload import Economics


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that the figures of a run follow from."""

    machine: TopologyInput
    job: WorkloadInput
    economics: Economics
    choice: Choice
    price: StepPrice
    cache: KvCache
    requests: Requests
    run: Run
    capacity: Capacity | None
    saturation: Saturation | None
    asked_per_s: float | None  # requests, of open traffic at a rate
    load_of: str  # what the load of such traffic is a share of
    caching: bool  # a prefix cache has something to share
    trace_sha256: str | None
    origin: Origin
    others: tuple[str, ...] = ()  # who else was on the machine

    @property
    def open_loop(self) -> bool:
        """Whether requests come whatever the service does."""
        return self.job.workload.arrivals.kind in ("open", "trace")

    @property
    def targets(self) -> Targets:
        """The SLO of each request."""
        return targets(self.job.workload, self.requests)

    @property
    def chips_used(self) -> int:
        """Chips that hold a part of a replica."""
        devices = self.choice.layout.devices * self.choice.replicas
        return -(-devices // self.machine.chip.devices_per_chip)
