"""What a simulation gives, whatever it was of, and what identifies its inputs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cluster_sim import __version__
from cluster_sim.specs.inputs import TopologyInput, TrainingInput, WorkloadInput
from cluster_sim.specs.workload import ABOUT_A_TRACE, Economics

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


def config_hash(
    machine: TopologyInput,
    job: WorkloadInput | TrainingInput,
    economics: Economics,
    trace: str | None = None,
    others: Sequence[str] = (),
) -> str:
    """SHA-256 of everything that decides the numbers: resolved inputs, what a trace holds, who else
    is on the machine (processes by name), and the version of the program. Rates of training decide
    nothing in serving, nor do the ceiling of a memory that nobody else reads, settings of drafts
    without any and what is said of no trace.
    """
    fits, software = dataclasses.asdict(machine.fits), dataclasses.asdict(job.software)
    chip = dataclasses.asdict(machine.chip)
    if isinstance(job, TrainingInput):
        fits = dataclasses.asdict(machine.alone)
    else:
        fits.pop("training")
        if not others:
            del chip["memory"]["ceiling"]
            chip["sources"].pop("ceiling", None)
        if not job.software.draft_tokens:
            software = {k: value for k, value in software.items() if not k.startswith("draft_")}
    wanted = dataclasses.asdict(job.workload)
    if isinstance(job, WorkloadInput) and not job.workload.arrivals.replays:
        for name in ABOUT_A_TRACE:
            del wanted["arrivals"][name]
    resolved = [
        dataclasses.asdict(machine.topology),
        chip,
        fits,
        wanted,
        dataclasses.asdict(job.model),
        software,
        dataclasses.asdict(economics),
    ]
    traced = [] if trace is None else [trace]
    beside = [list(others)] if others else []
    text = json.dumps([__version__, resolved, *traced, *beside], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
