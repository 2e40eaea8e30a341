"""How busy each named resource of the machine was, from the counted steps of a run.

Model: family by family, seconds and amounts of all counted steps; of several batches their mean.
What happened beside others comes from the engine's counters instead, and those steps are left out
of the counts.

Limits: where others were on a resource without slowing anybody, the seconds of both add up.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from cluster_sim.engine.cluster import Use
from cluster_sim.facts import Facts
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.ledger import family_seconds, shared_seconds
from cluster_sim.machine.build import build_machine
from cluster_sim.perf.family import Family
from cluster_sim.perf.replica_phases import ReplicaPhases, Resources, kind_of, replica_phases
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.records import StepCounts
from cluster_sim.serving.service import Run
from cluster_sim.serving.site import Visits


def resource_use(facts: Facts) -> dict[str, Use]:
    """Every resource of the machine by name, those that nobody used too."""
    machine = build_machine(facts.machine)
    resources = Resources(machine=machine, hbm_bytes_per_s=hbm_bytes_per_s(facts.machine))
    names, choice = list(resources.capacity()), facts.choice
    swaps = facts.job.software.preemption == "swap"
    homes = replica_phases(resources, facts.price, choice.layout, choice.replicas, swaps=swaps)
    busy_s, carried = use_of(homes, facts.price, facts.run, len(names))
    return {name: Use(busy_s[i], carried[i]) for i, name in enumerate(names)}


def use_of(
    homes: list[ReplicaPhases], price: StepPrice, run: Run, count: int
) -> tuple[list[float], list[float]]:
    """Busy seconds and amounts by number of the resource, of which there are ``count``."""
    visits, ranks = run.visits, len(run.counts) // len(homes)
    busy_s = [0.0] * count if visits is None else list(visits.busy_s)
    carried = [0.0] * count if visits is None else list(visits.carried)
    for replica, home in enumerate(homes):
        mine = slice(replica * ranks, (replica + 1) * ranks)
        seconds, amounts = _totals(price, run.counts[mine], run.shared[replica])
        if visits is not None:
            less, fewer = _totals(price, visits.played[mine], visits.shared[replica])
            seconds = {kind: value - less[kind] for kind, value in seconds.items()}
            amounts = {kind: value - fewer[kind] for kind, value in amounts.items()}
        for kind, alone_s in seconds.items():
            for r, amount in home.demand(kind, alone_s, amounts.get(kind, 0.0)).items():
                busy_s[r] += alone_s
                carried[r] += amount
    return busy_s, carried


def _totals(
    price: StepPrice, ranks: tuple[StepCounts, ...], shared: Counter[int]
) -> tuple[dict[str, float], dict[str, float]]:
    """Seconds and amounts of a replica by kind of phase, the mean over its batches."""

    def total(family: Family) -> float:
        own = sum(family_seconds(family, counts) for counts in ranks) / len(ranks)
        return own + shared_seconds(family, shared)

    seconds: dict[str, float] = {}
    amounts: dict[str, float] = {}
    for family in price.families:
        kind, use = kind_of(family)
        seconds[kind] = seconds.get(kind, 0.0) + total(family)
        if use is not None:
            amounts[kind] = amounts.get(kind, 0.0) + total(use)
    return seconds, amounts


def machine_rows(facts: Facts, visits: Visits) -> dict[str, Any]:
    """What the manifest says about a machine that others used too: who, what each replica lost
    (s), and the use of the resources on which anybody met.
    """
    met = [name for name, busy_s in zip(visits.names, visits.busy_s, strict=True) if busy_s > 0]
    used = resource_use(facts)
    return {
        "others": list(facts.others),
        "lost_s": list(visits.lost_s),
        "resources": {
            name: {
                "busy_s": min(used[name].busy_s, facts.run.end_s),
                "carried": used[name].carried,
            }
            for name in met
        },
    }
