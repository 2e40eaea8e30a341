"""What can be said about a machine: bisection bandwidth, hops, and whether its counts add up."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cluster_sim.machine.build import Shape
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.routes import Routing, paths
from cluster_sim.machine.scale_out import Dragonfly, Tree
from cluster_sim.machine.scale_up import Mesh, Switched, Torus

MOST_SOURCES = 16  # devices from which hops are counted to all others
MOST_PIECES = 2_000_000  # (flow, link) pairs held at once
MOST_LINKS_TO_CUT = 20_000  # above, the maximum flow of an irregular graph takes minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hops:
    """Switches that a flow passes (links, where there are no switches), over all targets of
    ``sources`` devices.
    """

    diameter: int
    mean: float
    sources: int


def hops(machine: Machine) -> Hops:
    """Switches between devices: the most, and the mean over all pairs with the sources.

    Limits: where nothing joins the domains only the first is counted; sources are spread evenly
    over the machine; of a regular one they stand for all.
    """
    if machine.devices == 1:
        return Hops(diameter=0, mean=0.0, sources=1)
    rules, size = Routing(mode="ecmp"), machine.devices
    if not joined(machine):
        size = machine.devices_per_domain
    pieces = len(paths(machine, [0], [size - 1], routing=rules).links)
    many = MOST_PIECES // (max(1, pieces) * size)
    count = max(1, min(MOST_SOURCES, many, size))
    targets = np.arange(size, dtype=np.int64)
    most, total = 0.0, 0.0
    for number in range(count):
        source = number * size // count
        routes = paths(machine, np.full_like(targets, source), targets, routing=rules)
        flows = np.repeat(targets, np.diff(routes.rows))
        entered = routes.shares
        if machine.has_switches:
            entered = entered * machine.is_switch[machine.link_to[routes.links]]
        passed = np.bincount(flows, weights=entered, minlength=size)
        most = max(most, float(passed.max()))
        total += float(passed.sum())
    mean = total / (count * max(1, size - 1))
    return Hops(diameter=round(most), mean=mean, sources=count)


def bisection(machine: Machine) -> float | None:
    """Bytes/s per direction between the two halves of the machine; None for a large irregular one.

    Model: whole domains stay together where there are several; the least of what the NICs of a
    half, its uplinks and, where its groups are apart, its core links carry.
    """
    if machine.shape is None:
        return _cut(machine) if machine.n_links <= MOST_LINKS_TO_CUT else None
    shape: Shape = machine.shape
    if machine.domains == 1:
        return _inside(machine)
    if shape.scale_out is None or shape.nics is None:
        return 0.0
    half = machine.domains // 2 * machine.devices_per_domain / machine.devices
    attach = shape.nics.attach
    widths = [
        half * shape.nics.count * shape.nics.bandwidth_bytes_per_s,
        half * machine.devices * attach.bandwidth_bytes_per_s,
    ]
    fabric = shape.scale_out
    if isinstance(fabric, Dragonfly):
        low = fabric.groups // 2
        cables = low * (fabric.groups - low) * fabric.between
        widths.append(cables * fabric.across.bandwidth_bytes_per_s)
        widths.append(fabric.up.count * fabric.up.bandwidth_bytes_per_s / 2)
    else:
        widths += _tree_widths(machine, fabric)
    return min(widths)


def _tree_widths(machine: Machine, tree: Tree) -> list[float]:
    counts = tree.counts
    several = counts.leaves // max(1, counts.rails) > 1
    widths = []
    if tree.up is not None and several:
        widths.append(tree.up.count * tree.up.bandwidth_bytes_per_s / 2)
    if tree.core is not None and counts.groups_per_column > 1:
        widths.append(tree.core.count * tree.core.bandwidth_bytes_per_s / 2)
    return widths


def _inside(machine: Machine) -> float:
    """Between the halves of one scale-up domain."""
    kind, low = machine.shape.scale_up, machine.devices // 2
    if isinstance(kind, Mesh):
        return low * (machine.devices - low) * kind.link.bandwidth_bytes_per_s
    if isinstance(kind, Torus):
        longest = max(kind.shape)
        return 2 * machine.devices / longest * kind.links[0].bandwidth_bytes_per_s
    if isinstance(kind, Switched):
        widths = [low * sum(link.bandwidth_bytes_per_s for link in kind.links)]
        if kind.across:
            widths.append(sum(link.count * link.bandwidth_bytes_per_s for link in kind.across))
        if kind.uplinks and machine.hosts > 1:
            each = sum(link.bandwidth_bytes_per_s for link in kind.uplinks) * kind.spines
            widths.append(machine.hosts // 2 * each)
        return min(widths)
    return 0.0


def _cut(machine: Machine) -> float:
    """Maximum flow from the first half of the devices to the others."""
    import networkx as nx

    graph: nx.DiGraph[object] = nx.DiGraph()
    ends = zip(machine.link_from.tolist(), machine.link_to.tolist(), strict=True)
    for (a, b), width in zip(ends, machine.link_bandwidth.tolist(), strict=True):
        old = graph.get_edge_data(a, b, {"capacity": 0.0})["capacity"]
        graph.add_edge(a, b, capacity=old + width)
    for device in range(machine.devices):
        ends_at = ("first", device) if device < machine.devices // 2 else (device, "second")
        graph.add_edge(*ends_at)
    width, _ = nx.maximum_flow(graph, "first", "second")
    return float(width)


def ports_used(machine: Machine) -> Ints:
    """Physical links at every node."""
    lanes = np.repeat(
        np.array([link.lanes for link in machine.links], dtype=np.int64),
        [2 * link.count for link in machine.links],
    )
    used = np.bincount(machine.link_from, weights=lanes, minlength=machine.n_nodes)
    return used.astype(np.int64)


def joined(machine: Machine) -> bool:
    """Whether the machine means to join all devices: not if nothing joins its domains."""
    return machine.shape is None or machine.domains == 1 or machine.shape.scale_out is not None


def connected(machine: Machine) -> bool:
    """Whether every device reaches every other."""
    label = np.arange(machine.n_nodes, dtype=np.int64)
    a, b = machine.link_from, machine.link_to
    while True:
        new = label.copy()
        np.minimum.at(new, b, label[a])
        new = new[new]
        if np.array_equal(new, label):
            return bool((label[: machine.devices] == label[0]).all())
        label = new


def problems(machine: Machine) -> list[str]:
    """What is wrong with a machine: parts that nothing joins, more links than a switch has ports,
    links without bandwidth, counts of classes that differ from the expanded machine.
    """
    found = []
    if joined(machine) and not connected(machine):
        found.append("some devices have no way to others; add the links that are missing")
    used = ports_used(machine)
    for node in machine.nodes:
        most = int(used[node.first : node.first + node.count].max(initial=0))
        if node.ports is not None and most > node.ports:
            worst = int(np.argmax(used[node.first : node.first + node.count]))
            found.append(
                f"{node.label(worst)}: {most} links on a switch of {node.ports} ports; "
                "use switches with more ports, or fewer links"
            )
    found += [
        f"{link.name}: zero bandwidth"
        for link in machine.links
        if not link.bandwidth_bytes_per_s > 0
    ]
    expanded = len(machine.link_from), float(machine.link_bandwidth.sum())
    counted = machine.n_links, sum(2 * x.count * x.bandwidth_bytes_per_s for x in machine.links)
    if expanded[0] != counted[0] or abs(expanded[1] - counted[1]) > 1e-9 * counted[1]:
        found.append(f"counts do not reconcile: {counted} by class, {expanded} expanded")
    return found
