"""Precision and plan by printed rules: what fits, and what a closed form says it will deliver."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.perf.memory import KvCache, kv_cache
from cluster_sim.perf.operators import gemm_curve
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.workload import Lengths

EQUAL_SHARES = 40  # of a length distribution, for averages of functions of the length
PRECISIONS = ("fp8", "int8", "bf16")  # auto: the first that the chip has in hardware and that fits


@dataclass(frozen=True, slots=True)
class Candidate:
    """One plan and what the closed form makes of it; ``reason`` says why it is out."""

    tp: int
    replicas: int
    fits: bool
    reason: str
    batch: int = 0
    tpot_s: float = 0.0
    ttft_s: float = 0.0
    requests_per_s: float = 0.0
    output_tokens_per_s_per_chip: float = 0.0
    kv_tokens: int = 0
    within_slo: bool = False


@dataclass(frozen=True, slots=True)
class Choice:
    """The plan that will run, and those that were weighed."""

    weights_dtype: str
    kv_dtype: str
    tp: int
    replicas: int
    candidates: tuple[Candidate, ...]
    notes: tuple[str, ...]


def resolve(machine: TopologyInput, job: WorkloadInput) -> Choice:
    """Choose precision, TP and replicas.

    Rules: precision auto is the first of fp8, int8, bf16 that the chip has and of which some plan
    fits. Plan auto: TP in powers of two inside the domain that divide the heads, with replicas that
    fill all chips; the highest closed-form request rate within the SLO wins, the smaller TP among
    equals; if none keeps the SLO, the lowest TPOT. Raises DoesNotFitError or SpecError for a plan
    that cannot be placed.
    """
    wanted = job.workload.precision
    precisions = PRECISIONS if wanted == "auto" else (wanted,)
    if wanted != "auto":
        gemm_curve(machine, wanted)
    rejected: list[str] = []
    for dtype in precisions:
        if dtype not in machine.chip.peak or dtype not in machine.fits.gemm:
            continue
        candidates = tuple(_weigh(machine, job, dtype, tp) for tp in _degrees(machine, job))
        usable = [candidate for candidate in candidates if candidate.fits]
        if usable:
            return _choose(machine, job, dtype, candidates, usable)
        rejected.append(candidates[-1].reason)
    if not rejected:
        raise SpecError(f"{machine.chip.name} has none of the precisions {', '.join(precisions)}")
    raise DoesNotFitError(f"{rejected[0]} {_smallest_that_fits(machine, job, precisions)}")


def _degrees(machine: TopologyInput, job: WorkloadInput) -> list[int]:
    """TP degrees to weigh: the user's, or all powers of two that divide the heads."""
    devices = machine.topology.chips * machine.chip.devices_per_chip
    plan, heads = job.workload.plan, job.model.heads
    if plan.tp is not None:
        replicas = plan.replicas or 1
        if heads % plan.tp:
            raise DoesNotFitError(
                f"tp={plan.tp} does not divide the {heads} attention heads of {job.model.name}; "
                f"use one of {', '.join(str(d) for d in _divisors(heads, devices))}."
            )
        if plan.tp * replicas > devices:
            raise DoesNotFitError(
                f"tp={plan.tp} x {replicas} replicas needs {plan.tp * replicas} devices, "
                f"{machine.topology.name} has {devices}; lower --tp or --replicas."
            )
        return [plan.tp]
    degrees = [d for d in _divisors(heads, devices) if d & (d - 1) == 0]
    if plan.replicas is not None:
        degrees = [d for d in degrees if d * plan.replicas <= devices]
        if not degrees:
            raise DoesNotFitError(
                f"{plan.replicas} replicas need at least {plan.replicas} devices, "
                f"{machine.topology.name} has {devices}; lower --replicas."
            )
    return degrees


def _divisors(heads: int, devices: int) -> list[int]:
    return [d for d in range(1, devices + 1) if heads % d == 0]


def _kv_dtype(job: WorkloadInput, weights_dtype: str) -> str:
    kv_dtype = job.software.kv_dtype.get(weights_dtype)  # type: ignore[call-overload]
    return str(kv_dtype) if kv_dtype else "bf16"


def _weigh(machine: TopologyInput, job: WorkloadInput, dtype: str, tp: int) -> Candidate:
    devices = machine.topology.chips * machine.chip.devices_per_chip
    replicas = job.workload.plan.replicas or devices // tp
    kv_dtype = _kv_dtype(job, dtype)
    try:
        cache = kv_cache(machine.chip, job.model, job.software, tp, dtype, kv_dtype)
    except DoesNotFitError as error:
        return Candidate(tp, replicas, fits=False, reason=str(error))
    price = compile_step_price(machine, job.model, job.software, tp, dtype, kv_dtype)
    return _closed_form(machine, job, tp, replicas, price, cache)


