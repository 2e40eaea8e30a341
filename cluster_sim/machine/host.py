"""Scale-up domains: what a group of devices can send, and how many replicas they hold."""

from __future__ import annotations

from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.topology import Topology


def scale_up_bandwidth(topology: Topology) -> float:
    """Bytes/s that one chip can send into its scale-up domain, per direction: all links that lead
    to a chip that is there.
    """
    return topology.scale_up.bandwidth(topology.domain)


def group_bandwidth(machine: TopologyInput, ranks: int, on_chips: int | None = None) -> float:
    """Bytes/s that each of a group of devices can send to the others of it, per direction.

    Model: behind switches and in a PCIe host a device has all its links whatever the group; in a
    mesh only those to the chips of the group. Devices of a package share its links; a group inside
    one package has the link between its devices. Groups fill packages one after another, unless it
    is said ``on_chips`` how many they stand. Limits: in groups of several packages the link inside
    a package is not used beside the others.
    """
    links, devices = machine.topology.scale_up, machine.chip.devices_per_chip
    chips = -(-ranks // devices) if on_chips is None else on_chips
    if ranks > 1 and chips == 1 and links.package_bandwidth is not None:
        return links.package_bandwidth
    return links.bandwidth(max(2, chips)) / devices


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
