"""NCCL's collectives: time alone by size, fitted to measured series; the tuner names the choice.

Inside one domain every chip and family has its own constants; on more ranks than were timed see
``nccl_beyond``. Over several domains an all-reduce goes through the domain, over the NICs and
through the domain again; rings pass every rank.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from cluster_sim.collectives.nccl_beyond import (
    group_latency_s,
    through_switches,
    timed_ranks,
)
from cluster_sim.collectives.nccl_tuner import DIRECT, Choice, allowed, available, choose, tuner_s
from cluster_sim.collectives.reach import reach_sigma
from cluster_sim.collectives.shape import FloatArray, Priced, Shape, bus_factor
from cluster_sim.errors import SpecError
from cluster_sim.specs.chip import weakest
from cluster_sim.specs.collective_fits import (
    CollectiveFits,
    Domain,
    Hierarchy,
    Hosts,
    Large,
    Nccl,
    Small,
)
from cluster_sim.specs.seen import Seen, most_ranks

RING_SIMPLE: Choice = ("Ring", "Simple")
HIERARCHICAL = ("Tree", "NVLS", "NVLSTree", "CollNetDirect", "CollNetChain")


def nccl(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    *,
    algorithm: str | None = None,
    protocol: str | None = None,
    call: str = "nccl",
) -> Priced:
    """Seconds of one call of NCCL for each message size.

    ``call`` names a version or harness that adds a constant to every call. Raises SpecError when
    the chip has no constants or the group no such algorithm.
    """
    if fits.nccl is None:
        raise SpecError(f"{fits.chip}: no constants of NCCL; use library hccl")
    if call not in ("nccl", *fits.nccl.call):
        raise SpecError(f"{fits.chip}: no measured overhead of {call}; use nccl")
    if shape.ranks == 1:
        none = np.zeros_like(message)
        named = ("none",) * len(message)
        return Priced(seconds=none, algorithm=named, protocol=named, provenance="datasheet")
    choices = allowed(shape, operation, algorithm, protocol)
    if operation in ("all_to_all", "send_recv"):
        priced = _point_to_point(fits, shape, operation, message)
    elif shape.domains == 1:
        free = algorithm is None and protocol is None
        priced = _in_domain(fits, shape, operation, message, choices, free)
    else:
        free = algorithm is None and protocol is None
        priced = _over_hosts(fits, shape, operation, message, choices, free)
    return priced if operation == "send_recv" else priced.added(fits.nccl.call.get(call, 0.0))


def _point_to_point(
    fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> Priced:
    """Transfers between pairs: a send with its receive, or one to everybody at once."""
    assert fits.nccl is not None
    n, pair = shape.ranks, replace(shape, ranks=2, domains=min(2, shape.domains))
    named = (DIRECT[0],) * len(message), (DIRECT[1],) * len(message)
    if shape.domains == 1:
        line = fits.nccl.send_recv if operation == "send_recv" else fits.nccl.exchange
        wire = message * bus_factor(operation, n)
        peers = 0 if operation == "send_recv" else n - 1
        seconds = (
            line.latency + line.per_peer * peers + wire / (line.bandwidth * _speed(fits, shape))
        )
        far = _far(line.measured, pair if operation == "send_recv" else shape, message)
        return _priced(seconds, *named, line.provenance, far)
    hosts = _hosts(fits, shape)
    speed = shape.nic_bytes_per_s / hosts.nic
    if operation == "send_recv":
        line = hosts.send_recv
        seconds = line.latency + message / (line.bandwidth * speed)
        return _priced(seconds, *named, line.provenance, _far(line.measured, pair, message))
    inside, direct = fits.nccl.exchange, hosts.exchange
    latency = max(direct.latency, inside.latency + inside.per_peer * (shape.per_domain - 1))
    timed = most_ranks(direct.measured) or n
    latency += inside.per_peer * max(0, n - timed)  # to post each further message
    out = message * (1 - shape.per_domain / n) / (direct.nic_bandwidth * speed)
    own = message * ((shape.per_domain - 1) / n) / (inside.bandwidth * _speed(fits, shape))
    over_nics = latency + out + np.sqrt(out * direct.fill)
    far = _far(direct.measured, shape, message)
    return _priced(np.maximum(over_nics, own), *named, direct.provenance, far)


def _in_domain(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
    free: bool,
) -> Priced:
    """One domain: short messages by LL or LL128, long ones by Simple, from the size on at which
    NCCL was seen to change; never longer than a message of that size. A forced choice is priced by
    the form of its protocol.
    """
    domain = _family(cast(Nccl, fits.nccl), operation)
    timed = timed_ranks(domain)
    seen = domain.measured
    if domain.in_switch is not None and shape.in_switch:
        seen += domain.in_switch.measured
    if free and timed is not None and shape.ranks > timed:
        priced = _beyond(fits, shape, operation, message, choices, timed)
        return replace(priced, far=_far(seen, shape, message))
    threshold = domain.switch * shape.ranks
    if free:
        short = [choice for choice in choices if choice[1] != "Simple"]
        picked = choose(shape, operation, message, short)
        small = _small_s(domain.small, fits, shape, operation, message)
        large, in_switch = _large_s(domain, fits, shape, operation, message)
        at_switch = _large_s(domain, fits, shape, operation, np.array([threshold]))
        small = np.minimum(small, min(float(way[0]) for way in at_switch))
        seconds = np.where(message < threshold, small, np.minimum(large, in_switch))
        best = [
            choice if size < threshold else ("NVLS" if fast else "Ring", "Simple")
            for choice, size, fast in zip(
                picked, message.tolist(), (in_switch < large).tolist(), strict=True
            )
        ]
    else:
        best = choose(shape, operation, message, choices)
        seconds = np.empty_like(message)
        for choice in dict.fromkeys(best):
            mask = np.array([entry == choice for entry in best])
            seconds[mask] = _forced_s(domain, fits, shape, operation, message[mask], choice)
    return _priced(seconds, *_split(best), domain.provenance, _far(seen, shape, message))


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
    domain = _family(constants, operation)
    fewer = replace(shape, ranks=timed)
    least = _in_domain(fits, fewer, operation, message, choices, free=True)
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
        way = through_switches(constants, shape, operation, message, _speed(fits, shape))
    best = [
        ("NVLS", "Simple") if fast else choice
        for choice, fast in zip(named, (way < ring).tolist(), strict=True)
    ]
    seconds = np.maximum(np.minimum(ring, way), least.seconds)
    return _priced(seconds, *_split(best), domain.provenance)


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
        return large * _ratio(shape, operation, message, choice, [RING_SIMPLE])
    small = _small_s(domain.small, fits, shape, operation, message)
    short = [("Ring", "LL"), ("Ring", "LL128")]
    if operation == "all_reduce":
        short += [("Tree", "LL"), ("Tree", "LL128")]
    return small * _ratio(shape, operation, message, choice, short)


def _over_hosts(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
    free: bool,
) -> Priced:
    """Several domains: through the hierarchy, or by a ring where that is faster; the tuner names
    the algorithm and protocol of each way.

    Left free, two domains and fabrics that reduce use the hierarchy, and rings LL128 or Simple: the
    tuner's latencies of NICs, on which short rings live, are too low for measured networks. No less
    time than in one of the domains alone, whose ranks move nearly as many bytes.
    """
    hosts = _hosts(fits, shape)
    ways: list[tuple[list[Choice], FloatArray, str, FloatArray]] = []
    tall = [choice for choice in choices if choice[0] in HIERARCHICAL]
    flat = [choice for choice in choices if choice[0] not in HIERARCHICAL]
    if free and tall:
        both = shape.domains > 2 and not shape.in_network
        flat = [choice for choice in flat if choice[1] != "LL"] if both else []
    if tall:
        seconds = _hierarchy_s(fits, hosts, shape, message)
        picked = choose(shape, operation, message, tall)
        far = _far(hosts.all_reduce.measured, shape, message)
        ways.append((picked, seconds, hosts.all_reduce.provenance, far))
    if flat:
        best = choose(shape, operation, message, flat)
        seconds = _ring_s(fits, hosts, shape, operation, message)
        for choice in dict.fromkeys(best):
            mask = np.array([entry == choice for entry in best])
            seconds[mask] *= _ratio(shape, operation, message[mask], choice, [RING_SIMPLE])
        ways.append(
            (best, seconds, hosts.ring.provenance, _far(hosts.ring.measured, shape, message))
        )
    winner = np.stack([way[1] for way in ways]).argmin(axis=0).tolist()
    seconds = np.stack([way[1] for way in ways]).min(axis=0)
    best = [ways[way][0][place] for place, way in enumerate(winner)]
    far = np.array([ways[way][3][place] for place, way in enumerate(winner)])
    if free:
        seconds = np.maximum(seconds, _one_domain_s(fits, shape, operation, message))
    return _priced(seconds, *_split(best), weakest(ways[way][2] for way in set(winner)), far)


def _one_domain_s(
    fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> FloatArray:
    """Seconds of the same message in one of several domains."""
    if shape.per_domain == 1:
        return np.zeros_like(message)
    one = replace(shape, ranks=shape.per_domain, domains=1, hosts=1, in_network=False)
    return _in_domain(fits, one, operation, message, available(one, operation), free=True).seconds


def _hierarchy_s(
    fits: CollectiveFits, hosts: Hosts, shape: Shape, message: FloatArray
) -> FloatArray:
    """All-reduce through domains and NICs; see ``Hierarchy``."""
    curve, constants = hosts.all_reduce, cast(Nccl, fits.nccl)
    per_domain, domains = shape.per_domain, shape.domains
    latency = group_latency_s(constants, shape, per_domain)
    latency += 2 * math.log2(domains) * _hop(curve, shape.technology)
    speed = _speed(fits, shape)
    own = 2 * (per_domain - 1) / per_domain * message / (curve.domain_bandwidth * speed)
    share = 1.0 if shape.in_network else 2 * (domains - 1) / domains
    out = share * message / per_domain
    out = out / (curve.nic_bandwidth * shape.nic_bytes_per_s / hosts.nic)
    overlap = curve.overlap if domains > 2 else 0.0
    work = np.maximum(own, out) + overlap * np.minimum(own, out)
    return _norm(latency, work, curve.power)


def _hop(curve: Hierarchy, technology: str) -> float:
    """Latency of a step between hosts, by the name of the network's technology."""
    for name, seconds in curve.hop.items():
        if name in technology.lower():
            return seconds
    return curve.hop["other"]