def _closed_form(
    machine: TopologyInput,
    job: WorkloadInput,
    tp: int,
    replicas: int,
    price: StepPrice,
    cache: KvCache,
) -> Candidate:
    """Steady state of a replica that decodes B sequences while their successors are prefilled.

    Model: TPOT(B) = d(B) + B p / OSL with d the decode step at mean context ISL + OSL / 2 and p the
    mean time that a prompt adds. A request of n tokens meets about n TPOT B / (OSL TPOT) prompts, a
    Poisson number, so its own TPOT spreads by sqrt(B E[p^2] cv^2 / (OSL n)). B is the largest at
    which a share ``attainment`` of the answers keeps the limit (normal tail, averaged over the
    lengths of answers) and the cache and max_num_seqs suffice; rate = B / (OSL TPOT).
    """
    workload, budget = job.workload, job.software.max_num_batched_tokens
    isl, osl, slo = workload.isl.mean, workload.osl.mean, workload.slo
    prompts = [_prompt_s(price, length, budget) for length in _typical(workload.isl)]
    prompt_s = sum(prompts) / len(prompts)
    spread = sum(p * p for p in prompts) / len(prompts) * workload.arrivals.cv**2
    answers = _typical(workload.osl)

    def tpot(batch: int) -> float:
        decode = price.step_s(batch, round(batch * (isl + osl / 2)), 0, 0, 0.0)
        return decode + batch * prompt_s / osl

    def kept(batch: int) -> float:
        """Share of the answers whose TPOT keeps the limit."""
        if slo.tpot is None:
            return 1.0
        margin = slo.tpot - tpot(batch)
        deviations = [math.sqrt(batch * spread / (osl * n)) for n in answers]
        return sum(0.5 * math.erfc(-margin / (d * math.sqrt(2))) for d in deviations) / len(answers)

    most = max(1, min(int(cache.tokens // (isl + osl)), job.software.max_num_seqs))
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if kept(middle) >= slo.attainment else (low, middle - 1)
    tpot_s = tpot(low)
    ttft_s = prompt_s + tpot_s
    rate = replicas * low / (osl * tpot_s)
    keeps = kept(low) >= slo.attainment and (slo.ttft is None or ttft_s <= slo.ttft)
    return Candidate(
        tp,
        replicas,
        fits=True,
        reason="" if keeps else "cannot keep the SLO",
        batch=low,
        tpot_s=tpot_s,
        ttft_s=ttft_s,
        requests_per_s=rate,
        output_tokens_per_s_per_chip=rate * osl / (tp * replicas / machine.chip.devices_per_chip),
        kv_tokens=cache.tokens,
        within_slo=keeps,
    )


def _typical(lengths: Lengths) -> list[int]:
    """Token counts at the middles of equal shares of a distribution."""
    if lengths.fixed is not None:
        return [lengths.fixed]
    shares, tokens = zip(*(lengths.quantiles or ()), strict=True)
    middles = (np.arange(EQUAL_SHARES) + 0.5) / EQUAL_SHARES
    return [max(1, round(float(x))) for x in np.interp(middles, shares, tokens)]


def _prompt_s(price: StepPrice, tokens: int, budget: int) -> float:
    """Seconds that a prompt adds to the steps that compute it, over the cost of one more token."""
    steps = -(-tokens // budget)
    linear = (steps - 1) * price.tokens_s[budget] + price.tokens_s[tokens - (steps - 1) * budget]
    attention = price.prefill_work_s * price.prefill_work(0, tokens)
    return linear - price.tokens_s[1] + attention + steps * price.prefill_floor_s


def _choose(
    machine: TopologyInput,
    job: WorkloadInput,
    dtype: str,
    candidates: tuple[Candidate, ...],
    usable: list[Candidate],
) -> Choice:
    keeping = [candidate for candidate in usable if candidate.within_slo]
    notes = []
    if keeping:
        best = max(keeping, key=lambda c: (c.requests_per_s, -c.tp))
    else:
        best = min(usable, key=lambda c: (c.tpot_s, c.tp))
        notes.append("no plan keeps the SLO in the closed form; the one with the lowest TPOT runs")
    return Choice(dtype, _kv_dtype(job, dtype), best.tp, best.replicas, candidates, tuple(notes))


def _smallest_that_fits(
    machine: TopologyInput, job: WorkloadInput, precisions: tuple[str, ...]
) -> str:
    devices = machine.topology.chips * machine.chip.devices_per_chip
    for dtype in precisions:
        if dtype not in machine.chip.peak or dtype not in machine.fits.gemm:
            continue
        for tp in _divisors(job.model.heads, devices):
            try:
                kv_cache(machine.chip, job.model, job.software, tp, dtype, _kv_dtype(job, dtype))
            except DoesNotFitError:
                continue
            return f"Smallest plan that fits: tp={tp} in {dtype}."
    return f"No plan on {machine.topology.name} fits; take more or larger chips."
