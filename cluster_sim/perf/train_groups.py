"""The groups of ranks of a training job, as a communication library sees them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np

from cluster_sim.collectives.shape import Shape, bus_factor
from cluster_sim.collectives.time import collective
from cluster_sim.machine.board import nic_bandwidth
from cluster_sim.machine.host import domain_devices, group_bandwidth
from cluster_sim.specs.collective_fits import CollectiveFits
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.training import TrainingPlan


class Timing(NamedTuple):
    """Seconds of a collective alone, its provenance, and the sigma that distance from the timings
    of its constants adds.
    """

    seconds: float
    provenance: str
    far: float


@dataclass(frozen=True, slots=True)
class Network:
    """What a library knows of a machine, and what it has priced already."""

    machine: TopologyInput
    fits: CollectiveFits
    domain: int
    nic_bytes_per_s: float
    devices: tuple[int, ...] = ()
    priced: dict[tuple[str, Shape, float], Timing] = field(
        default_factory=dict, compare=False, repr=False
    )

    def seconds(self, operation: str, shape: Shape, message_bytes: float) -> float:
        """Seconds of a collective alone; the message follows nccl-tests."""
        if shape.ranks == 1 or message_bytes <= 0:
            return 0.0
        key = (operation, shape, message_bytes)
        if key not in self.priced:
            priced = collective(self.fits, shape, operation, np.array([message_bytes]))
            self.priced[key] = Timing(float(priced.seconds[0]), priced.word(0), priced.reach(0))
        return self.priced[key].seconds

    def timing(self, shapes: Iterable[Shape]) -> Timing | None:
        """The longest of all collectives that were priced on some groups; None if there is none."""
        wanted = {shape for shape in shapes if shape.ranks > 1}
        found = [timing for (_, shape, _), timing in self.priced.items() if shape in wanted]
        return max(found, key=lambda timing: timing.seconds, default=None)

    def moved(self, operation: str, shape: Shape, message_bytes: float) -> tuple[float, float]:
        """Bytes that a rank sends into its domain and over its NIC.

        Model: the bus factor of the operation over the ranks of a domain, and over the domains for
        the part of the message that each of them passes on.
        """
        inside, domains = shape.per_domain, shape.domains
        link = bus_factor(operation, inside) * message_bytes if inside > 1 else 0.0
        if domains == 1:
            return link, 0.0
        if operation in ("all_to_all", "send_recv"):
            out = message_bytes * (1 - inside / shape.ranks)
            return message_bytes * (inside - 1) / shape.ranks, out
        return link, bus_factor(operation, domains) * message_bytes / inside

    def placed(self, devices: tuple[int, ...]) -> Network:
        """The same with rank r on ``devices[r]``."""
        return replace(self, devices=devices, priced=self.priced)

    def shape(self, ranks: int, stride: int) -> Shape:
        """``ranks`` devices that lie ``stride`` apart, in the domains that they then stand in; with
        a placement, of the group that stands in most domains.
        """
        machine, domain = self.machine, self.domain
        inside = max(1, domain // stride)
        domains = 1 if ranks <= inside else math.ceil(ranks / inside)
        if self.devices:
            domains = _most_domains(self.devices, domain, ranks, stride)
            inside = math.ceil(ranks / domains)
        scale_up, fabric = machine.topology.scale_up, machine.topology.fabric
        per_host = machine.topology.chips_per_host or machine.topology.chips
        in_host = max(1, per_host * machine.chip.devices_per_chip // stride)
        return Shape(
            ranks=ranks,
            domains=domains,
            hosts=math.ceil(ranks / in_host),
            link_bytes_per_s=group_bandwidth(machine, min(ranks, inside)),
            nic_bytes_per_s=self.nic_bytes_per_s,
            in_switch=scale_up.in_switch_reduction,
            mesh=scale_up.kind == "mesh",
            pcie=scale_up.kind == "host",
            technology=fabric.technology if fabric is not None else "",
            architecture=machine.chip.architecture,
            ranks_per_package=machine.chip.devices_per_chip if stride == 1 else 1,
        )


def _most_domains(devices: tuple[int, ...], domain: int, ranks: int, stride: int) -> int:
    """Domains of the group of ``ranks`` ranks, ``stride`` apart, that stands in most of them."""
    homes = np.array(devices, dtype=np.int64) // domain
    block = ranks * stride
    rows = homes[: len(homes) // block * block].reshape(-1, ranks, stride)
    groups = np.sort(rows.transpose(0, 2, 1).reshape(-1, ranks), axis=1)
    return int((1 + (np.diff(groups, axis=1) != 0).sum(axis=1)).max())


def network_of(machine: TopologyInput) -> Network:
    """The network of a machine; raises SpecError when its chip has no constants of collectives."""
    topology, nic = machine.topology, 0.0
    if topology.fabric is not None and topology.board is not None:
        share = topology.board.chips_per_nic * machine.chip.devices_per_chip
        nic = nic_bandwidth(topology, machine.chip) / share
    return Network(machine, machine.constants, domain_devices(machine), nic)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """One group of each kind. ``sharded``: the ranks that share optimizer states (dp x cp),
    ``outer`` the copies of an HSDP group; ``expert_sharded`` and ``expert_outer`` those of experts.
    """

    tp: Shape
    cp: Shape
    ep: Shape
    etp: Shape
    sharded: Shape
    outer: Shape
    expert_sharded: Shape
    expert_outer: Shape
    strides: dict[str, int]
    pp: int
    devices: tuple[int, ...]  # of a placement; else rank r is device r

    def stages_meet(self, domain: int, here: int, there: int) -> bool:
        """Whether every rank of a pipeline stage has its partner of another in its own domain."""
        stride = self.strides["pp"]
        first, second = here * stride, there * stride
        if not self.devices and (stride % domain == 0 or domain % stride == 0):
            return first // domain == second // domain
        place = self.devices or range(stride * self.pp)
        return all(
            place[block + first + k] // domain == place[block + second + k] // domain
            for block in range(0, len(place), stride * self.pp)
            for k in range(stride)
        )


def groups_of(network: Network, plan: TrainingPlan, dp: int) -> Groups:
    """The groups of a plan whose ranks are numbered along ``plan.order``, or stand where
    ``plan.placement`` puts them.

    Model: experts lie on ``ep x etp`` consecutive ranks of a stage, the slices of an expert side by
    side; gradients of experts are summed over the rest of the stage. DualPipe has every part of the
    model on two stages, which share its states and sum its gradients.
    """
    degrees = {"tp": plan.tp, "cp": plan.cp, "dp": dp, "pp": plan.pp}
    strides: dict[str, int] = {}
    stride = 1
    for axis in plan.order:
        strides[axis], stride = stride, stride * degrees[axis]
    stage = plan.tp * plan.cp * dp
    first = min(strides[axis] for axis in ("tp", "cp", "dp"))
    shard = min(plan.shard or dp * plan.cp, dp * plan.cp)
    if plan.placement:
        network = network.placed(plan.placement)
    between = strides["dp"] if plan.cp == 1 else min(strides["cp"], strides["dp"])
    sharded = network.shape(shard, between)
    outer = network.shape(dp * plan.cp // shard, between * shard)
    parts = plan.ep * plan.etp
    copies = max(1, stage // parts)  # of an expert
    expert_shard = math.gcd(copies, max(1, shard * plan.tp // parts))
    expert_sharded = network.shape(expert_shard, first * parts)
    expert_outer = network.shape(copies // expert_shard, first * parts * expert_shard)
    if plan.schedule == "dualpipe":
        apart = stage * plan.pp > network.domain
        if plan.shard:
            outer = _doubled(outer, apart=apart)
            expert_outer = _doubled(expert_outer, apart=apart)
        else:
            sharded = _doubled(sharded, apart=apart)
            expert_sharded = _doubled(expert_sharded, apart=apart)
    return Groups(
        tp=network.shape(plan.tp, strides["tp"]),
        cp=network.shape(plan.cp, strides["cp"]),
        ep=network.shape(plan.ep, first * plan.etp),
        etp=network.shape(plan.etp, first),
        sharded=sharded,
        outer=outer,
        expert_sharded=expert_sharded,
        expert_outer=expert_outer,
        strides=strides,
        pp=plan.pp,
        devices=plan.placement,
    )


def _doubled(shape: Shape, *, apart: bool) -> Shape:
    """A group with that of the other stage that holds the same parameters; ``apart``: in domains of
    its own.
    """
    domains = shape.domains * (2 if apart else 1)
    return replace(shape, ranks=2 * shape.ranks, domains=domains, hosts=2 * shape.hosts)
