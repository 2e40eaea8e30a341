"""How far the headline figures of a run may be off: a band that follows from the residuals of the
constants behind them, to first order.

Model: ln h = ln h0 + sum of e_k sigma_k z_k over independent residuals k with z_k normal. e_k is
the elasticity of the headline to the step time, times the share of the step time that residual k
scales at the point where the headline was taken. sigma(h)^2 = sum (e_k sigma_k)^2; eight in ten
lie between h0 exp(-1.2816 sigma) and h0 exp(1.2816 sigma).
Limits: queues before the engine answer more than in proportion near saturation; prices, mean
lengths and arrivals are taken as given.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_sim.columns import HEADLINES
from cluster_sim.facts import Facts
from cluster_sim.ledger import Ledger, close_ledger
from cluster_sim.perf.residuals import (
    Residual,
    front_end_residual,
    power_residual,
    step_residuals,
    whole_residuals,
)
from cluster_sim.perf.steady import Steady, capacity_elasticity, step_family_s
from cluster_sim.serving.admission import admission
from cluster_sim.serving.candidate import steady_of
from cluster_sim.serving.generators import planned
from cluster_sim.serving.service import Run
from cluster_sim.specs.inputs import WorkloadInput

COVERED, REACH = 0.8, 1.2816  # of a normal distribution within so many sigma
Z95 = 1.96  # sigmas in half of a 95 % interval
MOST_GROWTH = 0.9  # d ln TPOT / d ln batch beyond which open traffic has no steady state
Weights = dict[str, float]  # elasticity of a headline by operator family


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one residual does to a headline: ``effect`` is the change of its logarithm at one sigma,
    ``share`` that per sigma.
    """

    residual: Residual
    families: tuple[str, ...]
    share: float
    effect: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Band:
    """A headline, the residuals that move it (largest first), and where eight in ten lie."""

    base: float
    contributions: tuple[Contribution, ...]

    @property
    def sigma(self) -> float:
        """Of the logarithm."""
        return total_sigma(part.effect for part in self.contributions)

    @property
    def low(self) -> float:
        """Its tenth percentile."""
        return self.base * math.exp(-REACH * self.sigma)

    @property
    def high(self) -> float:
        """Its ninetieth percentile."""
        return self.base * math.exp(REACH * self.sigma)


def total_sigma(effects: Iterable[float]) -> float:
    """Sigma of a sum of independent effects."""
    return math.sqrt(math.fsum(effect * effect for effect in effects))


def contributions(
    weights: Mapping[str, float],
    residuals: Mapping[str, Sequence[Residual]],
    whole: Sequence[tuple[Residual, float]],
) -> tuple[Contribution, ...]:
    """Contributions by residual, largest first; ``whole`` are residuals with their own share."""
    shares: dict[str, float] = {}
    owners: dict[str, tuple[Residual, tuple[str, ...]]] = {}
    for family, weight in weights.items():
        for residual in residuals.get(family, ()):
            _, names = owners.get(residual.key, (residual, ()))
            owners[residual.key] = (residual, (*names, family) if weight else names)
            shares[residual.key] = shares.get(residual.key, 0.0) + weight
    for residual, weight in whole:
        owners[residual.key] = (residual, ())
        shares[residual.key] = shares.get(residual.key, 0.0) + weight
    parts = [
        Contribution(
            residual=residual,
            families=families,
            share=shares[key],
            effect=shares[key] * residual.sigma,
        )
        for key, (residual, families) in owners.items()
        if shares[key] * residual.sigma
    ]
    return tuple(sorted(parts, key=lambda part: (-abs(part.effect), part.residual.key)))


def bands(facts: Facts, ledger: Ledger, row: Mapping[str, Any]) -> dict[str, Band]:
    """The band of each headline that a run has."""
    machine, job, choice = facts.machine, facts.job, facts.choice
    parts = (machine, job.model, job.software)
    residuals = step_residuals(*parts, choice.layout, choice.recipe)
    setup = f"{choice.name} {job.workload.name}"
    whole = whole_residuals(*parts, choice.recipe.name, setup)
    power = power_residual(machine)
    found: dict[str, Band] = {}
    for name, weights in _elasticities(facts, ledger, row).items():
        if row[name] is None:
            continue
        step = math.fsum(weights.values())
        beside = [(residual, step) for residual in whole]
        beside += [(residual, 1.0) for residual in _chance(facts, row, name)]
        if name == "ttft_mean_ms":
            beside.append((front_end_residual(job.software), 1.0))
        if name == "j_per_output_token" and power is not None:
            beside.append((power, 1.0))
        made = contributions(weights, residuals, beside)
        found[name] = Band(base=row[name], contributions=made)
    return found


def _chance(facts: Facts, row: Mapping[str, Any], headline: str) -> list[Residual]:
    """What the draw of the requests leaves to chance: the sampling error of a headline.

    Model: half of a 95 % interval over 1.96 is one sigma. It is a run's own: another run of other
    requests has another one.
    """
    error = row[f"{headline}_error"]
    if not error:
        return []
    return [
        Residual(
            key=f"sampling {headline} {facts.origin.config_hash}",
            sigma=error / Z95,
            provenance="measured",
            source="batch means of the run",
            words="the draw of the requests",
        )
    ]


