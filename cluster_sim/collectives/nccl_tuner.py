"""NCCL's tuner: which algorithm and protocol it takes for a message.

The tuner chooses; it is not a clock: its own times are 20 to 40 % short on A100 and Blackwell.
Source: NVIDIA/nccl, src/graph/tuning.cc (2026-06-11), its constants in us and GB/s.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.shape import FloatArray, Shape
from cluster_sim.errors import SpecError, nearest

ALGORITHMS = ("Tree", "Ring", "CollNetDirect", "CollNetChain", "NVLS", "NVLSTree", "PAT")
PROTOCOLS = ("LL", "LL128", "Simple")
Choice = tuple[str, str]
DIRECT: Choice = ("Direct", "Simple")  # sends and receives between pairs; nothing to choose
BASE_US: Mapping[str, tuple[float, float, float]] = {
    "Tree": (6.8, 14.0, 8.4),
    "Ring": (6.6, 14.0, 8.4),
    "PAT": (8.0, 8.0, 8.0),
}
# Hop inside a domain (NVLink, PCIe) and between hosts, by protocol.
NVLINK_US: Mapping[str, tuple[float, float, float]] = {
    "Tree": (0.6, 1.25, 4.0),
    "Ring": (0.6, 1.9, 3.4),
    "CollNetDirect": (3.7, 3.7, 3.7),
    "CollNetChain": (2.8, 2.8, 2.8),
    "NVLS": (25.0, 25.0, 25.0),
    "NVLSTree": (25.0, 25.0, 25.0),
    "PAT": (4.0, 4.0, 4.0),
}
PCIE_US: Mapping[str, tuple[float, float, float]] = {
    **NVLINK_US,
    "Tree": (1.0, 1.9, 4.0),
    "Ring": (1.0, 2.5, 5.7),
}
NET_US: Mapping[str, tuple[float, float, float]] = {
    "Tree": (5.0, 8.5, 14.0),
    "Ring": (2.7, 4.0, 14.0),
    "CollNetDirect": (31.0, 31.0, 31.0),
    "CollNetChain": (30.0, 30.0, 30.0),
    "NVLS": (18.0, 18.0, 18.0),
    "NVLSTree": (20.9, 20.9, 20.9),
    "PAT": (14.0, 14.0, 14.0),
}
NET_OVERHEAD_US = 1.0  # a post on Intel hosts; three times with Simple
# What the protocol leaves of a link: a maintainer's 370 of 450 GB/s (NVIDIA/nccl-tests#212).
LINK_SHARE = 370 / 450


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Caps of one generation, GB/s: LL on one host, LL128 of a ring channel, Simple of a tree
    channel on 1, 2 and 4 hosts, NVLS trees on 2 and 4, the share that NVLS reaches.
    """

    ll: float
    ll128_channel: float
    tree_channel: tuple[float, float, float]
    nvls_tree_channel: tuple[float, float]
    nvls: float
    channels: int
    nvls_channels: int


# nvls_channels is chosen so that eight H100 get the 274 GB/s that the issue nccl-tests#212 reports.
LIMITS: Mapping[str, Limits] = {
    "Ampere": Limits(
        ll=87.7,
        ll128_channel=20.0,
        tree_channel=(24.0, 23.6, 17.8),
        nvls_tree_channel=(57.7, 45.5),
        nvls=0.85,
        channels=24,
        nvls_channels=8,
    ),
    "Hopper": Limits(
        ll=141.0,
        ll128_channel=36.7,
        tree_channel=(38.7, 41.4, 36.0),
        nvls_tree_channel=(57.7, 45.5),
        nvls=0.85,
        channels=16,
        nvls_channels=8,
    ),
    "Blackwell": Limits(
        ll=282.0,
        ll128_channel=40.0,
        tree_channel=(70.0, 42.8, 24.0),
        nvls_tree_channel=(96.0, 80.0),
        nvls=0.74,
        channels=24,
        nvls_channels=8,
    ),
}
LL_NET = (39.0, 20.4)  # on 2 and 4 Intel hosts, which is what the generations' own entries lose to
PLATEAU, PLATEAU_BYTES = 1.4, 64.0  # a ring over hosts with Simple, per channel and rank
# Trees lose in the middle: share of bandwidth at 64 KiB to 2 MiB (2^16, 2^18, 2^20 ... per host).
TREE_DIP = {"LL": 0.4, "LL128": 0.6, "Simple": 0.5}


