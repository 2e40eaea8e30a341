"""A machine that a service shares with others: processes of the user, traffic beside.

A replica holds its resources as long as nobody else is there, or only such traffic as its links
have room for beside the fastest step; it skips ahead as on a machine of its own. When others come,
whole steps before that instant stay; the one that runs and those after it are played phase by
phase, until a step begins with nobody there.

Limits: what others change in the middle of a step is felt in its rounds (``ALTERNATIONS``).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.clock import END_RANK, call_at
from cluster_sim.engine.cluster import Cluster, Process, start_processes
from cluster_sim.engine.fluid import FluidEngine, Owner
from cluster_sim.engine.fluid_meter import Meter
from cluster_sim.engine.fluid_play import Play
from cluster_sim.perf.family import NOTHING, Batch
from cluster_sim.serving.records import StepCounts
from cluster_sim.work import Activity, Phase

ROUNDING = 1e-12  # of the clock: steps that others do not slow end as alone but for this


class Home(Protocol):
    """Where a replica runs: what it may use, and the phases of a step."""

    @property
    def resources(self) -> Sequence[int]:
        """All that it may use."""

    @property
    def seldom(self) -> Sequence[int]:
        """Those that hardly any step uses."""

    @property
    def decode_tokens(self) -> int:
        """Tokens of a decoding sequence in a step."""

    @property
    def peak(self) -> Mapping[int, float]:
        """The highest rate of any step on a resource, alone; those left out may be full."""

    def phases(self, batches: Sequence[Batch]) -> Sequence[Phase]:
        """The phases of one step of these batches side by side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """A machine by name and capacity of its resources, the home of each replica, and who else is
    there.
    """

    capacity: Mapping[str, float]
    homes: Sequence[Home]
    processes: Sequence[Process] = ()

    def open(self, env: Environment) -> Cluster:
        """The machine on the clock, with the processes started; raises ClusterSimError for one that
        is no generator.
        """
        cluster = Cluster(env, self.capacity)
        start_processes(cluster, self.processes)
        return cluster

    def tenants(self, cluster: Cluster, replicas: Sequence[Worker], player: Player) -> list[Tenant]:
        """The replicas as users of the opened machine."""
        return [
            Tenant(cluster.engine, replica, home, shared, player)
            for replica, home, shared in zip(replicas, self.homes, self.shared, strict=True)
        ]

    def visits(self, cluster: Cluster, tenants: Sequence[Tenant]) -> Visits:
        """What happened on it."""
        counters = cluster.engine.counters()
        return Visits(
            names=cluster.names,
            carried=counters.carried.tolist(),
            busy_s=counters.busy_s.tolist(),
            lost_s=tuple(tenant.lost_s for tenant in tenants),
            played=tuple(counts for tenant in tenants for counts in tenant.played),
            shared=tuple(tenant.shared_steps for tenant in tenants),
        )

    @property
    def shared(self) -> list[set[int]]:
        """For each replica those of its resources that are other replicas' too."""
        homes = Counter(r for home in self.homes for r in home.resources)
        return [{r for r in home.resources if homes[r] > 1} for home in self.homes]


@dataclass(frozen=True, slots=True, kw_only=True)
class Visits:
    """What happened on a shared machine: per resource what was carried and how long it was busy,
    by others and by the steps that were played; ``played`` (by rank) and ``shared`` (by replica)
    count those, ``lost_s`` is what they took longer than alone, by replica.
    """

    names: tuple[str, ...]
    carried: list[float]
    busy_s: list[float]
    lost_s: tuple[float, ...]
    played: tuple[StepCounts, ...]
    shared: tuple[Counter[int], ...]


def always(activities: Iterable[Activity]) -> Process:
    """A process that starts some activities with the run."""
    beside = list(activities)

    def start(cluster: Cluster) -> Generator[Event, Any, None]:
        yield cluster.env.timeout(0.0)
        for activity in beside:
            cluster.engine.start(activity, stays=True)

    return start


class Guest(Protocol):
    """What is asked of a batch: to note what each step is, once told to."""

    consists: Batch | None


class Worker(Protocol):
    """What is asked of a replica."""

    index: int
    in_step: bool
    end_s: float

    @property
    def ranks(self) -> Sequence[Guest]:
        """The batches that work side by side."""

    def shorten(self, at_s: float) -> bool:
        """Cut a segment after the step that runs at a time; true if its end moved."""

    def last_step(self) -> tuple[float, list[Batch]]:
        """When the last step of what runs starts, and what the batches do in it."""

    def end_at(self, end_s: float) -> None:
        """Let the last step of what runs end at another time."""


