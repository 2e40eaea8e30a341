"""Scale-up domains: what a group of devices can send, and chips, switches and hosts as a graph."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_sim.specs.chip import Chip
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.topology import Topology

if TYPE_CHECKING:
    import networkx as nx


def scale_up_bandwidth(topology: Topology) -> float:
    """Bytes/s that one chip can send into its scale-up domain, per direction: all links that lead
    to a chip that is there.
    """
    return topology.scale_up.bandwidth(topology.domain)


def group_bandwidth(machine: TopologyInput, ranks: int) -> float:
    """Bytes/s that each of a group of devices can send to the others of it, per direction.

    Model: behind switches and in a PCIe host a device has all its links whatever the group; in a
    mesh only those to the chips of the group. Devices of a package share its links; a group inside
    one package has the link between its devices. Groups fill packages one after another. Limits: in
    groups of several packages the link inside a package is not used beside the others.
    """
    links, devices = machine.topology.scale_up, machine.chip.devices_per_chip
    if 1 < ranks <= devices and links.package_bandwidth is not None:
        return links.package_bandwidth
    chips = max(2, -(-ranks // devices))
    return links.bandwidth(chips) / devices


def peer_bandwidth(machine: TopologyInput) -> float:
    """Bytes/s from a device of one chip to a device of another, per direction."""
    return machine.topology.scale_up.bandwidth(2) / machine.chip.devices_per_chip


def domain_devices(machine: TopologyInput) -> int:
    """Devices of one scale-up domain: no replica may be larger."""
    return machine.topology.domain * machine.chip.devices_per_chip


def replicas_in(machine: TopologyInput, devices: int) -> int:
    """Replicas of so many devices that the machine holds, none across domains; a last domain with
    fewer chips holds what it can.
    """
    full, rest = divmod(machine.topology.chips, machine.topology.domain)
    left = rest * machine.chip.devices_per_chip
    return full * (domain_devices(machine) // devices) + left // devices


def build_graph(topology: Topology, chip: Chip) -> nx.Graph[str]:
    """The scale-up domains as a networkx graph, one component each.

    Nodes carry ``kind``: ``chip<i>`` (``chip``), or with several devices in a package
    ``chip<i>.<j>`` (``device``); ``switch<d>.<s>`` of domain d, ``host<h>`` where chips hang on the
    host. Edges carry ``bandwidth_bytes_per_s`` per direction.
    """
    import networkx as nx

    graph: nx.Graph[str] = nx.Graph(name=topology.name)
    links, devices = topology.scale_up, chip.devices_per_chip
    for number in range(topology.chips):
        kind = "chip" if devices == 1 else "device"
        members = _members(number, devices)
        graph.add_nodes_from(members, kind=kind, chip=topology.chip)
        for node in members[1:]:
            graph.add_edge(members[0], node, bandwidth_bytes_per_s=links.package_bandwidth)
    for domain, first in enumerate(range(0, topology.chips, topology.domain)):
        chips = range(first, min(first + topology.domain, topology.chips))
        if links.kind == "mesh":
            share = links.bandwidth(2) / devices**2
            for low in chips:
                for high in range(low + 1, chips.stop):
                    for node in _members(low, devices):
                        for other in _members(high, devices):
                            graph.add_edge(node, other, bandwidth_bytes_per_s=share)
            continue
        hubs = [(f"switch{domain}.{s}", n) for s, n in enumerate(links.links_per_switch)]
        for hub, count in hubs or [(f"host{domain}", 1)]:
            graph.add_node(hub, kind=links.kind.replace("switched", "switch"), model=links.switch)
            share = count * links.link_bandwidth / devices
            for low in chips:
                for node in _members(low, devices):
                    graph.add_edge(node, hub, bandwidth_bytes_per_s=share)
    return graph


def _members(chip: int, devices: int) -> list[str]:
    """Nodes of a chip: itself, or its devices."""
    return [f"chip{chip}"] if devices == 1 else [f"chip{chip}.{j}" for j in range(devices)]
