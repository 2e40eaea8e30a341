"""A collective over message sizes: time alone, bandwidths, and beside other traffic."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from simpy.core import Environment

from cluster_sim.collectives.activity import Call, alone, bound_s, collective_activity
from cluster_sim.collectives.group import Group
from cluster_sim.collectives.shape import EXPERT_OPERATIONS, Priced, bus_factor
from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.fluid_fold import activities_of, fold
from cluster_sim.engine.fluid_solver import problem_of
from cluster_sim.perf.background import stretched
from cluster_sim.perf.residuals import collective_sigma
from cluster_sim.work import Activity, Phase

# How much longer than the collective the traffic beside it goes on. It repeats without a pause, so
# any number that is large enough gives the same.
OUTLAST = 1e3
REACH = 1.2816  # sigmas of a normal within which four of five lie


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One size: time alone, bandwidths, what was chosen, the least time that the links allow, time
    beside other traffic (equal without any), and between which times alone four of five measured
    ones should lie.
    """

    size_bytes: int
    time_us: float
    algbw_gb_per_s: float
    busbw_gb_per_s: float
    algorithm: str
    protocol: str
    bound_us: float
    shared_us: float
    slowdown: float
    provenance: str
    low_us: float
    high_us: float


def sweep_sizes(
    group: Group, call: Call, sizes: Sequence[int], beside: Sequence[Activity] = ()
) -> list[Row]:
    """One row for each size, as nccl-tests prints them."""
    call = call.resolved(group)
    message = np.array([float(size) for size in sizes])
    priced = alone(group, call, message)
    factor = bus_factor(call.operation, group.shape.ranks)
    rows = []
    for place, size in enumerate(sizes):
        seconds = float(priced.seconds[place])
        algorithm = priced.algorithm[place]
        shared = seconds
        if beside and seconds > 0:
            shared = shared_s(group, collective_activity(group, call, size), beside)
        rate = size / shared / 1e9 if shared > 0 else 0.0
        within = band_factor(priced, place, call.operation)
        rows.append(
            Row(
                size_bytes=size,
                time_us=seconds * 1e6,
                algbw_gb_per_s=rate,
                busbw_gb_per_s=rate * factor,
                algorithm=algorithm,
                protocol=priced.protocol[place],
                bound_us=bound_s(group, call, algorithm) * size * 1e6,
                shared_us=shared * 1e6,
                slowdown=shared / seconds if seconds > 0 else 1.0,
                provenance=priced.word(place),
                low_us=seconds * 1e6 / within,
                high_us=seconds * 1e6 * within,
            )
        )
    return rows


def band_factor(priced: Priced, place: int, operation: str) -> float:
    """The factor up or down within which four of five measured times should lie."""
    section = "all_to_all" if operation in EXPERT_OPERATIONS else "all_reduce"
    sigma = collective_sigma(priced.provenance, priced.reach(place), section)
    return math.exp(REACH * sigma) if priced.seconds[place] > 0 else 1.0


def shared_s(group: Group, phases: Sequence[Phase], beside: Sequence[Activity]) -> float:
    """Seconds of a collective's phases while other traffic goes on all the time.

    Model: traffic that repeats without a pause is one long activity (time alone and bytes times the
    same number), which leaves its rate as it is. Symmetric links and flows are folded.
    """
    total = sum(phase.activity.alone_s for phase in phases)
    longer = [stretched(other, OUTLAST * total) for other in beside]
    seconds = 0.0
    capacity = group.machine.link_bandwidth
    for phase in phases:
        folded = fold(problem_of([phase.activity, *longer], capacity), [1] + [0] * len(longer))
        environment = Environment()
        engine = FluidEngine(environment, folded.problem.capacity.tolist())
        running = [engine.start(activity) for activity in activities_of(folded.problem)]
        environment.run(until=running[int(folded.activity_class[0])])
        seconds += environment.now
    return seconds
