"""One run from its first step to its last on the clock: it fails, is restored, and goes on.

Model: the schedule is the run without failures, and a position in it moves forward by one second a
second, slower while something is degraded or replicas are missing. A failure stops the whole
synchronous job: the position falls back to the last complete copy that is left, then come
detection, the wait for a host where no spare is ready, restart and loading. Steps between two
events are one event. Gaps between failures are exponential with the summed rate, the component is
drawn after; failures come during detection and restart too, none while the job waits for a host.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Generator
from dataclasses import dataclass, field
from itertools import accumulate

import numpy as np
from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.clock import END_RANK, instant
from cluster_sim.errors import SpecError
from cluster_sim.specs.campaign import Degradation
from cluster_sim.training.campaign_failures import DAY_S, Pool, Strikes, Units
from cluster_sim.training.campaign_schedule import Schedule

MAX_EVENTS = 1000  # rows kept of one run
MAX_STRIKES = 1_000_000  # interruptions after which a run is given up
START = "start"  # where a run begins that has no copy yet


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """All that a replication needs beside the schedule. ``replicas`` is the number of data-parallel
    replicas and ``hosts`` that of the job; ``slow`` are slow hosts and degraded links.
    """

    strikes: Strikes
    units: Units
    hosts: int
    replicas: int
    detection_s: float
    restart_s: float
    repair_s: float
    elastic: bool
    slow: tuple[tuple[str, Degradation], ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RunEvent:
    """Something that happened in a run: when, for how long the job stood still, at which step it
    went on, and how many steps were lost; ``checkpoints`` were written since the event before.
    """

    event: str
    at_s: float
    stood_s: float
    step: int
    tokens: int
    what: str
    lost_steps: int
    restored_from: str
    checkpoints: int


@dataclass(slots=True, kw_only=True)
class Played:
    """What one replication counted, in seconds of the job."""

    partial: bool = False
    wall_s: float = 0.0
    position_s: float = 0.0
    lost_s: float = 0.0
    lost_steps: int = 0
    checkpoints: int = 0
    slow_s: float = 0.0
    detection_s: float = 0.0
    repair_s: float = 0.0
    restart_s: float = 0.0
    strikes: list[int] = field(default_factory=list)
    lost_by_stretch_s: list[float] = field(default_factory=list)
    events: list[RunEvent] = field(default_factory=list)
    more_events: int = 0


class _Run:
    """The state of a run between two events."""

    def __init__(self, schedule: Schedule, rules: Rules, random: np.random.Generator) -> None:
        self.schedule, self.rules, self.random = schedule, rules, random
        self.env = Environment()
        self.pool = Pool(rules.units, rules.repair_s)
        self.position = 0.0
        self.saved = [(0.0, 0)] * len(schedule.tiers)  # position and step of the last copy
        self.stretch = 0
        self.resumed_at = 0.0  # position from which this attempt began ...
        self.resumed_step, self.resumed_count = 0, 0  # ... with its steps and checkpoints
        self.bounds = list(accumulate(rules.strikes.per_s))
        self.strike_at = self._gap(rules.strikes.total_per_s)
        self.begins_at = [self._gap(self._rate(one)) for _, one in rules.slow]
        self.lasting: list[tuple[float, float, int]] = []  # (until, factor, kind)
        self.written = 0  # checkpoints since the event before
        self.out = Played(
            strikes=[0] * len(rules.strikes.names),
            lost_by_stretch_s=[0.0] * len(schedule.stretches),
        )

    def _rate(self, one: Degradation) -> float:
        return one.per_1000_host_days / 1e3 / DAY_S * self.rules.hosts

    def _gap(self, per_s: float) -> float:
        return float(self.random.exponential(1.0 / per_s)) if per_s > 0 else math.inf

    def _pick(self, n: int) -> int:
        return int(self.random.integers(n))

    def main(self) -> Generator[Event, None, None]:
        """The life of the job."""
        env, out, rules = self.env, self.out, self.rules
        while (yield from self._go_on()):
            began, lost, what, source = env.now, 0, "", START
            while True:
                if env.now == self.strike_at:
                    what, more, source = self._strike()
                    lost += more
                    if (yield from self._stand("detection", rules.detection_s)):
                        continue
                else:
                    what, source = "rejoin", "peers"
                yield from self._wait_for_hosts()
                load_s = self._load_s(source)
                if not (yield from self._stand("restart", rules.restart_s + load_s)):
                    break
            out.lost_steps += lost
            at_copy = self.position == self.resumed_at
            self._note(
                event="rejoin" if what == "rejoin" else "failure",
                at_s=began,
                stood_s=env.now - began,
                step=self.resumed_step if at_copy else self.schedule.steps_at(self.position),
                what="" if what == "rejoin" else what,
                lost_steps=lost,
                restored_from=source,
            )

    def _go_on(self) -> Generator[Event, None, bool]:
        """Train until the end (false), a failure, or a host for a missing replica (true)."""
        out, end, env = self.out, self.schedule.end_s, self.env
        while True:
            slow = max((factor for _, factor, _ in self.lasting), default=1.0)
            fewer = self.rules.replicas / self._replicas_left()
            factor = slow * fewer
            finish = env.now + (end - self.position) * factor
            rejoin = max(self.pool.due_s, env.now) if self.pool.missing else math.inf
            change = min(min(self.begins_at, default=math.inf), self._next_end())
            at = min(finish, self.strike_at, rejoin, max(change, env.now))
            yield instant(env, at, END_RANK)
            moved = (at - out.wall_s) / factor
            moved = end - self.position if at == finish else min(moved, end - self.position)
            out.slow_s += moved * (slow - 1.0)
            out.repair_s += moved * slow * (fewer - 1.0)
            self.position += moved
            out.wall_s, out.position_s = at, self.position
            if len(self.schedule.starts) > 1:
                self._note_phases(at, factor)
            if at == finish:
                out.checkpoints += self.schedule.saved_by(self.schedule.steps) - self.resumed_count
                return False
            if at == self.strike_at or at == rejoin:
                return True
            self._change(at)

    def _next_end(self) -> float:
        return min((until for until, _, _ in self.lasting), default=math.inf)

    def _change(self, now: float) -> None:
        """Something slow begins or ends."""
        self.lasting = [one for one in self.lasting if one[0] > now]
        for index, (_, kind) in enumerate(self.rules.slow):
            if self.begins_at[index] <= now:
                self.lasting.append((now + kind.repair, kind.slowdown, index))
                self.begins_at[index] = now + self._gap(self._rate(kind))

    def _replicas_left(self) -> int:
        """Each missing host takes a replica, a missing unit as many as it holds."""
        rules = self.rules
        per_unit = max(1, math.ceil(rules.replicas * rules.units.hosts_each / rules.hosts))
        return rules.replicas - self.pool.missing * per_unit

    def _strike(self) -> tuple[str, int, str]:
        """A failure: who, how many steps are lost, and where the state is restored from."""
        rules, schedule, now = self.rules, self.schedule, self.env.now
        point = self.random.random() * rules.strikes.total_per_s
        which = min(bisect_right(self.bounds, point), len(self.bounds) - 1)
        self.out.strikes[which] += 1
        if sum(self.out.strikes) > MAX_STRIKES:
            raise SpecError(
                f"the run is not finished after {MAX_STRIKES} interruptions; lower the failure "
                "rates, or write checkpoints more often"
            )
        self.strike_at = now + self._gap(rules.strikes.total_per_s)
        for tier in range(len(self.saved)):
            reached = schedule.last_saved(tier, self.position)
            if reached[0] > self.resumed_at:
                self.saved[tier] = reached
        if rules.strikes.loses_host[which]:
            self.pool.lose(now, self._pick)
            for tier, kind in enumerate(schedule.tiers):
                if not kind.survives:
                    self.saved[tier] = (0.0, 0)
        copy, source = (0.0, 0), START
        for saved, kind in zip(self.saved, schedule.tiers, strict=True):
            nearer = saved == copy and saved[0] > 0 and kind.load_s < self._load_s(source)
            if saved[0] > copy[0] or nearer:
                copy, source = saved, kind.target
        return rules.strikes.names[which], self._fall_back(*copy), source

    def _fall_back(self, position: float, step: int) -> int:
        """Put the job back to a copy; how many steps are lost."""
        schedule, here = self.schedule, self.position
        if here == position:
            return 0
        reached = schedule.steps_at(here)
        new = schedule.saved_by(reached) - self.resumed_count
        self.written += new
        self.out.checkpoints += new
        self.out.lost_s += here - position
        while here > position:
            index = schedule.stretch_at(here)
            if here == schedule.starts[index] and index:
                index -= 1
            begin = max(position, schedule.starts[index]) if index else position
            self.out.lost_by_stretch_s[index] += here - begin
            here = begin
        self.position = self.resumed_at = self.out.position_s = position
        self.resumed_step, self.resumed_count = step, schedule.saved_by(step)
        self.stretch = schedule.stretch_at(position)
        return reached - step

    def _load_s(self, source: str) -> float:
        return next((t.load_s for t in self.schedule.tiers if t.target == source), 0.0)

    def _stand(self, owner: str, seconds: float) -> Generator[Event, None, bool]:
        """Stand still; true if a failure comes before that is over."""
        end = self.env.now + seconds
        at = min(end, self.strike_at)
        yield instant(self.env, at, END_RANK)
        name = f"{owner}_s"
        setattr(self.out, name, getattr(self.out, name) + at - self.out.wall_s)
        self.out.wall_s = at
        return at < end

    def _wait_for_hosts(self) -> Generator[Event, None, None]:
        """Until all hosts are there; an elastic job waits for one replica only."""
        self.pool.advance(self.env.now)
        began = self.env.now
        while self.pool.missing and not (self.rules.elastic and self._replicas_left() > 0):
            yield instant(self.env, self.pool.due_s, END_RANK)
            self.pool.advance(self.env.now)
        waited = self.env.now - began
        self.out.repair_s += waited
        self.out.wall_s = self.env.now
        self.strike_at += waited
        self.begins_at = [at + waited for at in self.begins_at]
        self.lasting = [one for one in self.lasting if one[0] > self.env.now]

    def _note_phases(self, now: float, factor: float) -> None:
        """Note the phases that were entered on the way to here."""
        schedule = self.schedule
        for index in range(self.stretch + 1, schedule.stretch_at(self.position) + 1):
            part = schedule.stretches[index]
            self.stretch = index
            self._note(
                event="phase",
                at_s=now - (self.position - part.start_s) * factor,
                stood_s=part.switch_s,
                step=part.first_step,
                what=f"{part.tokens_per_step // part.seq_len} x {part.seq_len}",
            )

    def _note(
        self,
        *,
        event: str,
        at_s: float,
        stood_s: float,
        step: int,
        what: str,
        lost_steps: int = 0,
        restored_from: str = "",
    ) -> None:
        out = self.out
        if len(out.events) >= MAX_EVENTS:
            out.more_events += 1
            return
        row = RunEvent(
            event=event,
            at_s=at_s,
            stood_s=stood_s,
            step=step,
            tokens=self.schedule.tokens_at(step),
            what=what,
            lost_steps=lost_steps,
            restored_from=restored_from,
            checkpoints=self.written,
        )
        self.written = 0
        out.events.append(row)


def play(schedule: Schedule, rules: Rules, random: np.random.Generator) -> Played:
    """One replication; on Ctrl-C what it has done so far, marked as partial."""
    run = _Run(schedule, rules, random)
    run.env.process(run.main())
    try:
        run.env.run()
    except KeyboardInterrupt:
        run.out.partial = True
    return run.out
