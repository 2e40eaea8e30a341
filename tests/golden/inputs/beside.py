"""A service with a process beside it that takes half of the HBM of one chip, on both paths."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any

from cluster_sim import load_topology, load_workload, simulate
from cluster_sim.output.results import ResultWriter


def user(cluster: Any) -> Generator[Any, None, None]:
    """Comes while requests are served and stays for a second."""
    yield cluster.env.timeout(0.5)
    yield cluster.use("host0/gpu2/hbm", 1.0, share=0.5)


changes = ["plan.tp=1", "plan.router=round_robin", "workload.requests=60"]
job = load_workload("llama8b", [*changes, "workload.arrivals={kind: open, rate: 40 requests/s}"])
for folder, step_by_step in (("fast", False), ("steps", True)):
    machine = load_topology("h200_nvl8")
    result = simulate(machine, job, processes=[user], step_by_step=step_by_step)
    print(folder, [f"{seconds:.4f}" for seconds in result.manifest["machine"]["lost_s"]])
    ResultWriter(Path(folder), print).write(result)
