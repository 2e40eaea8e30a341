"""Which device does what in a training job: the devices of each stage and replica, and the groups
of ranks that call a collective at the same time.

Model: the ranks of a stage in order are cut into groups as the axis says, with strides inside the
stage. Replicas that a collective of a pass joins (experts spread over several, sharded parameters)
go in lock-step: a unit. Limits: gradients and parameters of all replicas are reduced and gathered
in lock-step, on a stage.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from cluster_sim.collectives.network import Axis
from cluster_sim.machine.classes import Ints
from cluster_sim.training.job import Job

Columns = tuple[tuple[int, ...], ...]  # replicas that are played together


# Not slotted: what follows from the job is computed once.
@dataclass(frozen=True)
class Ranks:
    """The ranks of a job on their devices."""

    job: Job

    @cached_property
    def _places(self) -> Ints:
        """Device by stage and place in it, in order of ranks."""
        plan, stride = self.job.plan, self.job.case.groups.strides["pp"]
        ranks = np.arange(self.job.devices, dtype=np.int64)
        devices = np.array(plan.placement, dtype=np.int64) if plan.placement else ranks
        stage = ranks // stride % plan.pp
        return np.stack([devices[stage == number] for number in range(plan.pp)])

    @cached_property
    def _strides(self) -> dict[str, int]:
        """Strides inside a stage."""
        plan, found, stride = self.job.plan, dict[str, int](), 1
        degrees = {"tp": plan.tp, "cp": plan.cp, "dp": self.job.dp}
        for name in plan.order:
            if name != "pp":
                found[name], stride = stride, stride * degrees[name]
        return found

    @cached_property
    def replica(self) -> Ints:
        """The replica of each place in a stage."""
        places: Ints = np.arange(self._places.shape[1], dtype=np.int64)
        return places // self._strides["dp"] % self.job.dp

    @cached_property
    def _stride_of(self) -> dict[Axis, int]:
        plan, groups, strides = self.job.plan, self.job.case.groups, self._strides
        between = strides["dp"] if plan.cp == 1 else min(strides["cp"], strides["dp"])
        parts, halves = plan.ep * plan.etp, 2 if plan.schedule == "dualpipe" else 1
        shard = groups.sharded.ranks // (1 if plan.shard else halves)
        expert_shard = groups.expert_sharded.ranks // (1 if plan.shard else halves)
        return {
            groups.expert_outer: parts * expert_shard,
            groups.expert_sharded: parts,
            groups.outer: between * shard,
            groups.sharded: between,
            groups.etp: 1,
            groups.ep: plan.etp,
            groups.cp: strides["cp"],
            groups.tp: strides["tp"],
        }

    def devices(self, stage: int, replicas: Sequence[int] | None = None) -> Ints:
        """The devices of a stage in order of ranks, of some replicas if given."""
        mine: Ints = self._places[stage]
        return mine if replicas is None else mine[np.isin(self.replica, replicas)]

    def twice(self, axis: Axis) -> bool:
        """Whether groups of an axis span the two stages that hold the same parameters."""
        plan, groups = self.job.plan, self.job.case.groups
        if plan.schedule != "dualpipe":
            return False
        wide = (groups.outer, groups.expert_outer)
        return axis in (wide if plan.shard else (groups.sharded, groups.expert_sharded))

    def rows(self, stage: int, axis: Axis, replicas: Sequence[int] | None = None) -> Ints:
        """The devices of all groups of an axis on a stage, a row each; of some replicas if given.

        What fits into a domain is laid into one, whatever is left over there.
        """
        places = self._rows(axis)
        if replicas is not None:
            places = places[np.isin(self.replica[places[:, 0]], replicas)]
        rows: Ints = self._places[stage][places]
        if self.twice(axis):
            rows = np.concatenate([rows, self._places[-1 - stage][places]], axis=1)
        domain = self.job.case.network.domain
        inside = rows[:, 0] // domain == rows[:, -1] // domain
        if axis.domains == 1 and inside.any():
            rows = rows[inside]
        return rows

    def _rows(self, axis: Axis) -> Ints:
        """Places in a stage of the groups of an axis."""
        ranks, stride = axis.ranks // (2 if self.twice(axis) else 1), self._stride_of[axis]
        count = len(self.replica)
        places = np.arange(count // (ranks * stride) * ranks * stride, dtype=np.int64)
        rows: Ints = places.reshape(-1, ranks, stride).transpose(0, 2, 1).reshape(-1, ranks)
        return rows

    @cached_property
    def units(self) -> Columns:
        """Replicas that go in lock-step."""
        plan, groups = self.job.plan, self.job.case.groups
        inside = [groups.tp, groups.cp, groups.ep, groups.etp]
        if plan.zero >= 3:
            inside += [groups.sharded, groups.expert_sharded]
        head = np.arange(self.job.dp)
        for axis in inside:
            if axis.ranks == 1:
                continue
            for row in np.unique(np.sort(self.replica[self._rows(axis)], axis=1), axis=0):
                joined = np.unique(head[row])
                head[np.isin(head, joined)] = joined[0]
        return tuple(tuple(np.flatnonzero(head == one).tolist()) for one in np.unique(head))
