"""A host as a graph: chips and switches as nodes, links as edges."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.topology import Topology

if TYPE_CHECKING:
    import networkx as nx


def scale_up_bandwidth(topology: Topology) -> float:
    """Bytes/s that one chip can send into the scale-up domain, per direction: its links to all
    switches.
    """
    return sum(topology.scale_up.links_per_switch) * topology.scale_up.link_bandwidth


def group_bandwidth(machine: TopologyInput, ranks: int) -> float:
    """Bytes/s that each of a group of devices can send to the others of it, per direction."""
    return scale_up_bandwidth(machine.topology) / machine.chip.devices_per_chip


def domain_devices(machine: TopologyInput) -> int:
    """Devices of one scale-up domain: no replica may be larger."""
    chips = machine.topology.scale_up.domain or machine.topology.chips
    return chips * machine.chip.devices_per_chip


def build_graph(topology: Topology) -> nx.Graph[str]:
    """The host as a networkx graph.

    Nodes ``gpu<i>`` and ``nvswitch<j>`` carry ``kind``; edges carry ``links`` and
    ``bandwidth_bytes_per_s`` (per direction).
    """
    import networkx as nx

    graph: nx.Graph[str] = nx.Graph(name=topology.name)
    for chip in range(topology.chips):
        graph.add_node(f"gpu{chip}", kind="chip", chip=topology.chip)
    for number, links in enumerate(topology.scale_up.links_per_switch):
        switch = f"nvswitch{number}"
        graph.add_node(switch, kind="switch", model=topology.scale_up.switch)
        for chip in range(topology.chips):
            graph.add_edge(
                f"gpu{chip}",
                switch,
                links=links,
                bandwidth_bytes_per_s=links * topology.scale_up.link_bandwidth,
            )
    return graph
