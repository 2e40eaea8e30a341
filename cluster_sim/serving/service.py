"""The service: requests arrive, a router hands them to replicas, replicas work; SimPy moves the
clock.

Open traffic on fast replicas needs one event an arrival: a replica catches up when somebody outside
looks at it. In a closed loop and in sessions finishes cause arrivals, so every end of a step or
segment is an event; the reference always runs that way.
"""

from __future__ import annotations

import math
from array import array
from collections import Counter
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.clock import ARRIVAL_RANK, instant
from cluster_sim.errors import SimulationError
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.event_driven import (
    LOOKS_PER_RUN,
    EventDriven,
    Live,
    Replica,
    Stopped,
    Turns,
    Watcher,
)
from cluster_sim.serving.records import Outcomes, Status, StepCounts, StepLog
from cluster_sim.serving.replica import FastReplica
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.router import IGNORES_LOAD, ROUTERS
from cluster_sim.serving.stepper import ReplicaSpec, StepByStepReplica
from cluster_sim.serving.tape import Tape

if TYPE_CHECKING:
    from cluster_sim.serving.site import Site, Visits

LOOK_GROWTH = 0.25  # of the time so far: the next look once all requests have arrived
LIVE_GROWTH = 0.01  # the same while somebody watches


@dataclass(frozen=True, slots=True)
class Service:
    """What the replicas of one run have in common, and how requests come."""

    spec: ReplicaSpec
    replicas: int
    router: str
    max_context: int
    concurrency: int | None = None  # closed loop of so many clients (with sessions: of sessions)
    client: ClientWait = ClientWait()  # how much later clients see what the engine made
    caching: bool = False  # replicas keep what the prompts of requests have in common


@dataclass(frozen=True, slots=True)
class Run:
    """Everything recorded: the facts that metrics are computed from.

    ``counts`` are of all ranks, replica by replica; ``shared[tokens]`` counts steps by the tokens
    of all ranks of a replica together; ``idle_s`` are seconds without work before a replica's last
    step. ``tapes``, one a replica, are there if asked for.
    """

    outcomes: Outcomes
    logs: tuple[StepLog, ...]
    counts: tuple[StepCounts, ...]
    shared: tuple[Counter[int], ...]
    idle_s: tuple[float, ...]
    hit_tokens: int
    end_s: float
    interrupted: bool
    known_s: float = math.inf  # an interrupted run is recorded completely up to here
    tapes: tuple[Tape, ...] = ()
    visits: Visits | None = None  # what others did on the same machine
    client: ClientWait = ClientWait()


def serve(
    service: Service,
    requests: Requests,
    *,
    step_by_step: bool = False,
    watch: Watcher | None = None,
    live: Live | None = None,
    record: bool = False,
    site: Site | None = None,
) -> Run:
    """Simulate until every request is finished or rejected.

    ``watch(outcomes, arrivals so far, time)`` is called now and then, with everything before that
    time recorded; when it returns true the run stops. An interrupt from the keyboard stops it too;
    both leave unfinished requests in the record (``interrupted``). ``live(replicas, outcomes,
    arrivals so far, time)`` is called at every event and may look at everything; replicas that
    nobody asked lately may lag behind the time. ``record`` keeps tapes. ``site`` is the
    machine with the processes that run beside the service. Raises SimulationError when
    requests or KV blocks are not conserved.
    """
    if service.caching:
        service = replace(service, spec=replace(service.spec, prefixes=requests.prefixes))
    outcomes = Outcomes(requests)
    accepted = _admissible(service, requests, outcomes)
    turns = Turns(service, requests, outcomes) if requests.after is not None else None
    kind = StepByStepReplica if step_by_step else FastReplica
    replicas: list[StepByStepReplica] | list[FastReplica]
    replicas = [kind(i, service.spec, outcomes) for i in range(service.replicas)]  # type: ignore[assignment]
    for replica in replicas if record else ():
        replica.tape = Tape(replica.log)
        for rank in replica.ranks:
            rank.tape = replica.tape
    player: _Lazy | EventDriven
    if service.concurrency is not None or turns is not None or step_by_step or site is not None:
        player = EventDriven(service, replicas, accepted, outcomes, turns, watch, live, site)
    else:
        fast = [replica for replica in replicas if isinstance(replica, FastReplica)]
        player = _Lazy(service, fast, accepted, outcomes, watch, live)
    interrupted, known_s = False, math.inf
    try:
        player.run()
    except (KeyboardInterrupt, Stopped):
        interrupted = True
        known_s = min([player.env.now, *(r.start_s for r in replicas if r.has_work)])
    if turns is not None:
        turns.date_rejected()
    run = Run(
        outcomes,
        tuple(replica.log for replica in replicas),
        tuple(rank.counts for replica in replicas for rank in replica.ranks),
        tuple(replica.shared for replica in replicas),
        tuple(replica.idle_s for replica in replicas),
        sum(rank.cache.hit_tokens for r in replicas for rank in r.ranks if rank.cache),
        max((replica.log.end_s[-1] for replica in replicas if replica.log.end_s), default=0.0),
        interrupted,
        known_s,
        tuple(replica.tape for replica in replicas if replica.tape is not None),
        player.visits() if isinstance(player, EventDriven) else None,
        service.client,
    )
    if not interrupted:
        _check_conservation(service, replicas, run, len(accepted))
    return run


