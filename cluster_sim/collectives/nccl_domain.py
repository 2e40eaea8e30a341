"""NCCL inside one scale-up domain: forms fitted to measured series, physics beyond their ranks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.nccl_beyond import through_switches, timed_ranks
from cluster_sim.collectives.nccl_parts import family, far_of, norm, priced, ratio, speed_of, split
from cluster_sim.collectives.nccl_tuner import Choice, choose
from cluster_sim.collectives.shape import FloatArray, Priced, Shape, bus_factor
from cluster_sim.specs.collective_fits import CollectiveFits, Domain, Large, Nccl, Small

RING_SIMPLE: Choice = ("Ring", "Simple")


def in_domain(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
    free: bool,
) -> Priced:
    """One domain: short messages by LL or LL128, long ones by Simple, from the size on at which
    NCCL was seen to change; never longer than a message of that size. Left free, rings take no less
    than on fewer ranks (NCCL changes at a size that grows with ranks, so that single sizes were
    measured to be up to a third faster on more); switches do, which four ranks do not use yet, and
    whose bytes fall with ranks. A forced choice is priced by the form of its protocol.
    """
    domain = family(cast(Nccl, fits.nccl), operation)
    timed = timed_ranks(domain)
    seen = domain.measured
    if domain.in_switch is not None and shape.in_switch:
        seen += domain.in_switch.measured
    if free and timed is not None and shape.ranks > timed:
        found = _beyond(fits, shape, operation, message, choices, timed)
        return replace(found, far=far_of(seen, shape, message))
    if free:
        seconds, best = _free(domain, fits, shape, operation, message, choices)
    else:
        best = choose(shape, operation, message, choices)
        seconds = np.empty_like(message)
        for choice in dict.fromkeys(best):
            mask = np.array([entry == choice for entry in best])
            seconds[mask] = _forced_s(domain, fits, shape, operation, message[mask], choice)
    return priced(seconds, *split(best), domain.provenance, far_of(seen, shape, message))


def _free(
    domain: Domain,
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
) -> tuple[FloatArray, list[Choice]]:
    """What NCCL takes by itself: seconds and choices."""
    threshold = domain.switch * shape.ranks
    ranks = np.arange(2, shape.ranks + 1)
    ring = _rings_s(domain, speed_of(fits, shape), ranks, operation, message).max(axis=0)
    sizes = np.maximum(message, threshold)
    _, in_switch = _large_s(domain, fits, shape, operation, sizes)
    short = [choice for choice in choices if choice[1] != "Simple"]
    picked = choose(shape, operation, message, short)
    best = [
        choice if size < threshold else ("NVLS" if fast else "Ring", "Simple")
        for choice, size, fast in zip(
            picked, message.tolist(), (in_switch < ring).tolist(), strict=True
        )
    ]
    return np.minimum(ring, in_switch), best


def _rings_s(
    domain: Domain, speed: float, ranks: NDArray[np.int64], operation: str, message: FloatArray
) -> FloatArray:
    """Rings alone, by ranks and message: the form of short messages below the size at which NCCL
    changes, never longer than at that size.
    """
    count = ranks[:, np.newaxis].astype(np.float64)
    factor = np.array([[bus_factor(operation, n)] for n in ranks.tolist()])
    passes = 2 if operation == "all_reduce" else 1
    small, large = domain.small, domain.large

    def simple_s(size: FloatArray) -> FloatArray:
        wire = (factor + passes * large.copy) * size
        latency = large.latency + large.per_peer * (count - 1)
        return norm(latency, wire / (large.bandwidth * speed), large.power)

    short = small.latency + small.per_peer * (count - 1)
    short = short + factor * message / (small.bandwidth * speed)
    threshold = domain.switch * count
    return np.where(message < threshold, np.minimum(short, simple_s(threshold)), simple_s(message))


def _beyond(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
    timed: int,
) -> Priced:
    """One domain on more ranks than were timed: the faster of ring and switches, never less than on
    the most ranks that were timed; see ``nccl_beyond``.
    """
    constants = cast(Nccl, fits.nccl)
    domain = family(constants, operation)
    fewer = replace(shape, ranks=timed)
    least = in_domain(fits, fewer, operation, message, choices, free=True)
    small = _small_s(domain.small, fits, shape, operation, message)
    large, _ = _large_s(domain, fits, shape, operation, message)
    ring = np.minimum(small, large)
    rest = [choice for choice in choices if choice[0] == "Ring" and choice[1] != "Simple"]
    named = [
        choice if short else RING_SIMPLE
        for choice, short in zip(
            choose(shape, operation, message, rest), (small <= large).tolist(), strict=True
        )
    ]
    way = np.full_like(message, math.inf)
    if any(choice[0] == "NVLS" for choice in choices):
        way = through_switches(constants, shape, operation, message, speed_of(fits, shape))
    best = [
        ("NVLS", "Simple") if fast else choice
        for choice, fast in zip(named, (way < ring).tolist(), strict=True)
    ]
    seconds = np.maximum(np.minimum(ring, way), least.seconds)
    return priced(seconds, *split(best), domain.provenance)


def _forced_s(
    domain: Domain,
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choice: Choice,
) -> FloatArray:
    """A forced algorithm and protocol: the measured form of the protocol, times what the tuner says
    of the choice against the one that the form was measured with.
    """
    algorithm, protocol = choice
    large, in_switch = _large_s(domain, fits, shape, operation, message)
    if choice == RING_SIMPLE:
        return large
    if algorithm == "NVLS" and np.isfinite(in_switch).all():
        return in_switch
    if protocol == "Simple":
        return large * ratio(shape, operation, message, choice, [RING_SIMPLE])
    small = _small_s(domain.small, fits, shape, operation, message)
    short = [("Ring", "LL"), ("Ring", "LL128")]
    if operation == "all_reduce":
        short += [("Tree", "LL"), ("Tree", "LL128")]
    return small * ratio(shape, operation, message, choice, short)


def _small_s(
    small: Small, fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> FloatArray:
    wire = bus_factor(operation, shape.ranks) * message
    latency = small.latency + small.per_peer * (shape.ranks - 1)
    return latency + wire / (small.bandwidth * speed_of(fits, shape))


def _large_s(
    domain: Domain, fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Seconds of the ring, and of the switches where they reduce (else infinite)."""
    large, n = domain.large, shape.ranks
    factor = bus_factor(operation, n)
    passes = 2 if operation == "all_reduce" else 1
    wire = (factor + passes * large.copy) * message
    ring = _large(large, wire, fits, shape)
    if domain.in_switch is None:
        return ring, np.full_like(message, math.inf)
    constants = cast(Nccl, fits.nccl)
    return ring, through_switches(constants, shape, operation, message, speed_of(fits, shape))


def _large(large: Large, wire: FloatArray, fits: CollectiveFits, shape: Shape) -> FloatArray:
    latency = large.latency + large.per_peer * (shape.ranks - 1)
    return norm(latency, wire / (large.bandwidth * speed_of(fits, shape)), large.power)