def available(shape: Shape, operation: str) -> list[Choice]:
    """Algorithms with protocols that NCCL has for an operation on a group, in the tuner's order.

    Trees only reduce to all; NVLS needs switches that reduce and more than two ranks a domain;
    CollNet a fabric that reduces; PAT one rank a host.
    """
    if operation in ("all_to_all", "send_recv"):
        return [DIRECT]
    found: list[Choice] = []
    gather = operation in ("all_gather", "reduce_scatter")
    if operation == "all_reduce":
        found += [("Tree", protocol) for protocol in PROTOCOLS]
    found += [("Ring", protocol) for protocol in PROTOCOLS]
    across = shape.domains > 1
    if across and shape.in_network and operation == "all_reduce":
        found += [("CollNetDirect", "Simple"), ("CollNetChain", "Simple")]
    if shape.in_switch and shape.per_domain > 2 and (operation == "all_reduce" or gather):
        if not across or shape.in_network:
            found.append(("NVLS", "Simple"))
        if across and operation == "all_reduce":
            found.append(("NVLSTree", "Simple"))
    if across and gather and shape.per_domain == 1:
        found.append(("PAT", "Simple"))
    return found


def allowed(
    shape: Shape, operation: str, algorithm: str | None, protocol: str | None
) -> list[Choice]:
    """What of ``available`` the user's choice leaves; raises SpecError with the way out."""
    algorithm = _known("algorithm", algorithm, ALGORITHMS)
    protocol = _known("protocol", protocol, PROTOCOLS)
    known = available(shape, operation)
    left = [c for c in known if algorithm in (None, c[0]) and protocol in (None, c[1])]
    if left:
        return left
    reason = _why_not(shape, operation, algorithm, protocol)
    have = ", ".join(dict.fromkeys(f"{a} with {p}" for a, p in known))
    raise SpecError(f"{reason}; {operation} can use {have}")


def _known(what: str, name: str | None, known: Iterable[str]) -> str | None:
    if name is None:
        return None
    plain = {entry.lower(): entry for entry in known}
    if name.lower() not in plain:
        near = nearest(name, plain)
        hint = f"; did you mean '{plain[near[0]]}'?" if near else ""
        raise SpecError(f"no {what} named '{name}'{hint} NCCL has {', '.join(plain.values())}")
    return plain[name.lower()]


def _why_not(shape: Shape, operation: str, algorithm: str | None, protocol: str | None) -> str:
    if algorithm in ("NVLS", "NVLSTree") and not shape.in_switch:
        return f"{algorithm} needs switches that reduce, which this scale-up domain has not"
    if algorithm in ("NVLS", "NVLSTree") and shape.per_domain <= 2:
        return f"{algorithm} needs more than two ranks in a domain (this group has {shape.ranks})"
    if algorithm in ("NVLSTree", "CollNetDirect", "CollNetChain", "PAT") and shape.domains == 1:
        return f"{algorithm} needs more than one domain"
    if algorithm in ("NVLS", "CollNetDirect", "CollNetChain") and not shape.in_network:
        return f"{algorithm} across domains needs a fabric that reduces (SHARP)"
    if algorithm == "PAT" and shape.per_domain > 1:
        return f"PAT needs one rank a domain (this group has {shape.per_domain})"
    named = algorithm or "no algorithm"
    return f"{named} with {protocol or 'any protocol'} does not do {operation}"


def tuner_s(shape: Shape, operation: str, message: FloatArray, choice: Choice) -> FloatArray:
    """The tuner's own estimate for an algorithm and protocol: latency + bytes / bandwidth."""
    algorithm, protocol = choice
    latency = _latency_us(shape, operation, choice)
    bandwidth = _bandwidth(shape, operation, choice)
    times = np.full_like(message, latency)
    if algorithm == "Ring" and protocol == "Simple" and shape.domains > 1:
        limits = _limits(shape)
        chunk = message / (limits.channels * shape.ranks)
        if operation == "all_reduce":
            times = np.where(chunk >= PLATEAU_BYTES, latency * PLATEAU, latency)
    share = _tree_share(shape, message, protocol) if algorithm == "Tree" else 1.0
    return (times + message / 1e3 / (bandwidth * share)) * 1e-6


def against(shape: Shape, operation: str, choice: Choice, other: Choice) -> tuple[float, float]:
    """Latency of a choice over that of another, and time for bytes likewise, by the tuner."""
    latency = _latency_us(shape, operation, choice) / _latency_us(shape, operation, other)
    rates = _bandwidth(shape, operation, choice), _bandwidth(shape, operation, other)
    return latency, rates[1] / rates[0]