def too_large(service: Service, requests: Requests) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which requests are longer than the context, and which of the others than the cache."""
    tokens = requests.isl + requests.osl
    cache = (service.spec.blocks - service.spec.state_blocks) * service.spec.block_tokens
    too_long = tokens > service.max_context
    # A last step may hold drafts beyond the end of an answer.
    return too_long, ~too_long & (tokens + service.spec.price.decode_tokens - 2 > cache)


def _admissible(service: Service, requests: Requests, outcomes: Outcomes) -> array[int]:
    """Requests that fit context and cache, in order of arrival; the others are marked rejected."""
    too_long, too_big = too_large(service, requests)
    for request in np.flatnonzero(too_long).tolist():
        outcomes.status[request] = Status.REJECTED_CONTEXT
    for request in np.flatnonzero(too_big).tolist():
        outcomes.status[request] = Status.REJECTED_KV
    fitting = np.flatnonzero(~too_long & ~too_big)
    if requests.after is None:
        return array("i", fitting.astype(np.intc).tobytes())
    status, former = outcomes.status, requests.after.tolist()
    for request, before in enumerate(former):
        if before >= 0 and status[before] > Status.FINISHED and status[request] == Status.RUNNING:
            status[request] = Status.REJECTED_SESSION
    return array("i", (r for r in fitting.tolist() if status[r] == Status.RUNNING))


class _Lazy:
    """One SimPy event an arrival; replicas advance inline when a router or an arrival looks at
    them.
    """

    def __init__(
        self,
        service: Service,
        replicas: Sequence[FastReplica],
        accepted: Sequence[int],
        outcomes: Outcomes,
        watch: Watcher | None,
        live: Live | None,
    ) -> None:
        self.replicas, self.accepted, self.outcomes = replicas, accepted, outcomes
        self.watch, self.live = watch, live
        self.env = Environment()
        self.route = ROUTERS[service.router]
        self.reads_load = service.router not in IGNORES_LOAD
        self.outstanding = [0] * len(replicas)
        self.due: list[tuple[float, int]] = []  # heap of (next instant, replica)
        self.due_s = [math.inf] * len(replicas)  # entries with another time are stale
        if self.reads_load and len(replicas) > 1:
            for replica in replicas:
                replica.far = True

    def run(self) -> None:
        """Hand out all arrivals, then let the replicas finish."""
        self.env.process(self._source())
        self.env.run()
        growth = LOOK_GROWTH if self.live is None else LIVE_GROWTH
        while any(replica.has_work for replica in self.replicas):
            self.env.run(until=self.env.now + max(1.0, growth * self.env.now))
            for replica in self.replicas:
                replica.advance(self.env.now)
            if self.live is not None:
                self.live(self.replicas, self.outcomes, len(self.accepted), self.env.now)
            self._look(len(self.accepted))

    def _source(self) -> Generator[Event, None, None]:
        env = self.env
        arrival_s, replicas, route = self.outcomes.arrival_s, self.replicas, self.route
        single, owner, others = len(replicas) == 1, self.outcomes.replica, self.outcomes.others
        every = max(1, len(self.accepted) // LOOKS_PER_RUN)
        for number, request in enumerate(self.accepted):
            now = arrival_s[request]
            if now > env.now:
                yield instant(env, now, ARRIVAL_RANK)
            if self.reads_load and not single:
                self._catch_up(now)
            index = 0 if single else route(number, self.outstanding)
            replica = replicas[index]
            replica.advance(now)
            owner[request] = index
            others[request] = replica.outstanding
            replica.enqueue(request, now)
            if self.reads_load and not single:
                replica.shorten(now)
                self.outstanding[index] = replica.outstanding
                self._list(replica)
            if number % every == 0:
                self._look(number)
            if self.live is not None:
                self.live(replicas, self.outcomes, number + 1, now)

    def _catch_up(self, now: float) -> None:
        due, due_s = self.due, self.due_s
        while due and due[0][0] < now:
            at_s, index = heappop(due)
            if at_s != due_s[index]:
                continue
            replica = self.replicas[index]
            replica.advance(now)
            self.outstanding[index] = replica.outstanding
            self._list(replica)

    def _list(self, replica: FastReplica) -> None:
        """Note when the number of unfinished requests of a replica may change next."""
        at_s = math.inf
        if replica.in_step or replica.has_work:
            at_s = replica.end_s if replica.in_step else replica.start_s
        if at_s != self.due_s[replica.index]:
            self.due_s[replica.index] = at_s
            if at_s < math.inf:
                heappush(self.due, (at_s, replica.index))

    def _look(self, number: int) -> None:
        if self.watch is None:
            return
        now = self.env.now
        for replica in self.replicas:
            replica.advance(now)
        if self.watch(self.outcomes, number, now):
            raise Stopped


def _check_conservation(
    service: Service, replicas: Sequence[Replica], run: Run, accepted: int
) -> None:
    finished = sum(status == Status.FINISHED for status in run.outcomes.status)
    if finished != accepted:
        raise SimulationError(f"{accepted} requests accepted, {finished} finished", run.end_s)
    for replica in replicas:
        for rank in replica.ranks:
            cached = rank.cache.idle_blocks if rank.cache is not None else 0
            taken, returned = rank.counts.blocks_taken, rank.counts.blocks_returned
            if taken - returned != cached or rank.free + cached != service.spec.blocks:
                raise SimulationError(
                    f"replica {replica.index}: {taken} KV blocks taken, {returned} given back, "
                    f"{cached} in the prefix cache",
                    run.end_s,
                )