class Player(Protocol):
    """Who keeps the ends of the steps of replicas."""

    def end_later(self, replica: Any) -> None:
        """End the step or segment at its time."""

    def forget_end(self, replica: Any) -> None:
        """That time no longer counts."""

    def end(self, replica: Any) -> None:
        """The step is done."""


class Tenant(Owner):
    """A replica among the users of a machine. ``shared`` are those of its resources that other
    replicas use too: with them it is never known to be alone, save where hardly any step does.
    """

    def __init__(
        self, engine: FluidEngine, replica: Worker, home: Home, shared: set[int], player: Player
    ) -> None:
        self.engine, self.env = engine, engine.env
        self.replica, self.home, self.player = replica, home, player
        for rank in replica.ranks:
            rank.consists = NOTHING
        self.lost_s = 0.0
        width = self._width = home.decode_tokens
        self.played = [StepCounts(decode_tokens=width) for _ in replica.ranks]
        self.shared_steps: Counter[int] = Counter()
        self._mine = tuple(r for r in home.resources if r not in shared)
        self._meets_others = not shared <= set(home.seldom)
        self._capacity = [engine.capacity[r] for r in self._mine]
        peak = home.peak
        self._peak = [peak.get(r, math.inf) for r in self._mine]
        if engine.wanted is None:
            engine.wanted = [0.0] * len(engine.capacity)
        self._holds = False
        self._alone_end_s = 0.0
        self.is_alone()

    def has_room(self) -> bool:
        """Whether its steps and all who are now on its resources can run as alone."""
        wanted, claims, own = self.engine.wanted, self.engine.claims, int(self._holds)
        assert wanted is not None
        return all(
            claims[r] == own or wanted[r] + peak <= whole
            for r, peak, whole in zip(self._mine, self._peak, self._capacity, strict=True)
        )

    def is_alone(self) -> bool:
        """Whether its steps run as alone, with nobody on its resources, all of which are up, or
        room for all who are; then it holds them.
        """
        if self._holds:
            return True
        capacity = self.engine.capacity
        if self._meets_others or not self.has_room():
            return False
        if any(capacity[r] < whole for r, whole in zip(self._mine, self._capacity, strict=True)):
            return False
        self.engine.tell(self._mine)
        self.engine.claim(self._mine)
        for r in self._mine:
            self.engine.owner[r] = self
        self._holds = True
        return True

    def disturb(self) -> None:
        """Let go of the resources; the step that runs goes on in company."""
        self._holds = False
        self.engine.disown(self, self._mine)
        self.engine.unclaim(self._mine)
        replica, now_s = self.replica, self.env.now
        if not replica.in_step:
            return
        if replica.shorten(now_s):
            self.player.end_later(replica)
        start_s, _ = replica.last_step()
        if replica.end_s > now_s:
            self.player.forget_end(replica)
            self._play((replica.end_s - now_s) / (replica.end_s - start_s))

    def play(self) -> None:
        """Play the step that the replica has begun."""
        self._play(1.0)

    def _play(self, left: float) -> None:
        _, batches = self.replica.last_step()
        phases = self.home.phases(batches)
        self._alone_end_s = self.replica.end_s
        for counts, batch in zip(self.played, batches, strict=False):
            counts.add(*batch)
        tokens = sum(batch.decodes * self._width + batch.prefill_tokens for batch in batches)
        self.shared_steps[tokens] += 1
        done = 1 - left
        for activity in (phase.activity for phase in phases) if done > 0 else ():
            self.engine.meter.alone(activity, done, done * activity.alone_s)
        series = Play(self.engine, [phases], left)
        assert series.callbacks is not None
        series.callbacks.append(self._step_done)
        series.begin()

    def _step_done(self, _: Event) -> None:
        # Ends at one instant go in order of replica, as they do alone.
        call_at(self.env, self.env.now, END_RANK + self.replica.index, self._end_step)

    def _end_step(self) -> None:
        longer_s = self.env.now - self._alone_end_s
        if longer_s > ROUNDING * self.env.now:
            self.lost_s += longer_s
        self.replica.end_at(self.env.now)
        self.player.end(self.replica)

    def account(self, meter: Meter) -> None:
        """Steps alone are counted by the replica itself."""
