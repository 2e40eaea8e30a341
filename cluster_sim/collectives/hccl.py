"""Huawei's collectives by physics: latency of a step and bytes over the rate of its links.

Nothing public was measured by size; every constant is of a datasheet, a public note, or assumed.
"""

from __future__ import annotations

import math

import numpy as np

from cluster_sim.collectives.shape import FloatArray, Priced, Shape, bus_factor, hop_s
from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.collective_fits import CollectiveFits, Hccl, Line

ALGORITHMS = ("Mesh", "Ring", "HD")


def hccl(
    fits: CollectiveFits,
    shape: Shape,
    operation: str,
    message: FloatArray,
    algorithm: str | None = None,
) -> Priced:
    """Seconds of a collective: the fastest of mesh, ring and halving-doubling in the domain, then
    over the NICs on a domain's share, then in the domain again.

    Model (alpha per step, B per rank): mesh ``p (alpha + (n - 1) peer + w)``, ring ``p (n - 1)
    alpha + p w``, halving-doubling ``p log2 n alpha + p w``; p is 2 for all-reduce, else 1; w the
    bytes of a pass over B, peer the time to post to one. On a mesh of direct links a ring uses one
    link, mesh all. Raises SpecError without
    constants and for an unknown algorithm.
    """
    constants = fits.hccl
    if constants is None:
        raise SpecError(f"{fits.chip}: no constants of HCCL; use library nccl")
    known = {name.lower(): name for name in ALGORITHMS}
    if algorithm is not None and algorithm.lower() not in known:
        near = nearest(algorithm, known)
        hint = f"; did you mean '{known[near[0]]}'?" if near else ""
        raise SpecError(f"no HCCL algorithm named '{algorithm}'{hint} It has Mesh, Ring, HD")
    names = ALGORITHMS if algorithm is None else (known[algorithm.lower()],)
    direct = operation in ("all_to_all", "send_recv", "broadcast", "reduce")
    if direct and algorithm is None:
        names = ("Mesh",)
    line = _line(constants, shape)
    per_domain = shape.per_domain
    times = [_pass_s(name, line, shape, operation, per_domain, message) for name in names]
    stacked = np.stack(times)
    seconds = (constants.launch if shape.ranks > 1 else 0.0) + stacked.min(axis=0)
    best = [names[index] for index in stacked.argmin(axis=0).tolist()]
    if shape.domains > 1:
        seconds = seconds + _across_s(constants, shape, operation, message)
    return Priced(
        seconds=seconds,
        algorithm=tuple(best),
        protocol=("-",) * len(message),
        provenance="assumed",  # launch and time to post are, whatever the links
    )


def _line(constants: Hccl, shape: Shape) -> Line:
    """The slowest kind of link that the group uses inside its domain."""
    if shape.hosts > shape.domains:
        return constants.domain
    if constants.package is not None and shape.per_domain <= shape.ranks_per_package:
        return constants.package
    return constants.host


def _pass_s(
    name: str, line: Line, shape: Shape, operation: str, n: int, message: FloatArray
) -> FloatArray:
    if n == 1:
        return np.zeros_like(message)
    passes = 2 if operation == "all_reduce" else 1
    steps = {"Mesh": 1, "Ring": n - 1, "HD": math.ceil(math.log2(n))}[name]
    rate = min(line.bandwidth, shape.link_bytes_per_s)
    if shape.mesh:
        pair = line.bandwidth
        rate = min(pair * (n - 1), shape.link_bytes_per_s) if name == "Mesh" else pair
        if operation == "send_recv":
            rate = pair
    if n == 2 and name == "HD":
        steps = 1
    latency = passes * steps * line.latency
    if name == "Mesh" and operation != "send_recv":
        latency += passes * (n - 1) * line.per_peer
    return latency + bus_factor(operation, n) * message / rate


def _across_s(constants: Hccl, shape: Shape, operation: str, message: FloatArray) -> FloatArray:
    """Ring or halving-doubling over the NICs on what one rank of a domain holds."""
    domains, nic = shape.domains, constants.nic
    hop = hop_s(nic.latency, constants.way, shape)
    rate = min(nic.bandwidth, shape.nic_bytes_per_s or nic.bandwidth)
    if operation == "send_recv":
        return hop + message / rate
    passes = 2 if operation == "all_reduce" else 1
    if operation == "all_to_all":
        out = message * (1 - shape.per_domain / shape.ranks)
        return hop + out / rate
    share = message / shape.per_domain
    doublings = math.ceil(math.log2(domains))
    work = bus_factor(operation, domains) * share / rate
    ring = passes * (domains - 1) * hop + work
    halving = passes * doublings * hop + work
    return np.minimum(ring, halving)