def _ring_s(
    fits: CollectiveFits, hosts: Hosts, shape: Shape, operation: str, message: FloatArray
) -> FloatArray:
    """A ring through all domains with Simple; see ``HostsRing``."""
    curve = hosts.ring
    n, domains = shape.ranks, shape.domains
    passes = 2 if operation == "all_reduce" else 1
    steps, across = passes * (n - 1), passes * (domains - 1)
    chunk = message / n
    slower = _hop(hosts.all_reduce, shape.technology) / hosts.all_reduce.hop["other"]
    alone = (steps - across) * curve.step + across * curve.hop * slower
    alone *= 1 + curve.spread * math.log2(domains)
    latency = alone * (1 + curve.growth * chunk / (chunk + curve.chunk))
    nics = curve.nic_bandwidth * shape.nic_bytes_per_s / hosts.nic * shape.per_domain
    rate = min(curve.domain_bandwidth * _speed(fits, shape), nics)
    if shape.per_domain == 1:
        rate = nics
    work = bus_factor(operation, n) * message / rate
    base = cast(Nccl, fits.nccl).gather.small.latency
    seconds = base + latency + work + np.sqrt(work * curve.fill) / domains
    return np.asarray(seconds, dtype=np.float64)


def _small_s(
    small: Small, fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> FloatArray:
    wire = bus_factor(operation, shape.ranks) * message
    latency = small.latency + small.per_peer * (shape.ranks - 1)
    return latency + wire / (small.bandwidth * _speed(fits, shape))


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
    return ring, through_switches(constants, shape, operation, message, _speed(fits, shape))


def _large(large: Large, wire: FloatArray, fits: CollectiveFits, shape: Shape) -> FloatArray:
    latency = large.latency + large.per_peer * (shape.ranks - 1)
    return _norm(latency, wire / (large.bandwidth * _speed(fits, shape)), large.power)


def _norm(latency: float, work: FloatArray, power: float) -> FloatArray:
    return np.asarray((latency**power + work**power) ** (1 / power), dtype=np.float64)


def _family(constants: Nccl, operation: str) -> Domain:
    return constants.all_reduce if operation == "all_reduce" else constants.gather


def _hosts(fits: CollectiveFits, shape: Shape) -> Hosts:
    if fits.hosts is None:
        raise SpecError(f"{fits.chip}: no constants of collectives over several domains")
    if shape.nic_bytes_per_s <= 0:
        raise SpecError("the group spans several domains, and nothing joins them; describe a NIC")
    return fits.hosts


def _speed(fits: CollectiveFits, shape: Shape) -> float:
    """How fast the links are against those that the constants were measured on."""
    return shape.link_bytes_per_s / fits.link


def _ratio(
    shape: Shape, operation: str, message: FloatArray, choice: Choice, to: Sequence[Choice]
) -> FloatArray:
    base = np.stack([tuner_s(shape, operation, message, other) for other in to]).min(axis=0)
    return np.asarray(tuner_s(shape, operation, message, choice) / base, dtype=np.float64)


def _split(best: Sequence[Choice]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    return tuple(a for a, _ in best), tuple(p for _, p in best)


def _far(seen: tuple[Seen, ...], shape: Shape, message: FloatArray) -> FloatArray:
    return reach_sigma(seen, shape.ranks, shape.domains, message)


def _priced(
    seconds: FloatArray,
    algorithm: Sequence[str],
    protocol: Sequence[str],
    provenance: str,
    far: FloatArray | None = None,
) -> Priced:
    return Priced(
        seconds=seconds,
        algorithm=tuple(algorithm),
        protocol=tuple(protocol),
        provenance=provenance,
        far=far,
    )
