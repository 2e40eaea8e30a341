"""One scale-up domain with more ranks than were timed: physics instead of the fitted growth.

Model: a ring takes steps in proportion to its ranks, so short messages go through the switches
where these reduce and multicast: a rank sends what it has once, all arrive at once, and the barrier
grows by a doubling's worth. The faster of the two is used, and never less time than on the most
ranks that were timed. Both rise with ranks and with bytes, so their minimum does. Limits: the size
at which NCCL changes is not known there; it is taken to choose well.
"""

from __future__ import annotations

import math

import numpy as np

from cluster_sim.collectives.shape import FloatArray, Shape
from cluster_sim.specs.collective_fits import Domain, Large, Nccl
from cluster_sim.specs.seen import most_ranks

# What the barrier of a collective through switches takes longer on twice the ranks, in and out.
# Source: per_doubling of TensorRT-LLM's one-sided dispatch and combine, 1.26 and 1.43 us, measured
# on 2 to 64 GB200 (ai-dynamo/aiconfigurator @095f58a); that NCCL's grow alike: assumed.
SWITCH_DOUBLING_S = 2.69e-6


def timed_ranks(domain: Domain) -> int | None:
    """The most ranks of one domain that short messages and rings were timed on."""
    return most_ranks(domain.measured)


def switched(constants: Nccl, shape: Shape, operation: str) -> Large | None:
    """The form through the switches; None where they do not reduce or nothing was timed.

    Gathers have the latency of the all-reduce through the switches, the bytes of their own ring.
    """
    way = constants.all_reduce.in_switch
    if way is None or not shape.in_switch or shape.ranks <= 4:
        return None
    if operation == "all_reduce":
        return way
    return constants.gather.large if operation in ("all_gather", "reduce_scatter") else None


def switch_latency_s(constants: Nccl, ranks: int) -> float:
    """Latency through the switches: as fitted up to the ranks timed, then per doubling."""
    way = constants.all_reduce.in_switch
    assert way is not None
    most = most_ranks(way.measured or constants.all_reduce.measured) or ranks
    known = way.latency + way.per_peer * (min(ranks, most) - 1)
    return known + SWITCH_DOUBLING_S * math.log2(max(1.0, ranks / most))


def switched_bytes(constants: Nccl, ranks: int) -> float:
    """Bytes over a rank's links for one of message: 1 + 1/n, as on the nearest ranks timed, so that
    a group nobody timed gains nothing by its size.
    """
    way = constants.all_reduce.in_switch
    assert way is not None
    seen = way.measured or constants.all_reduce.measured
    if seen:
        least = max(5, min(one.ranks[0] for one in seen))  # fewer do not use the switches
        ranks = min(max(ranks, least), max(one.ranks[1] for one in seen))
    return 1 + 1 / ranks


def group_latency_s(constants: Nccl, shape: Shape, ranks: int) -> float:
    """Latency of the part of an all-reduce inside a domain of ``ranks``."""
    small = constants.all_reduce.small
    ring = small.latency + small.per_peer * (ranks - 1)
    timed = timed_ranks(constants.all_reduce)
    way = constants.all_reduce.in_switch
    if timed is None or ranks <= timed or way is None or not shape.in_switch:
        return ring
    known = small.latency + small.per_peer * (timed - 1)
    return max(known, min(ring, switch_latency_s(constants, ranks)))


def through_switches(
    constants: Nccl, shape: Shape, operation: str, message: FloatArray, speed: float
) -> FloatArray:
    """Seconds through the switches; infinite where there is no such way."""
    way = switched(constants, shape, operation)
    if way is None:
        return np.full_like(message, math.inf)
    n = shape.ranks
    share = switched_bytes(constants, n)
    if operation != "all_reduce":
        share = (n - 1) / n + way.copy
    work = share * message / (way.bandwidth * speed)
    latency = switch_latency_s(constants, n)
    found = (latency**way.power + work**way.power) ** (1 / way.power)
    return np.asarray(found, dtype=np.float64)
