"""Activities on the clock: each ends when its work is drained at the max-min fair rates.

An activity that shares nothing is one event at its end. Those that share are in the pool, which is
solved once for all changes at an instant, after everything else that happens then.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence

from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.clock import END_RANK, START_RANK, call_at, drop, instant
from cluster_sim.engine.fluid_few import Few, fitting
from cluster_sim.engine.fluid_loops import TIE, compiled_fill
from cluster_sim.engine.fluid_meter import Counters, Meter
from cluster_sim.engine.fluid_pool import Pool
from cluster_sim.engine.fluid_solver import fill_rounds
from cluster_sim.work import Activity

SETTLE_RANK = 2 * START_RANK  # after all that starts at an instant
FEW_STALE = 64  # alarms that no longer count may stay on the queue; more are dropped
ALTERNATIONS = 8  # of the phases of a step that shares. Source: assumed; 80 agree within 1 %


class Owner(ABC):
    """Who may have resources to itself."""

    @abstractmethod
    def disturb(self) -> None:
        """Somebody else comes on a resource that this had to itself."""

    def has_room(self) -> bool:
        """Whether all who are now on its resources can run as alone beside it."""
        return False

    @abstractmethod
    def account(self, meter: Meter) -> None:
        """Add to ``meter`` what is done by now and not yet in the engine's."""


class Handle(Owner, Event):
    """Something that runs on the engine; as an event it succeeds when that is complete, and never
    when it is cancelled.
    """

    since_s = 0.0
    _alarm: Event | None = None
    _cancelled = False

    def __init__(self, engine: FluidEngine) -> None:
        super().__init__(engine.env)
        self.engine = engine

    @abstractmethod
    def cancel(self) -> float:
        """Stop it; returns the share done. One that is complete stays complete."""

    def _ring_at(self, end_s: float) -> None:
        self._alarm = instant(self.env, end_s, END_RANK, self._ring)

    def _ring(self, alarm: Event) -> None:
        if alarm is self._alarm:
            self._alarm = None
            self._end()
        else:
            self.engine.stale.pop(alarm, None)

    @abstractmethod
    def _end(self) -> None:
        """Its time alone is over."""

    def _silence(self) -> None:
        """Its alarm no longer counts."""
        if self._alarm is not None:
            self.engine.silence(self._alarm)
            self._alarm = None

    def _complete(self) -> None:
        """Be processed now, as the environment would."""
        self._ok, self._value = True, None
        callbacks, self.callbacks = self.callbacks, None  # type: ignore[assignment]
        for callback in callbacks:
            callback(self)


class Running(Handle):
    """A part ``share`` of an activity that runs; ``row`` is its place in the pool, -1 outside."""

    row = -1
    _booked = 0.0  # the share that the meter has

    def __init__(self, engine: FluidEngine, activity: Activity, share: float, claims: int) -> None:
        super().__init__(engine)
        self.activity, self.share = activity, share
        # How many claims on its resources belong to whom it runs for: a play has claimed before.
        self._claims = claims

    @property
    def done(self) -> float:
        """The share of the activity that is done: at most ``share``."""
        left_s = self._left_s()
        return self.share - left_s / self.activity.alone_s if left_s > 0 else self.share

    def _left_s(self) -> float:
        if self.triggered or self._cancelled:
            return 0.0
        if self.row >= 0:
            return self.engine.pool.left_at(self.row, self.env.now)
        return max(self.share * self.activity.alone_s - (self.env.now - self.since_s), 0.0)

    def disturb(self) -> None:
        """Go into the pool."""
        left_s = self._left_s()
        self.account(self.engine.meter)
        self._booked = self.done
        self._silence()
        self.engine.disown(self, self.activity.resources)
        self.engine.join(self, left_s)

    def account(self, meter: Meter) -> None:
        """Add what is done since it was last booked."""
        if self.row >= 0:
            meter.carry(self.activity, self.done - self._booked)
        else:
            meter.alone(self.activity, self.done, self.env.now - self.since_s)

    def cancel(self) -> float:
        """Stop it; returns the share of the activity that is done."""
        if self.triggered or self._cancelled:
            return self.share
        done = self.done
        self.account(self.engine.meter)
        self._leave()
        self._cancelled, self.share = True, done
        return done

    def _unclaim(self) -> None:
        if not self._claims:
            self.engine.want(self.activity, -1.0)
            self.engine.unclaim(self.activity.resources)

    def _leave(self) -> None:
        self._silence()
        if self.row >= 0:
            self.engine.part(self)
        else:
            self.engine.disown(self, self.activity.resources)
        self._unclaim()

    def _end(self) -> None:
        engine, resources = self.engine, self.activity.resources
        engine.meter.alone(self.activity, self.share, self.env.now - self.since_s)
        for r in resources:
            engine.owner[r] = None
        self._unclaim()
        self._complete()

    def end_shared(self) -> None:
        """Its work in the pool is drained."""
        self.engine.meter.carry(self.activity, self.share - self._booked)
        self._leave()
        self.succeed()


