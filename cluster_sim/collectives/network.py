"""Collectives along the axes of a plan: all groups of an axis at once, on a machine's links."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cluster_sim.collectives.activity import Call, alone
from cluster_sim.collectives.group import Group, groups_at_once
from cluster_sim.collectives.ranks import shape_of, widest
from cluster_sim.collectives.shape import Shape
from cluster_sim.collectives.time import collective
from cluster_sim.machine.board import rank_nic_bandwidth
from cluster_sim.machine.build import build_machine
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.host import domain_devices
from cluster_sim.machine.scale_out import Tree
from cluster_sim.specs.inputs import TopologyInput


class Timing(NamedTuple):
    """Seconds of a collective alone, its provenance, the sigma that distance from the timings of
    its constants adds, and the algorithm.
    """

    seconds: float
    provenance: str
    far: float
    algorithm: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """Equal groups of ranks, ``stride`` apart, that run their collectives at the same time;
    ``shape`` is that of the group in most domains.
    """

    shape: Shape
    stride: int

    @property
    def ranks(self) -> int:
        """Ranks of a group."""
        return self.shape.ranks

    @property
    def domains(self) -> int:
        """Scale-up domains that a group stands in."""
        return self.shape.domains


# Not slotted: the machine is built when first asked for.
@dataclass(frozen=True)
class Network:
    """What joins the devices of a machine, and what has been priced on it already. ``devices`` are
    those of each rank; else rank r is device r.
    """

    topology: TopologyInput
    devices: tuple[int, ...] = ()
    known: dict[object, object] = field(default_factory=dict, compare=False, repr=False)
    priced: dict[tuple[str, Axis, float], Timing] = field(
        default_factory=dict, compare=False, repr=False
    )

    @property
    def domain(self) -> int:
        """Devices of a scale-up domain."""
        return domain_devices(self.topology)

    @property
    def nic_bytes_per_s(self) -> float:
        """Bytes/s of a device out of its domain."""
        return rank_nic_bandwidth(self.topology.topology, self.topology.chip)

    @property
    def machine(self) -> Machine:
        """The machine with its links."""
        if "machine" not in self.known:
            self.known["machine"] = build_machine(self.topology)
        return self.known["machine"]  # type: ignore[return-value]

    def placed(self, devices: tuple[int, ...]) -> Network:
        """The same with rank r on ``devices[r]``."""
        return Network(self.topology, devices, {"machine": self.machine})

    def axis(self, ranks: int, stride: int) -> Axis:
        """Groups of ``ranks`` ranks that lie ``stride`` apart, over all of the machine."""
        key = ("axis", ranks, stride)
        if key not in self.known:
            row = widest(self._rows(ranks, stride), self.domain)
            over = row[0] // self.domain != row[-1] // self.domain or self.devices
            there = over and int(row.max()) < self.count
            shape = shape_of(self.topology, row, machine=self.machine if there else None)
            self.known[key] = Axis(shape=shape, stride=stride)
        return self.known[key]  # type: ignore[return-value]

    @property
    def count(self) -> int:
        """Devices of the machine."""
        return self.topology.topology.chips * self.topology.chip.devices_per_chip

    def _rows(self, ranks: int, stride: int) -> Ints:
        """The devices of all groups, a row each."""
        places = np.array(self.devices or range(self.count), dtype=np.int64)
        block = ranks * stride
        if block > len(places):  # more than there is: priced as if the machine went on
            return np.arange(ranks, dtype=np.int64)[None] * stride
        blocks = places[: len(places) // block * block].reshape(-1, ranks, stride)
        rows: Ints = blocks.transpose(0, 2, 1).reshape(-1, ranks)
        if self.devices or block > self.domain:
            return rows
        # What fits into a domain is laid into one, whatever is left over there.
        kept: Ints = rows[rows[:, 0] // self.domain == rows[:, -1] // self.domain]
        return kept

    def seconds(self, operation: str, axis: Axis, message_bytes: float) -> float:
        """Seconds of a collective of all groups of an axis, nobody else there; the message follows
        nccl-tests.
        """
        if axis.ranks == 1 or message_bytes <= 0:
            return 0.0
        return self._timing_of(operation, axis, message_bytes).seconds

    def algorithm(self, operation: str, axis: Axis, message_bytes: float) -> str:
        """What the library does for such a collective."""
        return self._timing_of(operation, axis, message_bytes).algorithm

    def _timing_of(self, operation: str, axis: Axis, message_bytes: float) -> Timing:
        key = (operation, axis, message_bytes)
        if key not in self.priced:
            message = np.array([message_bytes])
            if self.free(axis):
                found = collective(self.topology.constants, axis.shape, operation, message)
            else:
                found = alone(self._group(axis), Call(operation=operation), message)
            self.priced[key] = Timing(
                float(found.seconds[0]), found.word(0), found.reach(0), found.algorithm[0]
            )
        return self.priced[key]

    def group_of(self, rows: Ints, axis: Axis) -> Group:
        """Some groups of an axis, a row of devices each."""
        group = groups_at_once(self.topology, rows, machine=self.machine)
        return replace(group, shape=axis.shape)

    def _group(self, axis: Axis) -> Group:
        """All groups of an axis, as a library sees the widest."""
        key = ("group", axis)
        if key not in self.known:
            rows = self._rows(min(axis.ranks, self.machine.devices // axis.stride), axis.stride)
            self.known[key] = self.group_of(rows, axis)
        return self.known[key]  # type: ignore[return-value]

    def free(self, axis: Axis) -> bool:
        """Whether no link can be fuller than the ranks' own."""
        machine, inner = self.topology.topology, self.topology.topology.scale_up.inner
        if machine.faults or inner is not None or machine.scale_up.kind == "torus":
            return False
        if axis.domains == 1:
            return True
        if "free" not in self.known:
            self.known["free"] = unblocked(self.machine)
        return bool(self.known["free"])

    def timing(self, axes: Iterable[Axis]) -> Timing | None:
        """The longest of all collectives that were priced on some groups; None if there is none."""
        wanted = {axis for axis in axes if axis.ranks > 1}
        found = [timing for (_, axis, _), timing in self.priced.items() if axis in wanted]
        return max(found, key=lambda timing: timing.seconds, default=None)


def unblocked(machine: Machine) -> bool:
    """Whether the fabric carries whatever the NICs send, so that no link of it can be the fullest.

    Model: routes that adapt spread flows evenly over equal cables; where each tier has at least as
    much bandwidth up as down, and every switch meets all above it alike, no traffic that NICs can
    send fills a link more than its NICs.
    """
    tree = machine.shape.scale_out if machine.shape is not None else None
    if not isinstance(tree, Tree) or machine.routing != "adaptive" or machine.static:
        return False
    nics, counts = machine.shape.nics, tree.counts
    wide = bool(
        nics.attach.bandwidth_bytes_per_s * nics.devices_per_nic >= nics.bandwidth_bytes_per_s
    )
    if not wide or tree.up is None:
        return wide
    up = counts.uplinks * tree.up.bandwidth_bytes_per_s
    enough = up >= counts.down * tree.nics.bandwidth_bytes_per_s
    alike = counts.uplinks % counts.spines == 0
    if tree.core is not None:
        over = counts.spines * counts.core_uplinks * tree.core.bandwidth_bytes_per_s
        enough = enough and over >= counts.per_group * up
        alike = alike and counts.core_uplinks % counts.cores == 0
    return bool(enough and alike)
