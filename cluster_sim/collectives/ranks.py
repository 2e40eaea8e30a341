"""Ranks on devices: who shares a scale-up domain, and how a library sees them."""

from __future__ import annotations

import numpy as np

from cluster_sim.collectives.shape import Shape
from cluster_sim.machine.board import rank_nic_bandwidth
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.host import group_bandwidth
from cluster_sim.machine.routes import Routing, paths
from cluster_sim.specs.inputs import TopologyInput

MOST_WAYS = 64  # domains that the latency of the way is asked of; their tiers repeat


def widest(rows: Ints, domain: int) -> Ints:
    """The first of the rows that stand in most domains."""
    homes = np.sort(rows // domain, axis=1)
    spread = (np.diff(homes, axis=1) != 0).sum(axis=1)
    found: Ints = rows[int(spread.argmax())]
    return found


def by_domain(ranks: Ints, domain: int) -> tuple[Ints, ...]:
    """The devices of a group by scale-up domain, in rank order."""
    home = ranks // domain
    order = np.argsort(home, kind="stable")
    _, starts = np.unique(home[order], return_index=True)
    return tuple(np.split(ranks[order], starts[1:]))


def shape_of(
    topology: TopologyInput, ranks: Ints, *, machine: Machine | None = None, sharp: bool = False
) -> Shape:
    """How a library sees the ranks on some devices. The machine is asked for the way between
    domains; without it that is as where constants were measured.
    """
    described, chip = topology.topology, topology.chip
    scale_up, fabric = described.scale_up, described.fabric
    dies = chip.devices_per_chip
    domain, per_host = described.domain * dies, (described.chips_per_host or described.chips) * dies
    homes, inside = np.unique(ranks // domain, return_counts=True)
    fullest = ranks[ranks // domain == homes[inside.argmax()]]
    packages = np.unique(ranks // dies, return_counts=True)[1] if dies > 1 else np.ones(1)
    return Shape(
        ranks=len(ranks),
        domains=len(inside),
        hosts=len(np.unique(ranks // per_host)),
        link_bytes_per_s=group_bandwidth(topology, len(fullest), len(np.unique(fullest // dies))),
        nic_bytes_per_s=rank_nic_bandwidth(described, chip),
        in_switch=scale_up.in_switch_reduction,
        in_network=sharp,
        mesh=scale_up.kind == "mesh",
        pcie=scale_up.kind == "host",
        technology=fabric.technology if fabric is not None else "",
        architecture=chip.architecture,
        ranks_per_package=int(packages.max()),
        way_s=way_s(machine, ranks) if machine is not None and len(inside) > 1 else None,
    )


def side_by_side(topology: TopologyInput, ranks: int, *, apart: bool = False) -> Shape:
    """The first so many devices of a domain; ``apart``: one of each chip."""
    stride = topology.chip.devices_per_chip if apart else 1
    return shape_of(topology, np.arange(ranks, dtype=np.int64) * stride)


def way_s(machine: Machine, ranks: Ints) -> float:
    """Latency of the links and switches between the first rank and the farthest other domain."""
    members = by_domain(ranks, machine.devices_per_domain)
    far = np.array([part[0] for part in members])
    far = far[far // machine.devices_per_domain != ranks[0] // machine.devices_per_domain]
    far = far[np.unique(np.linspace(0, len(far) - 1, min(MOST_WAYS, len(far))).astype(int))]
    routes = paths(machine, np.full_like(far, ranks[0]), far, routing=Routing(mode="ecmp"))
    latency = routes.shares * machine.link_latency_s[routes.links]
    flows = np.repeat(np.arange(len(far)), np.diff(routes.rows))
    return float(np.bincount(flows, weights=latency, minlength=len(far)).max())
