"""The groups of ranks of a training job, as a communication library sees them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from cluster_sim.collectives.network import Axis, Network
from cluster_sim.specs.training import TrainingPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """One group of each kind. ``sharded``: the ranks that share optimizer states (dp x cp),
    ``outer`` the copies of an HSDP group; ``expert_sharded`` and ``expert_outer`` those of experts.
    """

    tp: Axis
    cp: Axis
    ep: Axis
    etp: Axis
    sharded: Axis
    outer: Axis
    expert_sharded: Axis
    expert_outer: Axis
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
    sharded = network.axis(shard, between)
    outer = network.axis(dp * plan.cp // shard, between * shard)
    parts = plan.ep * plan.etp
    copies = max(1, stage // parts)  # of an expert
    expert_shard = math.gcd(copies, max(1, shard * plan.tp // parts))
    expert_sharded = network.axis(expert_shard, first * parts)
    expert_outer = network.axis(copies // expert_shard, first * parts * expert_shard)
    if plan.schedule == "dualpipe":
        apart = stage * plan.pp > network.domain
        if plan.shard:
            outer = _doubled(outer, apart=apart)
            expert_outer = _doubled(expert_outer, apart=apart)
        else:
            sharded = _doubled(sharded, apart=apart)
            expert_sharded = _doubled(expert_sharded, apart=apart)
    return Groups(
        tp=network.axis(plan.tp, strides["tp"]),
        cp=network.axis(plan.cp, strides["cp"]),
        ep=network.axis(plan.ep, first * plan.etp),
        etp=network.axis(plan.etp, first),
        sharded=sharded,
        outer=outer,
        expert_sharded=expert_sharded,
        expert_outer=expert_outer,
        strides=strides,
        pp=plan.pp,
        devices=plan.placement,
    )


def _doubled(axis: Axis, *, apart: bool) -> Axis:
    """Groups with those of the other stage that holds the same parameters; ``apart``: in domains of
    their own.
    """
    shape = axis.shape
    domains = shape.domains * (2 if apart else 1)
    return replace(
        axis,
        shape=replace(shape, ranks=2 * shape.ranks, domains=domains, hosts=2 * shape.hosts),
    )
