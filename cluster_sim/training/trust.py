"""How far a training step can be trusted: what its time was priced by, and an honest band."""

from __future__ import annotations

import math
from dataclasses import dataclass

from cluster_sim.perf.operators import attention_curves, gemm_curve, mla_curves
from cluster_sim.perf.train_kernels import curve_of
from cluster_sim.training.closed import Step
from cluster_sim.training.job import Job

PROVENANCES = ("measured", "transferred", "datasheet", "assumed")
# Log-normal spread of measured step times around simulated ones, from runs whose whole source was
# left out of the fit; see docs/accuracy.md.
DENSE_SIGMA, MOE_SIGMA = 0.10, 0.22
# What is added where the sustained rate is not the chip's own: the largest difference between
# relatives that were measured (H200 against H100, GB300 against GB200).
TRANSFERRED_SIGMA = 0.12
ASSUMED_SIGMA = 0.25  # where it is assumed: twice that. Source: assumed
Z80 = 1.2816  # of a normal: four fifths lie within


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
    """The trust in a step."""
    case, seconds = job.case, step.seconds
    machine, model = job.machine, case.model
    rate = case.kernels.rate
    curve = gemm_curve(machine, curve_of(case.job.precision))
    if model.mla is not None:
        attention = mla_curves(machine, "bf16")[0].provenance
    else:
        attention = attention_curves(machine, "bf16")[0].provenance
    kernels = _worst(curve.provenance, rate.provenance)
    found = dict.fromkeys(PROVENANCES, 0.0)
    for part, spent in step.parts.items():
        if part in ("gemm", "experts", "head"):
            found[kernels] += spent
        elif part == "attention":
            found[_worst(attention, rate.provenance)] += spent
        elif part in ("tp", "cp", "ep", "dp"):
            found[_collectives(job)] += spent
        else:
            found["assumed"] += spent
    rest = max(0.0, seconds - sum(found.values()))
    found[kernels] += rest  # bubbles and waits last as long as what they wait for
    total = math.fsum(found.values())
    sigma = DENSE_SIGMA if model.moe is None else MOE_SIGMA
    notes = []
    if rate.provenance != "measured":
        more = TRANSFERRED_SIGMA if rate.provenance == "transferred" else ASSUMED_SIGMA
        sigma = math.hypot(sigma, more)
        notes.append(
            f"no training run of {machine.chip.title} was measured: its sustained rate is "
            f"{rate.provenance}"
        )
    return Trust(
        provenance={name: share / total for name, share in found.items()},
        sigma=sigma,
        low_s=seconds * math.exp(-Z80 * sigma),
        high_s=seconds * math.exp(Z80 * sigma),
        parts=_parts(job, sigma),
        notes=tuple(notes),
    )


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


def _collectives(job: Job) -> str:
    fits = job.case.network.fits
    return fits.nccl.gather.provenance if fits.nccl is not None else "assumed"


def _worst(*names: str) -> str:
    order = ("measured", "datasheet", "transferred", "assumed")
    return max(names, key=order.index)
