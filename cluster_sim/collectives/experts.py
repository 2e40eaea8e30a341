"""Dispatch and combine of experts as DeepEP and TensorRT-LLM do them: time alone and bytes sent.

Tokens go to the ranks that hold their experts and come back. Bytes count as the libraries send
them: low-latency kernels once for each expert, the others once for each rank, over NICs once for
each node.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.reach import reach_sigma
from cluster_sim.collectives.shape import (
    FloatArray,
    Priced,
    Shape,
    hop_s,
    node_destinations,
    unique_destinations,
)
from cluster_sim.errors import SpecError
from cluster_sim.specs.collective_fits import CollectiveFits, Exchange, ExpertLibrary


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens are routed: each to ``top_k`` of ``experts``, on at most ``node_limit`` nodes.

    ``imbalance`` is what the fullest rank gets over the mean.
    """

    top_k: int = 8
    experts: int = 256
    node_limit: int | None = None
    imbalance: float = 1.0


def copies(library: ExpertLibrary, shape: Shape, routing: Routing) -> float:
    """Copies of a token that leave its rank, per token."""
    if library.copies == "expert":
        return routing.top_k * (1 - 1 / shape.ranks)
    full = library.copies == "full_rank"
    return unique_destinations(routing.top_k, shape.ranks, full=full)


def copies_over_nics(library: ExpertLibrary, shape: Shape, routing: Routing) -> float:
    """Copies of a token that leave its domain, per token: one a node, or one an expert."""
    if library.copies == "expert":
        return routing.top_k * (1 - shape.per_domain / shape.ranks)
    return node_destinations(routing.top_k, shape.domains, routing.node_limit)


def exchange(
    fits: CollectiveFits,
    name: str,
    shape: Shape,
    operation: str,
    message: FloatArray,
    routing: Routing,
) -> Priced:
    """Seconds of a dispatch or combine; ``message`` is nominal: tokens x top_k x bytes of a token,
    per rank.

    Raises SpecError when the chip has no constants of the library, or none over several domains.
    """
    library = fits.experts.get(name)  # type: ignore[call-overload]
    if library is None:
        have = ", ".join(fits.experts) or "none"
        raise SpecError(f"{fits.chip}: no constants of {name} (it has {have})")
    if operation not in ("moe_dispatch", "moe_combine"):
        raise SpecError(f"{name} does moe_dispatch and moe_combine, not {operation}; use nccl")
    kind = "dispatch" if operation == "moe_dispatch" else "combine"
    unit = message / routing.top_k * routing.imbalance  # bytes of all tokens of a rank, once
    curve = getattr(library, kind)
    speed = shape.link_bytes_per_s / fits.link
    latency = curve.latency + curve.per_doubling * math.log2(shape.ranks)
    latency += curve.per_expert * routing.experts
    sent = copies(library, shape, routing) + curve.local
    rate = curve.bandwidth * speed / shape.ranks**curve.crowding
    seconds = latency + unit * sent / rate
    used = curve
    if shape.domains > 1:
        over = getattr(library, f"{kind}_hosts")
        if over is None:
            raise SpecError(f"{name} works inside one scale-up domain, not on {shape.domains}")
        latency = hop_s(over.latency, _way(fits), shape)
        latency += over.per_doubling * math.log2(shape.ranks)
        rate = _over_nics(fits, over, shape)
        out = latency + unit * copies_over_nics(library, shape, routing) / rate
        seconds, used = np.maximum(seconds, out), over
    return Priced(
        seconds=seconds,
        algorithm=(name,) * len(message),
        protocol=("-",) * len(message),
        provenance=used.provenance,
        far=reach_sigma(used.measured, shape.ranks, shape.domains, message),
    )


def _way(fits: CollectiveFits) -> float:
    """Latency of links and switches between the hosts that were measured."""
    if fits.hosts is not None:
        return fits.hosts.way
    return 0.0 if fits.hccl is None else fits.hccl.way


def _over_nics(fits: CollectiveFits, over: Exchange, shape: Shape) -> float:
    """Bytes/s of a rank over NICs: by the ratio to the NICs that were measured; where none were, no
    more than the constant and the NIC.
    """
    if fits.hosts is None:
        return min(over.bandwidth, shape.nic_bytes_per_s or over.bandwidth)
    return over.bandwidth * shape.nic_bytes_per_s / fits.hosts.nic
