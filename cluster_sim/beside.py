"""The machine with the replicas of a run on its devices, and who else is there.

Runs without anybody else do not need it, and do not import it.
"""

from __future__ import annotations

from collections.abc import Sequence

from cluster_sim.collectives.group import make_group
from cluster_sim.engine.cluster import Process
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.build import build_machine
from cluster_sim.perf.background import background as traffic_beside
from cluster_sim.perf.background import stretched
from cluster_sim.perf.replica_phases import Resources, replica_phases
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.plan import Choice
from cluster_sim.serving.site import Site, always
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput

LASTS_S = 1e8  # traffic beside a run: longer than any run


def make_site(
    machine: TopologyInput,
    job: WorkloadInput,
    choice: Choice,
    price: StepPrice,
    processes: Sequence[Process] = (),
    background: Sequence[str] = (),
) -> Site:
    """The machine with the replicas of a plan on its devices, and who else is there."""
    built = build_machine(machine)
    resources = Resources(machine=built, hbm_bytes_per_s=hbm_bytes_per_s(machine))
    beside: list[Process] = []
    if background:
        everybody = make_group(machine, range(built.devices), machine=built)
        found = [one for text in background for one in traffic_beside(machine, everybody, text)]
        beside.append(always(stretched(one, LASTS_S) for one in found))
    swaps = job.software.preemption == "swap"
    return Site(
        capacity=resources.capacity(),
        homes=replica_phases(resources, price, choice.layout, choice.replicas, swaps=swaps),
        processes=(*beside, *processes),
    )
