"""The machine as named resources of a SimPy environment."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.fluid import ALTERNATIONS, FluidEngine, Running
from cluster_sim.errors import ClusterSimError, nearest
from cluster_sim.work import traffic


@dataclass(frozen=True, slots=True)
class Use:
    """Seconds in which a resource was used, and how much of it: bytes, or seconds of SM time."""

    busy_s: float
    carried: float


class Cluster:
    """Names such as ``host3/gpu5/hbm`` or ``leaf2->spine1`` for the resources of an engine, in
    order of their index.

    >>> import simpy
    >>> env = simpy.Environment()
    >>> cluster = Cluster(env, {"host0/gpu0/hbm": 4.15e12})
    >>> taken = cluster.use("host0/gpu0/hbm", 1.0, share=0.5)
    >>> env.run()
    >>> float(cluster.engine.counters().carried[0])
    2075000000000.0
    """

    def __init__(
        self,
        env: Environment,
        capacity: Mapping[str, float],
        *,
        compiled: bool = False,
        alternations: int = ALTERNATIONS,
        asked: Callable[[int], None] | None = None,
    ) -> None:
        self.engine = FluidEngine(
            env, tuple(capacity.values()), compiled=compiled, alternations=alternations
        )
        self.names = tuple(capacity)
        self._asked = asked  # is told of each resource that is named
        self._index = {name: i for i, name in enumerate(self.names)}

    @property
    def env(self) -> Environment:
        """The SimPy environment."""
        return self.engine.env

    def index(self, name: str) -> int:
        """The index of a resource. Raises ClusterSimError with the nearest name when there is none
        of this name.
        """
        if name not in self._index:
            near = nearest(name, self.names)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise ClusterSimError(f"no resource named '{name}'{hint}")
        if self._asked is not None:
            self._asked(self._index[name])
        return self._index[name]

    def use(
        self, name: str, seconds: float, *, share: float | None = None, amount: float | None = None
    ) -> Running:
        """Take a share of a resource for some seconds, or an amount of it over them; an event that
        succeeds when all of it was had.

        It counts as traffic: before kernels, and max-min fair with other traffic, beside which it
        may take longer.
        """
        resource = self.index(name)
        if (share is None) == (amount is None):
            raise ClusterSimError(f"use of '{name}': give either share or amount")
        if share is not None:
            capacity = self.engine.capacity[resource]
            if not 0 < share <= 1:
                raise ClusterSimError(f"use of '{name}': share must be > 0 and <= 1 (got {share})")
            if not capacity > 0:
                raise ClusterSimError(f"use of '{name}': it is down, so it has no share to take")
            amount = share * capacity * seconds
        assert amount is not None
        if not seconds > 0 or not amount > 0:
            raise ClusterSimError(
                f"use of '{name}': seconds and amount must be > 0 (got {seconds} and {amount})"
            )
        return self.engine.start(traffic(seconds, {resource: amount}))

    def set_capacity(self, name: str, capacity: float) -> None:
        """Change the capacity of a resource now; 0 is down."""
        self.engine.set_capacity(self.index(name), capacity)


Process = Callable[[Cluster], Generator[Event, Any, Any]]


def start_processes(cluster: Cluster, processes: Iterable[Process]) -> None:
    """Put processes on the clock; raises ClusterSimError for one that is no generator."""
    for process in processes:
        steps = process(cluster)
        if not isinstance(steps, Generator):
            raise ClusterSimError(
                f"process '{name_of(process)}' gives {type(steps).__name__}, not events to wait "
                "for; write a function with yield, such as yield "
                "cluster.use('host0/gpu0/hbm', 1.0, share=0.5)"
            )
        cluster.env.process(steps)


def name_of(process: Process) -> str:
    """What a process is called."""
    return getattr(process, "__name__", repr(process))
