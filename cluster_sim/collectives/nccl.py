"""NCCL's collectives: time alone by size, fitted to measured series; the tuner names the choice.

Inside one domain every chip and family has its own constants; on more ranks than were timed see
``nccl_beyond``. Over several domains an all-reduce goes through the domain, over the NICs and
through the domain again; rings pass every rank.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cluster_sim.collectives.nccl_domain import in_domain
from cluster_sim.collectives.nccl_hosts import over_hosts
from cluster_sim.collectives.nccl_parts import far_of, hosts_of, priced, speed_of
from cluster_sim.collectives.nccl_tuner import DIRECT, allowed
from cluster_sim.collectives.shape import FloatArray, Priced, Shape, bus_factor, hop_s
from cluster_sim.errors import SpecError
from cluster_sim.specs.collective_fits import CollectiveFits, Pairs
from cluster_sim.specs.seen import most_ranks


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
        found = _point_to_point(fits, shape, operation, message)
    else:
        free = algorithm is None and protocol is None
        way = in_domain if shape.domains == 1 else over_hosts
        found = way(fits, shape, operation, message, choices, free)
    return found if operation == "send_recv" else found.added(fits.nccl.call.get(call, 0.0))


def _point_to_point(
    fits: CollectiveFits, shape: Shape, operation: str, message: FloatArray
) -> Priced:
    """Transfers between pairs: a send with its receive, or one to everybody at once."""
    assert fits.nccl is not None
    if operation == "all_to_all" and shape.domains > 1:
        return _exchange_over_hosts(fits, shape, message)
    named = (DIRECT[0],) * len(message), (DIRECT[1],) * len(message)
    if operation == "all_to_all":
        pairs = fits.nccl.exchange
        seconds = _pairs_s(pairs, shape.ranks, message, speed_of(fits, shape))
        return priced(seconds, *named, pairs.provenance, far_of(pairs.measured, shape, message))
    two = replace(shape, ranks=2, domains=min(2, shape.domains))
    line = fits.nccl.send_recv
    seconds = line.latency + message / (line.bandwidth * speed_of(fits, shape))
    if shape.domains > 1:  # no sooner than inside the domain: what goes to a NIC passes its links
        hosts = hosts_of(fits, shape)
        line, rate = hosts.send_recv, shape.nic_bytes_per_s / hosts.nic
        out = hop_s(line.latency, hosts.way, shape) + message / (line.bandwidth * rate)
        seconds = np.maximum(seconds, out)
    return priced(seconds, *named, line.provenance, far_of(line.measured, two, message))


def _exchange_over_hosts(fits: CollectiveFits, shape: Shape, message: FloatArray) -> Priced:
    """An all-to-all over several domains: what leaves the domain over NICs, the rest beside it; no
    less time than in one of the domains alone.
    """
    assert fits.nccl is not None
    hosts, inside, n = hosts_of(fits, shape), fits.nccl.exchange, shape.ranks
    direct = hosts.exchange
    latency = max(direct.latency, inside.latency + inside.per_peer * (shape.per_domain - 1))
    timed = most_ranks(direct.measured) or n
    latency += inside.per_peer * max(0, n - timed)  # to post each further message
    latency += hop_s(direct.latency, hosts.way, shape) - direct.latency
    rate = direct.nic_bandwidth * shape.nic_bytes_per_s / hosts.nic
    out = message * (1 - shape.per_domain / n) / rate
    one = _pairs_s(inside, shape.per_domain, message, speed_of(fits, shape))
    seconds = np.maximum(latency + out + np.sqrt(out * direct.fill), one)
    named = (DIRECT[0],) * len(message), (DIRECT[1],) * len(message)
    return priced(seconds, *named, direct.provenance, far_of(direct.measured, shape, message))


def _pairs_s(pairs: Pairs, ranks: int, message: FloatArray, speed: float) -> FloatArray:
    """An all-to-all of one domain: a latency, a post to each peer, the bytes for others; short
    messages by their protocol where that is faster.
    """
    wire, peers = message * bus_factor("all_to_all", ranks), ranks - 1
    seconds = pairs.latency + pairs.per_peer * peers + wire / (pairs.bandwidth * speed)
    short = pairs.short
    if short is not None:
        sooner = short.latency + short.per_peer * peers + wire / (short.bandwidth * speed)
        seconds = np.minimum(seconds, sooner)
    return seconds
