"""All-reduce inside one scale-up domain: time alone of the algorithms that libraries have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from cluster_sim.machine.host import scale_up_bandwidth
from cluster_sim.specs.inputs import TopologyInput

FloatArray = NDArray[np.float64]


def link_bytes(algorithm: str, message: FloatArray, ranks: int) -> FloatArray:
    """Bytes that cross the busiest direction of one rank's links when ``message`` bytes are summed
    over all ranks.

    Model: one-shot, every rank reads all others: S (n - 1). Ring (and two-shot): 2 S (n - 1) / n.
    In-switch reduction: the shard goes up once and comes down once, S (1 + 1 / n).
    """
    if algorithm == "one_shot":
        return message * (ranks - 1)
    if algorithm == "ring":
        return message * (2 * (ranks - 1) / ranks)
    return message * (1 + 1 / ranks)


def all_reduce_s(
    machine: TopologyInput, algorithms: tuple[str, ...], message: FloatArray, ranks: int
) -> FloatArray:
    """Seconds of an all-reduce of ``message`` bytes: the fastest of the algorithms that library and
    fabric have.

    Model: latency + latency_per_peer (n - 2) + link bytes / (link bandwidth x efficiency).
    Limits: alone on the links; launch skew between ranks is part of the software profile.
    """
    bandwidth = scale_up_bandwidth(machine.topology)
    best: FloatArray | None = None
    for algorithm, curve in machine.fits.all_reduce.items():
        usable = algorithm in algorithms
        if algorithm == "in_switch":
            usable = usable and machine.topology.scale_up.in_switch_reduction and ranks > 2
        if not usable:
            continue
        latency = curve.latency + curve.latency_per_peer * (ranks - 2)
        seconds = latency + link_bytes(algorithm, message, ranks) / (bandwidth * curve.efficiency)
        best = seconds if best is None else np.minimum(best, seconds)
    assert best is not None, "a profile lists at least one algorithm that needs no switch"
    return best
