"""A training step on a machine of named resources: how busy each was, and who else is there.

Model: replicas that do the same are one column, resources that are loaded alike one resource. As
soon as a process names a resource, that stands for itself, and the replicas whose passes use it are
columns of their own; what runs goes on with what is left of it. Limits: processes see the passes of
the step, not the host and the stragglers that come on top; gradients are reduced and parameters
gathered by all replicas of a stage in lock-step; the hidden part of collectives that overlap with
kernels puts no bytes on links.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from simpy.core import Environment

from cluster_sim.engine.cluster import Cluster, Process, Use, start_processes
from cluster_sim.engine.tasks import Player
from cluster_sim.errors import ClusterSimError
from cluster_sim.machine.classes import Floats, Ints
from cluster_sim.training.events import ALTERNATIONS, PlayedStep, played
from cluster_sim.training.ground import Whole
from cluster_sim.training.priced import Priced, schedule_of
from cluster_sim.training.ranks import Columns, Ranks
from cluster_sim.training.step_graph import StepGraph, step_graph
from cluster_sim.training.step_loads import Folded, column_of, fold


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A step that was played on a machine: by column its replicas and what happened, by number of
    the resource its name, busy seconds and what it carried; ``asked`` are those that processes
    named.
    """

    columns: Columns
    steps: tuple[PlayedStep, ...]
    names: tuple[str, ...]
    busy_s: Floats
    carried: Floats
    asked: tuple[int, ...]

    def use(self) -> dict[str, Use]:
        """Every resource of the machine by name."""
        pairs = zip(self.names, self.busy_s.tolist(), self.carried.tolist(), strict=True)
        return {name: Use(busy_s, carried) for name, busy_s, carried in pairs}


@dataclass(frozen=True, slots=True)
class Unseen:
    """The machine of a step that had it to itself: the use of its resources is found when asked."""

    priced: Priced

    def use(self) -> dict[str, Use]:
        """Every resource of the machine by name."""
        return seen(self.priced).use()


def seen(priced: Priced, processes: Sequence[Process] = ()) -> Seen:
    """Play a whole step on all of the machine, beside processes.

    Raises ClusterSimError where the step cannot end, as something that it needs stays down.
    """
    return _Shared(priced).play(processes)


class _Shared:
    """A step that is played on a machine of named resources."""

    def __init__(self, priced: Priced) -> None:
        self.priced, self.plan, self.ranks = priced, schedule_of(priced.job), Ranks(priced.job)
        self.columns: Columns = (tuple(range(priced.job.dp)),)
        self.asked: list[int] = []
        whole = Whole(priced, self.ranks, self.columns)
        self.cluster = Cluster(
            Environment(),
            whole.resources.capacity(),
            alternations=ALTERNATIONS,
            asked=self._ask,
        )
        self.whole_capacity = whole.capacity
        self.folded, self.step = self._lay_out()
        self.over = self.cluster.env.event()
        self.player = Player(self.cluster.engine, self.step.graph, self._watch)
        count = len(self.whole_capacity)
        # Up to the last change of columns: of each resource, and what the engine had counted.
        self.busy_s, self.carried = np.zeros(count), np.zeros(count)
        self.counted = np.zeros((2, count))

    def play(self, processes: Sequence[Process]) -> Seen:
        """Play to the end of the step."""
        start_processes(self.cluster, processes)
        self.player.begin()
        try:
            self.cluster.env.run(until=self.over)
        except RuntimeError:  # SimPy's, without any event left
            if self.over.triggered:
                raise
            raise ClusterSimError(
                f"the training step does not end: {self.player.stuck()}; a process left something "
                "down that it needs"
            ) from None
        self._count()
        steps = zip(self.folded.works, range(len(self.columns)), strict=True)
        return Seen(
            columns=self.columns,
            steps=tuple(played(work, self.step, self.player, column) for work, column in steps),
            names=self.cluster.names,
            busy_s=self.busy_s,
            carried=self.carried,
            asked=tuple(self.asked),
        )

    def _watch(self, left: int) -> None:
        if not left:
            self.over.succeed()

    def _lay_out(self) -> tuple[Folded, StepGraph]:
        whole = Whole(self.priced, self.ranks, self.columns)
        parts = [
            column_of(self.priced, self.plan, column, fine=True)
            for column in range(len(self.columns))
        ]
        folded = fold(self.priced, self.plan, whole, parts, self.asked)
        return folded, step_graph(folded.works, instants=False)

    def _ask(self, resource: int) -> None:
        """A process names a resource: from now on it stands for itself."""
        if resource in self.asked:
            return
        self._count()
        used = self.folded.shown[resource] >= 0
        self.asked.append(resource)
        if not used:
            return
        before, olds = self.step, list[int]()
        columns: list[tuple[int, ...]] = []
        for number, replicas in enumerate(self.columns):
            parts = self._parted(number, replicas, resource)
            columns += parts
            olds += [number] * len(parts)
        self.columns = tuple(columns)
        self.folded, self.step = self._lay_out()
        self.player.replace(self.step.graph, self.step.same(before, olds))

    def _parted(
        self, column: int, replicas: tuple[int, ...], resource: int
    ) -> list[tuple[int, ...]]:
        """The replicas of a column by how their passes use a resource; those without together."""
        units = [unit for unit in self.ranks.units if unit[0] in replicas]
        uses = [
            use
            for use, (resources, _) in self.folded.loads.items()
            if use.column == column and resource in resources
        ]
        if len(units) == 1 or not uses:
            return [replicas]
        whole = Whole(self.priced, self.ranks, tuple(units))
        kinds: dict[tuple[float, ...], list[int]] = {}
        for number, unit in enumerate(units):
            loads = [whole.load(use._replace(column=number)) for use in uses]
            kind = tuple(float(f"{_on(resource, *load):.12g}") for load in loads)
            kinds.setdefault(kind, []).extend(unit)
        return [tuple(kind) for kind in kinds.values()]

    def _count(self) -> None:
        """Give what the engine counted since the last time to all resources that it stood for."""
        counters = self.cluster.engine.counters()
        now = np.array([counters.busy_s, counters.carried])
        busy_s, carried = now - self.counted
        self.counted = now
        shown = np.where(self.folded.shown >= 0, self.folded.shown, np.arange(now.shape[1]))
        self.busy_s += busy_s[shown]
        self.carried += carried[shown] * (self.whole_capacity / self.whole_capacity[shown])


def _on(resource: int, resources: Ints, amounts: Floats) -> float:
    """What a load puts on a resource."""
    return float(amounts[resources == resource].sum())
