"""All-reduce inside one scale-up domain: time alone of the algorithms that libraries have."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.reach import reach_sigma, word_of
from cluster_sim.collectives.shape import unique_destinations
from cluster_sim.errors import SpecError
from cluster_sim.machine.host import group_bandwidth, peer_bandwidth
from cluster_sim.specs.chip import CollectiveCurve, weakest
from cluster_sim.specs.inputs import TopologyInput

FloatArray = NDArray[np.float64]
# Hand-off between pipeline stages: p2p_latency of ai-dynamo/aiconfigurator's system files; share of
# the link as a copy between two GPUs measures it, 396 of 450 GB/s (stas00/ml-engineering).
HANDOFF_S, HANDOFF_SHARE = 10e-6, 0.88


def link_bytes(algorithm: str, message: FloatArray, ranks: int) -> FloatArray:
    """Bytes that cross the busiest direction of one rank's links when ``message`` bytes are summed
    over all ranks.

    Model: one-shot, every rank reads all others: S (n - 1). Ring (and two-shot): 2 S (n - 1) / n.
    In-switch reduction: the shard goes up once and comes down once, S (1 + 1 / n). In a mesh these
    spread evenly over the links to the n - 1 others: S, and 2 S / n, on each.
    """
    if algorithm == "one_shot":
        return message * (ranks - 1)
    if algorithm == "ring":
        return message * (2 * (ranks - 1) / ranks)
    return message * (1 + 1 / ranks)


def usable_algorithms(
    machine: TopologyInput, algorithms: tuple[str, ...], ranks: int
) -> tuple[str, ...]:
    """Those of a library's algorithms that have a curve and that the fabric can run: in-switch
    reduction needs switches that reduce and more than two ranks; one-shot kernels run on at most
    two ranks where chips meet only in the host (vLLM's custom all-reduce, recalled).
    """
    links = machine.topology.scale_up
    barred = {
        "in_switch": not links.in_switch_reduction or ranks <= 2,
        "one_shot": links.kind == "host" and ranks > 2,
    }
    return tuple(
        algorithm
        for algorithm in machine.fits.all_reduce
        if algorithm in algorithms and not barred.get(algorithm)
    )


def farthest(curves: Iterable[CollectiveCurve], ranks: int) -> float:
    """Sigma that the distance from the timed ranks adds: of the curve that is farthest from its own
    timings. Bytes are left out: engines send what was timed.
    """
    return max((float(reach_sigma(curve.measured, ranks)[0]) for curve in curves), default=0.0)


def group_provenance(curves: Iterable[CollectiveCurve], ranks: int) -> str:
    """The weakest provenance among the curves that a group of ranks may be priced with."""
    words = [
        word_of(curve.provenance, float(reach_sigma(curve.measured, ranks)[0])) for curve in curves
    ]
    return weakest(words)


def all_reduce_provenance(machine: TopologyInput, algorithms: tuple[str, ...], ranks: int) -> str:
    """The weakest provenance among the curves that an all-reduce may be priced with."""
    usable = usable_algorithms(machine, algorithms, ranks)
    curves = [machine.fits.all_reduce[name] for name in usable]  # type: ignore[index]
    return group_provenance(curves, max(2, ranks))  # one rank has no all-reduce


def all_reduce(
    machine: TopologyInput, algorithms: tuple[str, ...], message: FloatArray, ranks: int
) -> tuple[FloatArray, FloatArray]:
    """Seconds of an all-reduce of ``message`` bytes by the fastest of the algorithms that library
    and fabric have, and the bytes that each rank sends in it.

    Model: latency + latency_per_peer (n - 2) + link bytes / (link bandwidth x efficiency).
    Limits: alone on the links; launch skew between ranks is part of the software profile. Raises
    SpecError when library and fabric have no algorithm in common.
    """
    bandwidth = group_bandwidth(machine, ranks)
    best = np.full(message.shape, np.inf)
    moved = np.zeros_like(best)
    usable = usable_algorithms(machine, algorithms, ranks)
    for algorithm in usable:
        curve = machine.fits.all_reduce[algorithm]  # type: ignore[index]
        latency = curve.latency + curve.latency_per_peer * (ranks - 2)
        sent = link_bytes(algorithm, message, ranks)
        seconds = latency + sent / (bandwidth * curve.efficiency)
        moved = np.where(seconds < best, sent, moved)
        best = np.minimum(best, seconds)
    if not usable:
        raise SpecError(
            f"{machine.topology.name}: none of the all-reduce algorithms {', '.join(algorithms)} "
            f"works on {ranks} ranks here; add one_shot or ring to all_reduce of the software"
        )
    return best, moved


def handoff_s(machine: TopologyInput, message: FloatArray) -> FloatArray:
    """Seconds that activations take from one pipeline stage to the next: latency + bytes / the
    links between two chips.
    """
    return HANDOFF_S + message / (peer_bandwidth(machine) * HANDOFF_SHARE)


def exchange_copies(kernel: str, chosen: int, ranks: int) -> float:
    """Copies of a token that leave its device when it goes to ``chosen`` experts spread evenly over
    ``ranks`` devices.

    Model: one for each expert, chosen (n - 1) / n; or one for each other device that holds any of
    them, (n - 1) (1 - (1 - 1 / n)^chosen).
    """
    if kernel == "per_expert":
        return chosen * (ranks - 1) / ranks
    return unique_destinations(chosen, ranks)


def exchange(
    machine: TopologyInput, message: FloatArray, ranks: int, chosen: int | None
) -> tuple[FloatArray, FloatArray]:
    """Seconds of dispatching tokens to their experts, or of combining the results, with the faster
    of the kernels that the chip has curves for; and the bytes that each device sends.

    ``message`` is the size of one copy of all tokens of a device, ``chosen`` how many experts a
    token has; None sends everything to everybody. Model: latency + latency_per_peer (n - 2) + bytes
    sent / (link bandwidth x efficiency). Limits: experts loaded evenly; alone on the links. Raises
    SpecError when the chip has no such curve.
    """
    best = np.full(message.shape, np.inf)
    moved = np.zeros_like(best)
    for kernel, curve in machine.fits.all_to_all.items():
        copies = ranks - 1 if chosen is None else exchange_copies(kernel, chosen, ranks)
        latency = curve.latency + curve.latency_per_peer * (ranks - 2)
        rate = group_bandwidth(machine, ranks) * curve.efficiency
        seconds = latency + copies * message / rate
        moved = np.where(seconds < best, copies * message, moved)
        best = np.minimum(best, seconds)
    if not machine.fits.all_to_all:
        raise SpecError(f"{machine.chip.name}: no fitted all_to_all curve; run with plan.attn_dp=1")
    return best, moved
