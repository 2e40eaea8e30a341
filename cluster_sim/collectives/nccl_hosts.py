"""NCCL over several scale-up domains: through the hierarchy, or by a ring past every rank."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import numpy as np

from cluster_sim.collectives.nccl_beyond import group_latency_s
from cluster_sim.collectives.nccl_domain import RING_SIMPLE, in_domain
from cluster_sim.collectives.nccl_parts import far_of, hosts_of, norm, priced, speed_of, split
from cluster_sim.collectives.nccl_tuner import Choice, against, available, choose
from cluster_sim.collectives.shape import FloatArray, Priced, Shape, bus_factor, hop_s
from cluster_sim.specs.chip import weakest
from cluster_sim.specs.collective_fits import CollectiveFits, Hierarchy, Hosts, Nccl

HIERARCHICAL = ("Tree", "NVLS", "NVLSTree", "CollNetDirect", "CollNetChain")


def over_hosts(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choices: Sequence[Choice],
    free: bool,
) -> Priced:
    """Several domains: through the hierarchy, or by a ring where that is faster; the tuner names
    the algorithm and protocol of each way.

    Left free, short messages take no rings of LL: the tuner's latencies of NICs, on which those
    live, are too low for measured networks, with two domains those of LL128 too; fabrics that
    reduce take none. No less time than on two of the domains, and than in one, whose ranks move
    nearly as many bytes.
    """
    hosts = hosts_of(fits, shape)
    tall = [choice for choice in choices if choice[0] in HIERARCHICAL]
    flat = [choice for choice in choices if choice[0] not in HIERARCHICAL]
    if free and tall:
        slow = ("LL",) if shape.domains > 2 else ("LL", "LL128")
        flat = [] if shape.in_network else [entry for entry in flat if entry[1] not in slow]
    ways: list[tuple[FloatArray, list[Choice], str, FloatArray]] = []
    if tall:
        found = _hierarchy_s(fits, hosts, shape, message)
        picked = choose(shape, operation, message, tall)
        far = far_of(hosts.all_reduce.measured, shape, message)
        ways.append((found, picked, hosts.all_reduce.provenance, far))
    far = far_of(hosts.ring.measured, shape, message)
    for choice in flat:
        found = _ring_s(fits, hosts, shape, operation, message, choice)
        ways.append((found, [choice] * len(message), hosts.ring.provenance, far))
    stacked = np.stack([way[0] for way in ways])
    winner = stacked.argmin(axis=0).tolist()
    seconds = stacked.min(axis=0)
    best = [ways[way][1][place] for place, way in enumerate(winner)]
    far = np.array([ways[way][3][place] for place, way in enumerate(winner)])
    if free:
        seconds = np.maximum(seconds, _fewer_s(fits, shape, operation, message))
    return priced(seconds, *split(best), weakest(ways[way][2] for way in set(winner)), far)


def _fewer_s(fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray) -> FloatArray:
    """Seconds of the same message on two of more domains, or in one of two."""
    if shape.domains > 2:
        two = replace(shape, ranks=2 * shape.per_domain, domains=2)
        choices = available(two, operation)
        return over_hosts(fits, two, operation, message, choices, free=True).seconds
    if shape.per_domain == 1:
        return np.zeros_like(message)
    one = replace(shape, ranks=shape.per_domain, domains=1, hosts=1, in_network=False)
    return in_domain(fits, one, operation, message, available(one, operation), free=True).seconds


def _hierarchy_s(
    fits: CollectiveFits, hosts: Hosts, shape: Shape, message: FloatArray
) -> FloatArray:
    """All-reduce through domains and NICs; see ``Hierarchy``."""
    curve, constants = hosts.all_reduce, cast(Nccl, fits.nccl)
    per_domain, domains = shape.per_domain, shape.domains
    hop, steps = _hop(curve, shape.technology), 2 * math.log2(domains)
    latency = group_latency_s(constants, shape, per_domain) + steps * hop
    speed = speed_of(fits, shape)
    own = 2 * (per_domain - 1) / per_domain * message / (curve.domain_bandwidth * speed)
    share = 1.0 if shape.in_network else 2 * (domains - 1) / domains
    out = share * message / per_domain
    out = out / (curve.nic_bandwidth * shape.nic_bytes_per_s / hosts.nic)
    overlap = curve.overlap if domains > 2 else 0.0
    work = np.maximum(own, out) + overlap * np.minimum(own, out)
    further = steps * (hop_s(hop, hosts.way, shape) - hop)
    return norm(latency, work, curve.power) + further


def _hop(curve: Hierarchy, technology: str) -> float:
    """Latency of a step between hosts, by the name of the network's technology."""
    for name, seconds in curve.hop.items():
        if name in technology.lower():
            return seconds
    return curve.hop["other"]


def _ring_s(
    fits: CollectiveFits,
    hosts: Hosts,
    shape: Shape,
    operation: str,
    message: FloatArray,
    choice: Choice,
) -> FloatArray:
    """A ring through all domains, see ``HostsRing``: measured with Simple, of other choices latency
    and bytes times what the tuner says of them.
    """
    curve = hosts.ring
    n, domains = shape.ranks, shape.domains
    passes = 2 if operation == "all_reduce" else 1
    steps, across = passes * (n - 1), passes * (domains - 1)
    chunk = message / n
    slower, dearer = against(shape, operation, choice, RING_SIMPLE)
    hop = curve.hop * _hop(hosts.all_reduce, shape.technology) / hosts.all_reduce.hop["other"]
    alone = (steps - across) * curve.step + across * hop
    alone *= (1 + curve.spread * math.log2(domains)) * slower
    latency = alone * (1 + curve.growth * chunk / (chunk + curve.chunk))
    latency = latency + across * (hop_s(hop, hosts.way, shape) - hop)
    nics = curve.nic_bandwidth * shape.nic_bytes_per_s / hosts.nic * shape.per_domain
    rate = min(curve.domain_bandwidth * speed_of(fits, shape), nics)
    if shape.per_domain == 1:
        rate = nics
    work = bus_factor(operation, n) * message / rate * max(dearer, 1.0)
    base = cast(Nccl, fits.nccl).gather.small.latency
    return np.asarray(base + latency + work + np.sqrt(work * curve.fill), dtype=np.float64)
