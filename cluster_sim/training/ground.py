"""What the parts of a training step use of a machine: bytes on its links, SMs and memory of its
devices, by stage.

Model: collectives load the links of all groups of their axis on a stage at once, sends those of
their routes. Resources are numbered as links of the machine, then SM time and memory of each
device. Where no link can be fuller than the devices' own, those of one domain are enough: each
stage has its own copies of them (``Own``).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from cluster_sim.collectives.activity import Call, loads, own_loads
from cluster_sim.collectives.network import Axis
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.classes import Floats, Ints, Machine
from cluster_sim.machine.routes import link_load
from cluster_sim.machine.scale_up import Switched
from cluster_sim.perf.replica_phases import Resources
from cluster_sim.perf.train_stage import Called
from cluster_sim.training.priced import Priced
from cluster_sim.training.ranks import Columns, Ranks


class Use(NamedTuple):
    """What is used, of which each amount is given for one unit: seconds of SM time or bytes of
    memory of each device of a stage (``there`` is the same stage), bytes of message of a collective
    on it, or of what each device sends to that of another stage. ``column``: of these replicas, -1
    for all.
    """

    what: str
    here: int
    there: int
    column: int
    operation: str = ""
    axis: Axis | None = None
    algorithm: str = ""


def compute(what: str, stage: int, column: int) -> Use:
    """SM time (``sm``) or bytes of memory (``hbm``) of the devices of a stage."""
    return Use(what, stage, stage, column)


def called(call: Called, stage: int, column: int) -> Use:
    """A collective on a stage."""
    return Use("collective", stage, stage, column, call.operation, call.axis, call.algorithm)


def sent(here: int, there: int, column: int) -> Use:
    """From each device of a stage to that of another."""
    return Use("send", here, there, column)


Load = tuple[Ints, Floats]  # resources, and amounts on them for one unit


class Ground(Protocol):
    """Resources by number, and what uses put on them."""

    @property
    def capacity(self) -> Floats:
        """What each resource carries per second."""

    def load(self, use: Use) -> Load:
        """The amounts for one unit."""


# Not slotted: what follows is computed once.
@dataclass(frozen=True)
class Whole:
    """All of the machine; ``columns`` are replicas that are played together."""

    priced: Priced
    ranks: Ranks
    columns: Columns

    @cached_property
    def resources(self) -> Resources:
        """The numbers and names of all."""
        case = self.priced.job.case
        rate = hbm_bytes_per_s(case.kernels.machine)
        return Resources(machine=case.network.machine, hbm_bytes_per_s=rate)

    @cached_property
    def capacity(self) -> Floats:
        """What each resource carries per second."""
        machine = self.resources.machine
        own = np.tile([1.0, self.resources.hbm_bytes_per_s], machine.devices)
        return np.concatenate([machine.link_bandwidth, own])

    def load(self, use: Use) -> Load:
        """The amounts for one unit."""
        replicas = None if use.column < 0 else self.columns[use.column]
        machine = self.resources.machine
        if use.what in ("sm", "hbm"):
            devices = self.ranks.devices(use.here, replicas)
            return machine.n_links + 2 * devices + (use.what == "hbm"), np.ones(len(devices))
        if use.what == "send":
            source, target = (self.ranks.devices(s, replicas) for s in (use.here, use.there))
            total = link_load(machine, source, target, np.ones(len(source)))
        else:
            assert use.axis is not None
            rows = self.ranks.rows(use.here, use.axis, replicas)
            group = self.priced.job.case.network.group_of(rows, use.axis)
            total = np.zeros(machine.n_links)
            for part in loads(group, Call(operation=use.operation), use.algorithm):
                total[part.links] += part.size
            if self.ranks.twice(use.axis):  # the other stage does the other half
                total /= 2
        used = np.flatnonzero(total > 0)
        return used, total[used]


@dataclass(frozen=True)
class Own:
    """What the devices of one domain have for themselves: links to their switches, NICs with the
    way to them, and one's SMs and memory. Each stage has a copy; the first one shows the amounts.

    Exact where stages are whole domains, all alike, and the network behind NICs is wide enough.
    """

    priced: Priced
    ranks: Ranks

    @cached_property
    def _machine(self) -> Machine:
        return self.priced.job.case.network.machine

    @cached_property
    def _devices(self) -> Ints:
        devices, domain = self.ranks.devices(0), self._machine.devices_per_domain
        mine: Ints = devices[devices // domain == devices[0] // domain]
        return mine

    @cached_property
    def _links(self) -> Ints:
        """The links of these devices, in order."""
        shape, devices = self._machine.shape, self._devices
        hops = [(hop, devices) for hop in shape.scale_up.links]
        if shape.nics is not None and shape.scale_out is not None:
            nics = np.unique(devices // shape.nics.devices_per_nic)
            hops += [(shape.nics.attach, devices), (shape.scale_out.nics, nics)]
            if shape.nics.behind is not None:
                hops.append((shape.nics.behind, nics))
        ways = [way for hop, ends in hops for way in (hop.forward(ends), hop.back(ends))]
        found: Ints = np.sort(np.concatenate(ways))
        return found

    @cached_property
    def capacity(self) -> Floats:
        """What each resource carries per second, stage by stage."""
        case = self.priced.job.case
        rate = hbm_bytes_per_s(case.kernels.machine)
        one = [*self._machine.link_bandwidth[self._links], 1.0, rate]
        return np.tile(one, case.plan.pp)

    def load(self, use: Use) -> Load:
        """The amounts for one unit."""
        count = len(self._links)
        if use.what in ("sm", "hbm"):
            at = use.here * (count + 2) + count + (use.what == "hbm")
            return np.array([at]), np.ones(1)
        if use.what == "send":
            parts = list(zip((use.here, use.there), self._sent, strict=True))
        else:
            assert use.axis is not None
            own = self._called(use.operation, use.axis, use.algorithm)
            parts = [(use.here, own)]
            if self.ranks.twice(use.axis):  # each of both stages does half
                parts = [(use.here, own / 2), (self.priced.job.plan.pp - 1 - use.here, own / 2)]
        links = [stage * (count + 2) + np.flatnonzero(amounts) for stage, amounts in parts]
        return np.concatenate(links), np.concatenate([one[one > 0] for _, one in parts])

    @cached_property
    def _sent(self) -> tuple[Floats, Floats]:
        """On the links of the sending stage, and on those of the receiving one."""
        mine = np.isin(self.ranks.devices(0), self._devices)
        here, there = self.ranks.devices(0)[mine], self.ranks.devices(1)[mine]
        size = np.ones(len(here))
        out = link_load(self._machine, here, there, size)[self._links]
        return out, link_load(self._machine, there, here, size)[self._links]

    def _called(self, operation: str, axis: Axis, algorithm: str) -> Floats:
        known = self.priced.job.case.network.known
        key = ("own", operation, axis, algorithm, self.ranks.twice(axis))
        if key not in known:
            rows = self.ranks.rows(0, axis)
            group = self.priced.job.case.network.group_of(rows, axis)
            domain = int(self._devices[0]) // self._machine.devices_per_domain
            found = own_loads(group, Call(operation=operation), algorithm, domain)
            known[key] = np.array([found.get(link, 0.0) for link in self._links.tolist()])
        return known[key]  # type: ignore[return-value]


def ground_of(priced: Priced, axes: Iterable[Axis]) -> Ground:
    """The smallest ground that shows what the whole machine does, where collectives run on these
    axes.
    """
    job, ranks = priced.job, Ranks(priced.job)
    case, network = job.case, job.case.network
    stage = case.groups.strides["pp"]
    wide = all(network.free(axis) for axis in axes) and job.machine.chip.devices_per_chip == 1
    if wide and not job.plan.placement and not stage % network.domain:
        up = network.machine.shape.scale_up
        if isinstance(up, Switched) and not up.uplinks and not up.across:
            return Own(priced, ranks)
    return Whole(priced, ranks, (tuple(range(job.dp)),))
