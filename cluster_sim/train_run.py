"""The whole run that a training step is part of: phases priced one by one, failures, the band."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import Any

from cluster_sim.economics import machine_usd_per_hour
from cluster_sim.errors import SpecError
from cluster_sim.kernels.counts import parameters
from cluster_sim.result import Result
from cluster_sim.specs.campaign import Campaign, LearningPhase
from cluster_sim.train import TrainingFacts, at_batch, power_w, train
from cluster_sim.training.campaign import CampaignResult, Site, simulate_campaign
from cluster_sim.training.campaign_schedule import StepFacts
from cluster_sim.units import Quantity

ENERGY = "energy_kwh"  # of the band, empty where the chip has no power curve
EXPOSED = ("tp", "cp", "ep", "pp", "dp")


def whole_run(
    facts: TrainingFacts, until: str, *, progress: Callable[[str, float], None] | None = None
) -> CampaignResult:
    """Play the run of a workload to so many tokens, such as ``15.6T``.

    Every learning phase has a step of its own, priced as the first; the doubt in that one is the
    doubt in all. Raises SpecError for a number of tokens that is none, DoesNotFitError for a phase
    that does not fit.
    """
    workload, topology = facts.given.workload, facts.machine.topology
    campaign = _campaign(workload.run, until)
    batch = LearningPhase(global_batch=workload.global_batch, seq_len=workload.seq_len)

    @cache
    def price(global_batch: int, seq_len: int) -> StepFacts:
        same = (global_batch, seq_len) == (workload.global_batch, workload.seq_len)
        other = (
            facts
            if same
            else train(
                facts.machine,
                at_batch(facts.given, global_batch, seq_len),
                economics=facts.economics,
            )[1]
        )
        return _step_facts(other)

    per_host = topology.chips_per_host or topology.chips
    site = Site(
        chip=facts.machine.chip.name,
        hosts=topology.hosts,
        chips_per_host=per_host,
        domain_hosts=max(1, topology.domain // per_host),
        replicas=facts.job.dp,
        parameters=float(parameters(facts.job.case.model)),
        idle_w_per_host=_idle_w(facts, per_host),
        usd_per_chip_hour=machine_usd_per_hour(facts.machine, facts.economics, power_w(facts)),
    )
    run = simulate_campaign(
        campaign,
        site,
        price,
        batch,
        seed=workload.seed,
        step_sigma=facts.trust.sigma,
        progress=progress,
    )
    if power_w(facts) is None:
        return replace(run, band={name: run.band[name] for name in run.band if name != ENERGY})
    return run


def _campaign(given: Campaign | None, until: str) -> Campaign:
    try:
        tokens = Quantity("tokens").parse(until)
        if given is None:
            return Campaign(tokens=tokens)
        return replace(given, tokens=tokens)
    except ValueError as error:
        raise SpecError(f"--until: {error} (got {until})") from None


def _step_facts(facts: TrainingFacts) -> StepFacts:
    step, watts = facts.step, power_w(facts)
    seconds = step.seconds
    return StepFacts(
        step_s=seconds,
        energy_j=0.0 if watts is None else watts * seconds,
        exposed_communication=sum(step.owners[name] for name in EXPOSED) / seconds,
        bubble=max(0.0, step.owners["bubble"]) / seconds,
        recompute=step.owners["recompute"] / seconds,
    )


def _idle_w(facts: TrainingFacts, per_host: int) -> float:
    """Watts at the wall of a host that waits."""
    chip_w, topology = facts.machine.chip.idle_power, facts.machine.topology
    if chip_w is None or topology.host_power is None:
        return 0.0
    own = per_host * chip_w + topology.host_power / topology.hosts
    return own * facts.economics.pue


def with_run(result: Result, run: CampaignResult) -> Result:
    """The result with the run in its manifest, and its events beside the stages."""
    tokens = run.first.tokens
    found: dict[str, Any] = {
        "tokens": tokens,
        "replications": run.replications,
        "band": {name: list(values) for name, values in run.band.items()},
        "step_sigma": run.step_sigma,
        "failures": dict(run.failures),
        "ledger": dict(run.ledger),
        "expected": dict(run.expected),
        "hosts_paid": run.hosts_paid,
        "spares": run.spares,
        "events": [dataclasses.asdict(event) for event in run.first.events],
        "more_events": run.first.more_events,
    }
    notes = [*result.manifest["notes"], *run.notes]
    manifest = {**result.manifest, "run": found, "notes": notes}
    summary = {**result.summary, "partial": run.partial}
    return replace(result, manifest=manifest, summary=summary, partial=run.partial)
