"""What collectives there are, what a group of ranks looks like to a library, and what counts as
bus bandwidth.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.reach import word_of

FloatArray = NDArray[np.float64]
OPERATIONS = (
    "all_reduce",
    "all_gather",
    "reduce_scatter",
    "all_to_all",
    "broadcast",
    "reduce",
    "send_recv",
    "moe_dispatch",
    "moe_combine",
)
LIBRARIES = (
    "nccl",
    "nccl_2.18",
    "nccl_torch",
    "trtllm_custom",
    "vllm_custom",
    "sglang_custom",
    "deepep_normal",
    "deepep_low_latency",
    "trtllm_nvlink_one_sided",
    "trtllm_nvlink_two_sided",
    "hccl",
)
EXPERT_OPERATIONS = ("moe_dispatch", "moe_combine")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """A group of ranks as a library sees it: ``ranks`` over ``domains`` scale-up domains.

    ``link_bytes_per_s`` is what a rank can send into its domain, ``nic_bytes_per_s`` what it can
    send out of it. ``in_switch``: the switches of the domain reduce; ``in_network``: those of the
    fabric do. ``hosts``: hosts that the ranks stand on; ``rank_per_package``: ranks of the group
    that share a package. ``way_s``: latency of links and switches from one domain to another; None:
    that of the machines that were measured.
    """

    ranks: int
    domains: int = 1
    hosts: int = 1
    link_bytes_per_s: float
    nic_bytes_per_s: float = 0.0
    in_switch: bool = False
    in_network: bool = False
    mesh: bool = False
    pcie: bool = False
    technology: str = ""
    architecture: str = "Hopper"
    ranks_per_package: int = 1
    way_s: float | None = None

    @property
    def per_domain(self) -> int:
        """Ranks of the fullest domain."""
        return math.ceil(self.ranks / self.domains)


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """Seconds of a collective by message size, and the algorithm and protocol that give them.

    ``provenance`` is that of the constants; ``far`` the sigma that the distance from their timings
    adds, by size (None: nowhere).
    """

    seconds: FloatArray
    algorithm: tuple[str, ...]
    protocol: tuple[str, ...]
    provenance: str
    far: FloatArray | None = None

    def added(self, seconds: float) -> Priced:
        """The same with a constant on every call."""
        return replace(self, seconds=self.seconds + seconds)

    def reach(self, place: int) -> float:
        """What distance adds to sigma at one of the sizes."""
        return 0.0 if self.far is None else float(self.far[place])

    def word(self, place: int) -> str:
        """The provenance at one of the sizes."""
        return word_of(self.provenance, self.reach(place))


def hop_s(measured: float, way: float, shape: Shape) -> float:
    """Seconds of a step between domains: as measured, with the way of the measured machines
    replaced by the group's own.
    """
    if shape.way_s is None:
        return measured
    return max(measured - way, 0.0) + shape.way_s


def bus_factor(operation: str, ranks: int) -> float:
    """Bytes that every rank must send, as a share of the message: busbw = factor x size / time.

    Source: NVIDIA/nccl-tests doc/PERFORMANCE.md.

    >>> bus_factor("all_reduce", 8)
    1.75
    """
    share = (ranks - 1) / ranks
    if operation == "all_reduce":
        return 2 * share
    return share if operation in ("all_gather", "reduce_scatter", "all_to_all") else 1.0


def unique_destinations(top_k: int, ranks: int, *, full: bool = False) -> float:
    """Ranks besides itself that a token is sent to, when every rank gets it once.

    Model: uniform routing, ``n (1 - (1 - 1/n)^k)`` distinct ranks, of which ``1 - 1/n`` are others;
    ``full``: routing that never meets the same rank twice while it can, ``min(k, n) (1 - 1/n)``.
    """
    distinct = min(top_k, ranks) if full else ranks * (1 - (1 - 1 / ranks) ** top_k)
    return distinct * (1 - 1 / ranks)


def node_destinations(top_k: int, nodes: int, limit: int | None) -> float:
    """Nodes besides its own that a token is sent to: distinct ones under uniform routing, at most
    ``limit`` (node-limited routing), of which ``1 - 1/N`` are others.
    """
    distinct = nodes * (1 - (1 - 1 / nodes) ** top_k)
    return min(distinct, limit or distinct) * (1 - 1 / nodes)