def choose(
    shape: Shape, operation: str, message: FloatArray, choices: Iterable[Choice]
) -> list[Choice]:
    """For each message the fastest of ``choices`` by the tuner's estimate; the first of equals."""
    listed = list(choices)
    times = np.stack([tuner_s(shape, operation, message, choice) for choice in listed])
    return [listed[index] for index in times.argmin(axis=0).tolist()]


def _limits(shape: Shape) -> Limits:
    return LIMITS.get(shape.architecture.split()[0], LIMITS["Hopper"])


def _latency_us(shape: Shape, operation: str, choice: Choice) -> float:
    algorithm, protocol = choice
    column = PROTOCOLS.index(protocol)
    n, hosts = shape.ranks, shape.domains
    intra = (PCIE_US if shape.pcie else NVLINK_US)[algorithm][column]
    inter = NET_US[algorithm][column]
    if hosts > 1:
        inter += NET_OVERHEAD_US * (3 if protocol == "Simple" else 1)
    base = BASE_US.get(algorithm, (0.0, 0.0, 0.0))[column]
    doublings = math.log2(hosts)
    if algorithm == "Ring":
        if operation == "all_reduce":
            steps, across = 2 * (n - 1), 2 * (hosts - 1)
        else:
            steps, across = n - 1, hosts - 1
        return base + (steps - across) * intra + across * inter
    if algorithm == "Tree":
        return base + 2 * ((n / hosts - 1) * intra + doublings * inter)
    if algorithm == "NVLS":
        return base + intra + (inter if hosts > 1 else 0.0)
    if algorithm == "NVLSTree":
        return base + intra + 2 * doublings * inter
    if algorithm == "PAT":
        return base + doublings * inter / 3.5 + 2.8 * n
    return base + 2 * (intra + inter)


def _bandwidth(shape: Shape, operation: str, choice: Choice) -> float:
    """GB/s by message size (not bus bandwidth)."""
    algorithm, protocol = choice
    limits = _limits(shape)
    n, hosts, per_domain = shape.ranks, shape.domains, shape.per_domain
    bus = shape.link_bytes_per_s / 1e9 * LINK_SHARE
    nics = shape.nic_bytes_per_s / 1e9 * per_domain
    if hosts > 1 and nics > 0:
        bus = min(bus, nics) if algorithm != "NVLS" else bus
    where = 0 if hosts == 1 else 1 if hosts < 4 else 2
    steps = 2 * (n - 1) if operation == "all_reduce" else n - 1
    if operation in ("broadcast", "reduce"):
        steps = n
    cap = limits.ll if hosts == 1 else LL_NET[where - 1]
    if algorithm == "Ring":
        if protocol == "LL":
            bus = min(cap, 0.5 * bus)
        elif protocol == "LL128":
            bus = min(0.92 * bus, limits.channels * limits.ll128_channel)
        return bus * n / steps
    if algorithm == "Tree":
        bus = min(0.92 * bus, limits.channels * limits.tree_channel[where])
        if protocol == "LL":
            bus = min(bus / 3.8, cap)
        elif protocol == "LL128":
            bus *= 7 / 9 if hosts == 1 else 120 / 128
        return bus * (0.85 if shape.pcie else 1.0) * 0.5
    if algorithm in ("NVLS", "NVLSTree"):
        bus *= limits.nvls * (limits.nvls_channels - 1) / limits.nvls_channels
        if algorithm == "NVLSTree":
            bus = min(bus, limits.nvls_channels * limits.nvls_tree_channel[where - 1])
        if operation == "all_reduce":
            return bus
        return bus * (per_domain - 1) / per_domain * n / steps
    if algorithm == "PAT":
        return 0.75 * bus * n / steps
    return bus * (0.85 if algorithm == "CollNetDirect" else 1.0)


def _tree_share(shape: Shape, message: FloatArray, protocol: str) -> FloatArray:
    """The dip of trees over hosts: full below 64 KiB a host, least at 256 KiB, full at 2 MiB."""
    if shape.domains == 1:
        return np.ones_like(message)
    knots = np.array([16.0, 18.0, 21.0])
    share = np.array([1.0, TREE_DIP[protocol], 1.0])
    host = np.log2(np.maximum(message / shape.domains, 1.0))
    return np.asarray(np.interp(host, knots, share), dtype=np.float64)
