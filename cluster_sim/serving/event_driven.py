"""Every end of a step or segment as an event; on a machine that others use too, steps in company.

A finish in a closed loop or in a session causes the next arrival.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence, Sized
from typing import TYPE_CHECKING, Protocol

from simpy.core import Environment

from cluster_sim.engine.clock import ARRIVAL_RANK, END_RANK, START_RANK, call_at
from cluster_sim.errors import ClusterSimError
from cluster_sim.perf.family import Batch
from cluster_sim.serving.prefix_cache import PrefixCache
from cluster_sim.serving.records import NEVER, Outcomes, Status, StepCounts, StepLog
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.router import ROUTERS
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.tape import Tape

if TYPE_CHECKING:
    from cluster_sim.serving.service import Service
    from cluster_sim.serving.site import Site, Tenant, Visits

LOOKS_PER_RUN = 64  # how often progress is reported and a watcher may stop the run


class Rank(Protocol):
    """What is asked of a batch at the end of a run, and by those who watch it."""

    free: int
    cache: PrefixCache | None
    counts: StepCounts
    tape: Tape | None
    consists: Batch | None

    @property
    def waiting(self) -> Sized:
        """The queue."""

    @property
    def running(self) -> Sized:
        """Sequences that hold blocks."""


class Replica(Protocol):
    """What a service needs of a replica; the reference and the fast one both have it."""

    index: int
    spec: ReplicaSpec
    in_step: bool
    start_s: float
    end_s: float
    idle_s: float
    log: StepLog
    shared: Counter[int]
    tape: Tape | None

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""

    @property
    def outstanding(self) -> int:
        """Unfinished requests."""

    @property
    def ranks(self) -> Sequence[Rank]:
        """The batches that work side by side."""

    def enqueue(self, request: int, at_s: float) -> None:
        """Queue an arriving request."""

    def begin(self, horizon_s: float) -> None:
        """Start the next step or segment."""

    def complete(self) -> list[int]:
        """End it; returns who finished."""

    def shorten(self, at_s: float) -> bool:
        """Cut a segment after the step that runs at a time; true if its end moved."""

    def last_step(self) -> tuple[float, list[Batch]]:
        """When the last step of what runs starts, and what the batches do in it."""

    def end_at(self, end_s: float) -> None:
        """Let the last step of what runs end at another time."""


Watcher = Callable[[Outcomes, int, float], bool]
Live = Callable[[Sequence[Replica], Outcomes, int, float], None]


class Stopped(Exception):
    """The watcher has seen enough."""


class _Finished(Exception):
    """All requests are; processes of the user may go on for ever."""


class Turns:
    """Who follows whom in sessions. A turn arrives ``think_s`` after its client saw the end of the
    former one, in an open loop not before its own recorded arrival; one whose former turn was
    rejected never comes.
    """

    def __init__(self, service: Service, requests: Requests, outcomes: Outcomes) -> None:
        count = len(requests)
        self.outcomes, self.client = outcomes, service.client
        self.former = [-1] * count if requests.after is None else requests.after.tolist()
        self.think_s = [0.0] * count if requests.think_s is None else requests.think_s.tolist()
        self.earliest_s = requests.arrival_s.tolist()
        if service.concurrency is not None:
            self.earliest_s = [0.0] * count
        self.next = [-1] * count
        for request, before in enumerate(self.former):
            if before >= 0:
                outcomes.arrival_s[request] = NEVER
                if outcomes.status[request] == Status.RUNNING:
                    self.next[before] = request

    def arrival_s(self, request: int, former_seen_s: float) -> float:
        """When a turn arrives."""
        at_s: float = max(self.earliest_s[request], former_seen_s + self.think_s[request])
        return at_s

    def date_rejected(self) -> None:
        """A rejected turn arrives like any other; those behind it at the same instant."""
        outcomes = self.outcomes
        for request, before in enumerate(self.former):
            if before < 0 or outcomes.status[request] <= Status.FINISHED:
                continue
            if outcomes.status[before] == Status.FINISHED:
                seen_s = self.client.seen_s(outcomes.finish_s[before])
                outcomes.arrival_s[request] = self.arrival_s(request, seen_s)
            else:
                outcomes.arrival_s[request] = outcomes.arrival_s[before]


class EventDriven:
    """Every end of a step or segment is a SimPy event; a finish in a closed loop or in a session
    causes the next arrival.
    """

    def __init__(
        self,
        service: Service,
        replicas: Sequence[Replica],
        accepted: Sequence[int],
        outcomes: Outcomes,
        turns: Turns | None,
        watch: Watcher | None,
        live: Live | None,
        site: Site | None = None,
    ) -> None:
        self.env = Environment()
        self.replicas, self.outcomes, self.watch = replicas, outcomes, watch
        self.turns = turns
        self.route = ROUTERS[service.router]
        self.concurrency, self.client = service.concurrency, service.client
        self.pending = (r for r in accepted if turns is None or turns.former[r] < 0)
        self.arrivals = 0
        self.every = max(1, len(accepted) // LOOKS_PER_RUN)
        self.generation = [0] * len(replicas)  # events of an older generation are stale
        self.starting = [False] * len(replicas)
        self.live = live
        self.to_finish = len(accepted)
        self.site = site
        self.cluster = None if site is None else site.open(self.env)
        self.tenants: list[Tenant] = []
        if site is not None and self.cluster is not None:
            self.tenants = site.tenants(self.cluster, replicas, self)

    def run(self) -> None:
        """Play all events; raises ClusterSimError if requests wait for a resource that is down."""
        if self.tenants and not self.to_finish:
            return
        try:
            self._run()
        except _Finished:
            return
        if self.outcomes.finished < self.to_finish and self.tenants:
            raise ClusterSimError(
                f"after {self.env.now:.6g} s requests wait for ever: a process has set a resource "
                "that they need to 0; let it set the capacity again"
            )

    def visits(self) -> Visits | None:
        """What happened on the machine; None without one."""
        if self.site is None or self.cluster is None:
            return None
        return self.site.visits(self.cluster, self.tenants)

    def _run(self) -> None:
        if self.concurrency is None:
            self._next_open_arrival()
        else:
            for _ in range(self.concurrency):
                self._closed_arrival(0.0)
        self.env.run()

    def _next_open_arrival(self) -> None:
        request = next(self.pending, None)
        if request is not None:
            at_s = self.outcomes.arrival_s[request]
            call_at(self.env, at_s, ARRIVAL_RANK, lambda: self._open_arrival(request))

    def _open_arrival(self, request: int) -> None:
        self._arrive(request)
        self._next_open_arrival()

    def _closed_arrival(self, at_s: float) -> None:
        request = next(self.pending, None)
        if request is not None:
            self.outcomes.arrival_s[request] = at_s
            self._arrive(request)

    def _arrive(self, request: int) -> None:
        now = self.env.now
        index = self.route(self.arrivals, [replica.outstanding for replica in self.replicas])
        if (
            self.arrivals % self.every == 0
            and self.watch
            and self.watch(self.outcomes, self.arrivals, now)
        ):
            raise Stopped
        self.arrivals += 1
        replica = self.replicas[index]
        self.outcomes.replica[request] = index
        self.outcomes.others[request] = replica.outstanding
        replica.enqueue(request, now)
        if not replica.in_step:
            self._start_soon(replica)
        elif replica.shorten(now):
            self.end_later(replica)

    def _start_soon(self, replica: Replica) -> None:
        if not self.starting[replica.index]:
            self.starting[replica.index] = True
            call_at(
                self.env, self.env.now, START_RANK + replica.index, lambda: self._start(replica)
            )

    def _start(self, replica: Replica) -> None:
        self.starting[replica.index] = False
        if self.tenants and not self.tenants[replica.index].is_alone():
            replica.begin(math.nextafter(self.env.now, math.inf))  # a single step
            self.tenants[replica.index].play()
            return
        replica.begin(math.inf)
        self.end_later(replica)

    def end_later(self, replica: Replica) -> None:
        """End the step or segment at its time."""
        self.forget_end(replica)
        current = self.generation[replica.index]

        def end() -> None:
            if current == self.generation[replica.index]:
                self.end(replica)

        call_at(self.env, replica.end_s, END_RANK + replica.index, end)

    def forget_end(self, replica: Replica) -> None:
        """The time at which the step or segment was to end no longer counts."""
        self.generation[replica.index] += 1

    def end(self, replica: Replica) -> None:
        """The step or segment is done."""
        finished = replica.complete()
        if self.concurrency is not None or self.turns is not None:
            for request in finished:
                self._follow(request)
        if replica.has_work:
            self._start_soon(replica)
        if self.live is not None:
            self.live(self.replicas, self.outcomes, self.arrivals, self.env.now)
        if self.tenants and self.outcomes.finished == self.to_finish:
            raise _Finished

    def _follow(self, request: int) -> None:
        """What the end of a request causes once its client has seen it: its session's next turn, or
        in a closed loop the next session.
        """
        now = self.env.now
        seen_s = self.client.seen_s(now)
        turn = self.turns.next[request] if self.turns is not None else -1
        if self.turns is not None and turn >= 0:
            at_s = self.turns.arrival_s(turn, seen_s)
            call_at(self.env, at_s, ARRIVAL_RANK, lambda: self._turn(turn))
        elif self.concurrency is not None and seen_s > now:
            call_at(self.env, seen_s, ARRIVAL_RANK, lambda: self._closed_arrival(seen_s))
        elif self.concurrency is not None:
            self._closed_arrival(now)

    def _turn(self, request: int) -> None:
        self.outcomes.arrival_s[request] = self.env.now
        self._arrive(request)
