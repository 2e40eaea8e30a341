"""How far a training step can be trusted: what its time was priced by, and an honest band."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster_sim.collectives.network import Axis, Timing
from cluster_sim.kernels.curves import expert_curve, gemm_curve, kind_curves
from cluster_sim.perf.train_kernels import curve_of
from cluster_sim.specs.chip import weakest
from cluster_sim.training.closed import Step
from cluster_sim.training.job import Job
from cluster_sim.training.priced import boundaries

PROVENANCES = ("measured", "transferred", "extrapolated", "datasheet", "assumed")
# Log-normal spread of measured step times around simulated ones, from runs whose whole source was
# left out of the fit; see docs/accuracy.md.
DENSE_SIGMA, MOE_SIGMA = 0.10, 0.22
# What is added where the sustained rate is not the chip's own: the largest difference between
# relatives that were measured (H200 against H100, GB300 against GB200).
TRANSFERRED_SIGMA = 0.12
ASSUMED_SIGMA = 0.25  # where it is assumed: twice that. Source: assumed
Z80 = 1.2816  # of a normal: four fifths lie within
TOLD = 0.005  # of a step: what distance has to add before a note says so
COLLECTIVES = ("tp", "cp", "ep", "dp", "pp")  # parts of a step, and owners of what of them shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Shares of the step's time by provenance, the spread and what it is of (``parts``), and the
    band that four of five measured runs should lie in.
    """

    provenance: dict[str, float]
    sigma: float
    low_s: float
    high_s: float
    parts: tuple[tuple[str, float], ...]
    notes: tuple[str, ...]


def trust_of(job: Job, step: Step) -> Trust:
    """The trust in a step.

    Model: the spread of steps whose source no fit had seen; that of a rate that is not the chip's
    own; of each kind of collectives the sigma that the distance from its timings adds, times the
    share of the step that shows of it. All independent of each other.
    """
    seconds, model = step.seconds, job.case.model
    sigma = DENSE_SIGMA if model.moe is None else MOE_SIGMA
    notes, rate = [], job.case.kernels.rate
    if rate.provenance != "measured":
        more = TRANSFERRED_SIGMA if rate.provenance == "transferred" else ASSUMED_SIGMA
        sigma = math.hypot(sigma, more)
        notes.append(
            f"no training run of {job.machine.chip.title} was measured: its sustained rate is "
            f"{rate.provenance}"
        )
    borrowed = job.case.kernels.software.stands_in(job.machine.chip.vendor)
    if borrowed is not None:
        notes.append(borrowed)
    parts = list(_parts(job, sigma))
    for part in COLLECTIVES:
        timing, share = _timing(job, part), step.owners.get(part, 0.0) / seconds
        if timing is None or not timing.far * share:
            continue
        ranks = max(shape.ranks for shape in _groups(job, part))
        parts.append((f"{part} collectives on {ranks} ranks", timing.far * share))
        if timing.far * share >= TOLD:
            notes.append(
                f"{part} collectives on {ranks:,} ranks are extrapolated: their constants were "
                f"timed on other ranks or sizes; that alone may move the step by "
                f"{100 * timing.far * share:.1f} %"
            )
    whole = math.sqrt(math.fsum(effect * effect for _, effect in parts))
    return Trust(
        provenance=_provenance(job, step),
        sigma=whole,
        low_s=seconds * math.exp(-Z80 * whole),
        high_s=seconds * math.exp(Z80 * whole),
        parts=tuple(parts),
        notes=tuple(notes),
    )


def _provenance(job: Job, step: Step) -> dict[str, float]:
    """Shares of the step's time by what its parts are priced with."""
    machine, rate = job.case.kernels.machine, job.case.kernels.rate
    curve = gemm_curve(machine, curve_of(job.case.job.precision))
    attention = kind_curves(machine, job.case.model.kinds[0], "bf16")[0].provenance
    kernels = weakest((curve.provenance, rate.provenance))
    streams = machine.fits.glue.provenance
    found = dict.fromkeys(PROVENANCES, 0.0)
    for part, spent in step.parts.items():
        if part in ("gemm", "head"):
            found[kernels] += spent
        elif part == "experts":
            experts = expert_curve(machine, curve_of(job.case.dtype("experts")))
            found[weakest((experts.provenance, rate.provenance))] += spent
        elif part in ("elementwise", "permute"):
            found[streams] += spent
        elif part == "attention":
            found[weakest((attention, rate.provenance))] += spent
        elif part in COLLECTIVES:
            timing = _timing(job, part)
            found[timing.provenance if timing is not None else "assumed"] += spent
        else:
            found["assumed"] += spent
    for part in COLLECTIVES:  # what runs beside kernels: as much as shows
        if part not in step.parts:
            timing = _timing(job, part)
            word = timing.provenance if timing is not None else "assumed"
            found[word] += step.owners.get(part, 0.0)
    rest = max(0.0, step.seconds - sum(found.values()))
    found[kernels] += rest  # bubbles and waits last as long as what they wait for
    total = math.fsum(found.values())
    return {name: share / total for name, share in found.items()}


def _parts(job: Job, sigma: float) -> tuple[tuple[str, float], ...]:
    """What the spread is of, so that two runs can tell what they have in common: software profile,
    rate of the chip, model and precision, in equal parts (assumed).
    """
    case = job.case
    keys = (
        f"software {case.kernels.software.name}",
        f"rate of {job.machine.chip.name}",
        f"{case.model.name} in {case.job.precision}",
    )
    return tuple((key, sigma / math.sqrt(len(keys))) for key in keys)


def _timing(job: Job, part: str) -> Timing | None:
    return job.case.network.timing(_groups(job, part))


def _groups(job: Job, part: str) -> tuple[Axis, ...]:
    """The groups of ranks whose collectives are one part of a step."""
    groups = job.case.groups
    sharded = (groups.sharded, groups.outer, groups.expert_sharded, groups.expert_outer)
    of_experts = (groups.ep, groups.etp)
    if part == "pp":
        return boundaries(job)
    return {"tp": (groups.tp,), "cp": (groups.cp,), "ep": of_experts, "dp": sharded}[part]