def _elasticities(facts: Facts, ledger: Ledger, row: Mapping[str, Any]) -> dict[str, Weights]:
    """Elasticity of each headline to the step time, shared out over the families.

    Model: saturation -1; a closed loop and a backlog have one batch whatever the steps take, so
    throughput -1, TPOT and cost +1; open traffic at its rate: TPOT 1 / (1 - e), since the batch is
    rate x OSL x TPOT(batch) and TPOT ~ batch^e; capacity as in perf.steady where a limit of TPOT or
    E2E breaks first, else -1. Cost and energy of traffic at a share of the capacity (of the
    saturation) go with that; at a given rate cost is fixed, and energy has the chips' share of the
    power that work adds.
    """
    arrivals, steady = facts.job.workload.arrivals, _steady(facts)
    run = _shares(ledger)
    found: dict[str, Weights] = {}
    reference: Weights = {}
    if facts.saturation is not None:
        reference = _times(_shares(_ledger_of(facts, facts.saturation.run)), -1.0)
        found["saturation_output_tokens_per_s_per_chip"] = reference
    if facts.capacity is not None:
        at = facts.capacity.run
        shares = run if at is None else _shares(_ledger_of(facts, at))
        capacity = _times(shares, _capacity_elasticity(facts, steady))
        found["capacity_output_tokens_per_s_per_chip"] = capacity
        reference = capacity if row["capacity_requests_per_s"] else reference
    full = arrivals.kind in ("closed", "offline") or row["stable"] is False
    if full:
        found["output_tokens_per_s"] = _times(run, -1.0)
    found["tpot_mean_ms"] = _times(run, 1.0 if full else _open_tpot(facts, steady, row))
    found["ttft_mean_ms"] = _prompt_shares(facts, steady)
    if full:
        cost = energy = run
    elif reference and arrivals.load is not None:
        cost = energy = _times(reference, -1.0)
    else:
        cost, energy = _times(run, 0.0), _times(run, _power_elasticity(facts, row))
    found["usd_per_m_output_tokens"], found["j_per_output_token"] = cost, energy
    return {name: found[name] for name in HEADLINES if name in found}


def _planned(facts: Facts) -> WorkloadInput:
    size = facts.job.software.memory.block_tokens
    trace = facts.requests if facts.job.workload.arrivals.replays else None
    return planned(facts.job, trace, block_tokens=size)


def _steady(facts: Facts) -> Steady:
    job, choice = _planned(facts), facts.choice
    seats = admission(job, facts.cache)
    return steady_of(job, facts.price, choice.layout, choice.replicas, seats)


def _capacity_elasticity(facts: Facts, steady: Steady) -> float:
    """That of the rate within the SLO, from the batch of the closed form."""
    assert facts.capacity is not None
    if facts.capacity.first_limit not in ("tpot", "e2e"):
        return -1.0
    choice, slo = facts.choice, facts.job.workload.slo
    batch = next((c.batch for c in choice.candidates if c.layout == choice.layout), 0)
    batch = max(1, batch // choice.layout.ranks)
    most = admission(_planned(facts), facts.cache).batch
    return capacity_elasticity(steady, batch, max(batch, most), slo.attainment)


def _open_tpot(facts: Facts, steady: Steady, row: Mapping[str, Any]) -> float:
    tokens_per_s, tpot_ms = row["output_tokens_per_s"], row["tpot_mean_ms"]
    if not tokens_per_s or not tpot_ms:
        return 1.0
    ranks = facts.choice.layout.ranks * facts.choice.replicas
    batch = max(1.0, tokens_per_s * tpot_ms * 1e-3 / ranks)
    return 1 / (1 - min(max(0.0, steady.growth(batch)), MOST_GROWTH))


def _power_elasticity(facts: Facts, row: Mapping[str, Any]) -> float:
    """Share of the power at the wall that chips draw because they work."""
    machine, idle_w = facts.machine, facts.machine.chip.idle_power
    if row["power_w"] is None or idle_w is None or machine.topology.host_power is None:
        return 0.0
    wall_w = row["power_w"] / facts.economics.pue
    return float(1 - (machine.topology.chips * idle_w + machine.topology.host_power) / wall_w)


def _prompt_shares(facts: Facts, steady: Steady) -> Weights:
    """Shares of the families in the step of a mean prompt alone."""
    price, budget = facts.price, facts.job.software.max_num_batched_tokens
    prompt = max(1, min(round(steady.isl), budget))
    seconds = {
        family.name: step_family_s(price, family, steady.ranks, 0, 0, prompt)
        for family in price.families
    }
    total = math.fsum(seconds.values())
    return {name: value / total for name, value in seconds.items()} if total else seconds


def _ledger_of(facts: Facts, run: Run) -> Ledger:
    return close_ledger(facts.price, run)


def _shares(ledger: Ledger) -> Weights:
    """Shares of the families in the priced time."""
    total = math.fsum(ledger.families_s.values())
    return {n: s / total if total else 0.0 for n, s in ledger.families_s.items()}


def _times(weights: Weights, factor: float) -> Weights:
    return {name: weight * factor for name, weight in weights.items()}


def in_manifest(found: Mapping[str, Band]) -> dict[str, Any]:
    """The bands as manifest.json holds them: residuals once, with their sources, and per headline
    what each contributes.
    """
    residuals = {
        part.residual.key: part.residual for band in found.values() for part in band.contributions
    }
    return {
        "covered": COVERED,
        "residuals": [
            {
                "key": key,
                "sigma": residuals[key].sigma,
                "provenance": residuals[key].provenance,
                "source": residuals[key].source,
            }
            for key in sorted(residuals)
        ],
        "headlines": {
            name: {
                "base": band.base,
                "low": band.low,
                "high": band.high,
                "sigma": band.sigma,
                "contributions": [
                    {
                        "key": part.residual.key,
                        "words": part.residual.words,
                        "families": list(part.families),
                        "share": part.share,
                        "sigma": part.residual.sigma,
                        "effect": part.effect,
                        "provenance": part.residual.provenance,
                    }
                    for part in band.contributions
                ],
            }
            for name, band in found.items()
        },
    }
