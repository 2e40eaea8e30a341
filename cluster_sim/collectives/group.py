"""A group of ranks on a concrete machine: who shares a domain, and how a library sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.shape import Shape
from cluster_sim.errors import DoesNotFitError
from cluster_sim.machine.board import nic_bandwidth
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.host import group_bandwidth
from cluster_sim.specs.collective_fits import CollectiveFits
from cluster_sim.specs.inputs import TopologyInput


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Ranks on devices of a machine. ``members`` are the devices of each domain in rank order;
    ``fits`` the constants of the chip.
    """

    machine: Machine
    devices: Ints
    members: tuple[Ints, ...]
    shape: Shape
    fits: CollectiveFits


def make_group(
    topology: TopologyInput,
    devices: Sequence[int] | Ints,
    *,
    machine: Machine | None = None,
    sharp: bool = False,
) -> Group:
    """The group of ranks on ``devices`` (one rank each, in this order); ``sharp``: the switches of
    the fabric reduce.

    Raises DoesNotFitError for devices that are not there or are named twice, SpecError when the
    chip has no constants of collectives.
    """
    machine = machine or build_machine(topology)
    ranks = np.asarray(devices, dtype=np.int64)
    if not len(ranks) or ranks.min() < 0 or ranks.max() >= machine.devices:
        raise DoesNotFitError(
            f"a group of {len(ranks)} ranks on devices up to {int(ranks.max(initial=0))} does not "
            f"fit on {machine.name}, which has {machine.devices}; take fewer ranks"
        )
    if len(np.unique(ranks)) < len(ranks):
        raise DoesNotFitError("two ranks on one device; name each device once")
    domain = ranks // machine.devices_per_domain
    order = np.argsort(domain, kind="stable")
    _, starts = np.unique(domain[order], return_index=True)
    members = tuple(np.split(ranks[order], starts[1:]))
    return Group(
        machine=machine,
        devices=ranks,
        members=members,
        shape=_shape(topology, machine, members, sharp),
        fits=topology.constants,
    )


def _shape(
    topology: TopologyInput, machine: Machine, members: tuple[Ints, ...], sharp: bool
) -> Shape:
    scale_up, per_domain = topology.topology.scale_up, max(len(part) for part in members)
    packages = np.concatenate(members) // machine.devices_per_chip
    fabric = topology.topology.fabric
    nic = 0.0
    if fabric is not None and topology.topology.board is not None:
        board = topology.topology.board
        share = board.chips_per_nic * machine.devices_per_chip
        nic = nic_bandwidth(topology.topology, topology.chip) / share
    return Shape(
        ranks=sum(len(part) for part in members),
        domains=len(members),
        hosts=len(np.unique(np.concatenate(members) // machine.devices_per_host)),
        link_bytes_per_s=group_bandwidth(topology, per_domain),
        nic_bytes_per_s=nic,
        in_switch=scale_up.in_switch_reduction,
        in_network=sharp,
        mesh=scale_up.kind == "mesh",
        pcie=scale_up.kind == "host",
        technology=fabric.technology if fabric is not None else "",
        architecture=topology.chip.architecture,
        ranks_per_package=int(np.unique(packages, return_counts=True)[1].max()),
    )
