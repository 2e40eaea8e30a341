"""A run again and again with other constants: the band of its headlines by experiment."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Mapping
from dataclasses import replace
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from cluster_sim.capacity import Effort, find_capacity, find_saturation, sample_of
from cluster_sim.errors import SpecError
from cluster_sim.facts import Facts
from cluster_sim.perf.residuals import (
    Residual,
    front_end_residual,
    power_residual,
    step_residuals,
    whole_residuals,
)
from cluster_sim.perf.step_price import scaled_price
from cluster_sim.prepare import make_service, most_requests, seats_of
from cluster_sim.result import Result
from cluster_sim.serving.generators import planned
from cluster_sim.serving.service import Service, serve
from cluster_sim.summary import summarise_run

REPLICATIONS = 16
ROUGH = 0.06  # half-width of a capacity in a replication: the spread over 16 is what counts
LATENCIES = ("tpot_mean_ms", "ttft_mean_ms")
FULL = ("output_tokens_per_s", "usd_per_m_output_tokens", "j_per_output_token")  # no given rate
LIMITS = ("saturation_output_tokens_per_s_per_chip", "capacity_output_tokens_per_s_per_chip")
What = Literal["run", "capacity"]


def band_study(
    result: Result, what: What, *, progress: Callable[[str, float], None] | None = None
) -> dict[str, Any]:
    """Low and high of the headlines of a run over replications with drawn residuals.

    Model: each residual takes the middles of 16 equal shares of its normal distribution, in an
    order drawn by its key and the seed of the run; so two runs that share a residual have it alike.
    The requests stay the same, and come at the same rate: cost and energy at a share of another
    capacity are not seen. Low and high are the tenth and ninetieth percentile. ``what``: the run
    alone, or the searches for saturation and capacity too.
    Raises SpecError for a run without facts, with others on its machine, and without searches when
    those are wanted.
    """
    facts = result.facts
    if facts is None:
        raise SpecError("a band needs the facts of a run: simulate(..., keep=True)")
    if facts.others:
        raise SpecError("the band of a run beside others is not simulated")
    if what == "capacity" and facts.saturation is None:
        raise SpecError(
            "--band capacity needs traffic at a share of the capacity; leave out --rate"
        )
    seen: dict[str, list[float]] = {}
    residuals = _residuals(facts)
    draws = {
        r.key: draw(r.key, facts.job.workload.seed) for all_ in residuals.values() for r in all_
    }
    for turn in range(REPLICATIONS):
        factors = {
            name: math.exp(math.fsum(r.sigma * draws[r.key][turn] for r in mine))
            for name, mine in residuals.items()
        }
        for name, value in _again(facts, factors, what).items():
            seen.setdefault(name, []).append(value)
        if progress is not None:
            progress("band", (turn + 1) / REPLICATIONS)
    headlines: Mapping[str, Any] = result.manifest["bands"]["headlines"]
    return {
        "replications": REPLICATIONS,
        "headlines": {
            name: dict(
                zip(("low", "high"), np.quantile(seen[name], [0.1, 0.9]).tolist(), strict=True)
            )
            for name in headlines
            if name in seen
        },
    }


def draw(key: str, seed: int) -> list[float]:
    """Standard normal values of a residual, one a replication."""
    rng = np.random.default_rng([seed, zlib.crc32(key.encode())])
    shares = (rng.permutation(REPLICATIONS) + 0.5) / REPLICATIONS
    return [NormalDist().inv_cdf(share) for share in shares.tolist()]


def _residuals(facts: Facts) -> dict[str, tuple[Residual, ...]]:
    """Those that scale each family, and beside them ``front_end`` and ``power``."""
    choice, job, machine = facts.choice, facts.job, facts.machine
    parts = (machine, job.model, job.software)
    setup = f"{choice.name} {job.workload.name}"
    whole = whole_residuals(*parts, choice.recipe.name, setup)
    by_family = step_residuals(*parts, choice.layout, choice.recipe)
    power = power_residual(machine)
    return {
        **{f.name: (*by_family.get(f.name, ()), *whole) for f in facts.price.families},
        "front_end": (front_end_residual(job.software),),
        "power": () if power is None else (power,),
    }


def _again(facts: Facts, factors: Mapping[str, float], what: What) -> dict[str, float]:
    """The headlines with other constants."""
    price = scaled_price(facts.price, factors)
    trace = facts.requests if facts.job.workload.arrivals.replays else None
    service = make_service(facts.job, facts.choice, price, facts.cache, trace)
    run = serve(service, facts.requests)
    if run.interrupted:
        raise KeyboardInterrupt
    row, _, _ = summarise_run(replace(facts, price=price, run=run, capacity=None, saturation=None))
    wanted = LATENCIES if facts.open_loop else (*LATENCIES, *FULL)
    found = {name: row[name] for name in wanted if row[name] is not None}
    for name, beside in (("ttft_mean_ms", "front_end"), ("j_per_output_token", "power")):
        if name in found:
            found[name] *= factors[beside]
    return found | _limits(facts, service) if what == "capacity" else found


def _limits(facts: Facts, service: Service) -> dict[str, float]:
    """Saturation and capacity, per chip, by as many requests as those of the run."""
    assert facts.saturation is not None
    wanted, size = facts.job.workload, facts.job.software.memory.block_tokens
    seats = seats_of(planned(facts.job, None, block_tokens=size), facts.choice, facts.cache)
    sample = sample_of(service, wanted, block_tokens=size, seats=seats)
    effort = Effort(error=ROUGH, most_requests=most_requests(facts.choice))
    flat_out = find_saturation(sample, effort)
    found = {LIMITS[0]: flat_out.output_tokens_per_s / facts.chips_used}
    if facts.capacity is not None and facts.capacity.starts_per_s:
        guess = facts.capacity.starts_per_s
        at = find_capacity(sample, effort, flat_out.starts_per_s, flat_out.error, guess_per_s=guess)
        found[LIMITS[1]] = at.requests_per_s * at.osl_mean / facts.chips_used
    return found