class FluidEngine:
    """Resources with capacities on a SimPy environment, known by their index.

    ``compiled`` solves with numba, with the same results. Raises ValueError for capacities that are
    negative or not finite.
    """

    def __init__(
        self,
        env: Environment,
        capacity: Sequence[float],
        *,
        compiled: bool = False,
        alternations: int = ALTERNATIONS,
    ) -> None:
        for resource, value in enumerate(capacity):
            _check_capacity(resource, value)
        self.env, self.alternations = env, alternations
        self.capacity = [float(value) for value in capacity]
        self.meter = Meter(self.capacity)
        self.pool: Few | Pool = Few(self.capacity, compiled_fill() if compiled else fill_rounds)
        # Who may still come on a resource: an activity while it runs, a play for all of its life.
        self.claims = [0] * len(capacity)
        # How many of those stay for good.
        self.staying = [0] * len(capacity)
        # The rates that activities (not plays) would have alone; None: nobody asks.
        self.wanted: list[float] | None = None
        # Who has a resource to itself and is to be told when somebody comes.
        self.owner: list[Owner | None] = [None] * len(capacity)
        self.stale: dict[Event, None] = {}
        self._running = 0
        self._settling = False
        self._alarm: Event | None = None
        self._alarm_s = math.inf

    def start(self, activity: Activity, share: float = 1.0, *, stays: bool = False) -> Running:
        """Run an activity, or the ``share`` of it that is left; an event that succeeds when it is
        complete. ``stays``: it outlasts everything else.
        """
        if not 0 < share <= 1:
            raise ValueError(f"share(={share}) must be > 0 and at most 1")
        running = Running(self, activity, share, 0)
        self.begin(running)
        for r in activity.resources if stays else ():
            self.staying[r] += 1
        return running

    def set_capacity(self, resource: int, capacity: float) -> None:
        """Change a capacity now. At 0 its users stall until it is raised or they are cancelled."""
        _check_capacity(resource, capacity)
        if capacity == self.capacity[resource]:
            return
        while (owner := self.owner[resource]) is not None:  # a play, then the part that it starts
            owner.disturb()
        self.meter.resize(resource, capacity, self._read().carried[resource])
        self.pool.resize(resource, capacity)
        self._ask_settle()

    def counters(self) -> Counters:
        """What each resource carried up to now, and how busy it was."""
        return self._read().counters(self.env.now, self.pool.peak)

    def _read(self) -> Meter:
        meter = self.meter.copy()
        for owner in dict.fromkeys(self.owner):
            if owner is not None:
                owner.account(meter)
        for member in self.pool.members:
            if isinstance(member, Running):
                member.account(meter)
        return meter

    def begin(self, running: Running) -> None:
        """Put an activity on its resources."""
        activity, capacity, owner = running.activity, self.capacity, self.owner
        resources, alone_s, users = activity.resources, activity.alone_s, self.meter.users
        running.since_s = now_s = self.env.now
        fits, owned = True, False
        try:
            for r, demand in zip(resources, activity.demand, strict=True):
                if demand > capacity[r] * alone_s * (1 + TIE):
                    fits = False
                if owner[r] is not None:
                    owned = True
        except IndexError:
            raise ValueError(
                f"resources(={resources}) must be < {len(capacity)}, of which there are"
            ) from None
        if not running._claims:
            self.claim(resources)
            self.want(activity, 1.0)
        if owned:  # by a play that may go on elsewhere
            self.tell(resources, parts=False)
        if fits:
            for r in resources:
                if owner[r] is not None or users[r]:
                    break
            else:
                for r in resources:
                    owner[r] = running
                running._ring_at(now_s + alone_s * running.share)
                return
        self.tell(resources)
        self.join(running, alone_s * running.share)

    def tell(self, resources: Iterable[int], *, parts: bool = True) -> None:
        """Tell those who had one of these resources to themselves that somebody comes; not the
        ``parts`` that run, if it is not known when.
        """
        for r in resources:
            # A play that lets go starts a part, which may have the resource to itself.
            while (owner := self.owner[r]) is not None and (
                parts or not isinstance(owner, Running)
            ):
                if owner.has_room():
                    break
                owner.disturb()

    def want(self, activity: Activity, sign: float) -> None:
        """Note that an activity comes or (-1) goes."""
        if self.wanted is not None:
            for r, demand in zip(activity.resources, activity.demand, strict=True):
                self.wanted[r] += sign * demand / activity.alone_s

    def disown(self, owner: Owner, resources: Iterable[int]) -> None:
        """These resources are nobody's own any more."""
        for r in resources:
            if self.owner[r] is owner:
                self.owner[r] = None

    def claim(self, resources: Iterable[int]) -> None:
        """One more may come on these resources."""
        self._running += 1
        for r in resources:
            self.claims[r] += 1

    def unclaim(self, resources: Iterable[int]) -> None:
        """One fewer may come on these resources."""
        self._running -= 1
        for r in resources:
            self.claims[r] -= 1
        if self.stale and not self._running:
            self._drop_stale()

    def silence(self, alarm: Event) -> None:
        """An alarm on the queue no longer counts."""
        self.stale[alarm] = None
        if len(self.stale) > max(FEW_STALE, len(self.env._queue) // 2):
            self._drop_stale()

    def _drop_stale(self) -> None:
        drop(self.env, self.stale)
        self.stale.clear()

    def join(self, running: Running, left_s: float) -> None:
        """An activity shares from now on."""
        self.meter.enter(running.activity, self.env.now)
        self.pool.add(running, left_s, self.env.now)
        self._ask_settle()

    def part(self, running: Running) -> None:
        """An activity that shared is gone."""
        self.pool.remove(running.row)
        self.meter.leave(running.activity, self.env.now)
        running.row = -1
        self._ask_settle()

    def _ask_settle(self) -> None:
        if not self._settling:
            self._settling = True
            call_at(self.env, self.env.now, SETTLE_RANK, self._settle)

    def _settle(self) -> None:
        self._settling = False
        self.pool = fitting(self.pool, self.env.now)
        self.pool.settle(self.env.now)
        end_s = self.pool.next_end_s()
        if end_s != self._alarm_s:
            if self._alarm is not None:
                self.silence(self._alarm)
            self._alarm_s, self._alarm = end_s, None
            if end_s < math.inf:
                self._alarm = instant(self.env, end_s, END_RANK, self._ring)
        if self.stale and not self._running:
            self._drop_stale()

    def _ring(self, alarm: Event) -> None:
        if alarm is self._alarm:
            self._alarm, self._alarm_s = None, math.inf
            for member in self.pool.due(self.env.now):
                assert isinstance(member, Running)
                member.end_shared()
            self._ask_settle()
        else:
            self.stale.pop(alarm, None)


def _check_capacity(resource: int, capacity: float) -> None:
    if not 0 <= capacity < math.inf:
        raise ValueError(
            f"capacity(={capacity}) of resource {resource} must be finite and not negative"
        )
