"""Steps of phases on the fluid engine.

Alone, a series of steps is one event at its end. From the moment somebody else comes on one of its
resources, what is left of the current step is played phase by phase in ``ALTERNATIONS`` rounds, as
the layers of a model alternate, until the others have left. Beside those who stay for good a step
takes as long in one round, which is what it is then played in.

Limits: a part of a step that ran alone counts as the same share of each of its phases. A
step in one round ends in it, even if somebody else comes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from simpy.events import Event

from cluster_sim.engine.fluid import FluidEngine, Handle, Running
from cluster_sim.engine.fluid_loops import TIE
from cluster_sim.engine.fluid_meter import Meter
from cluster_sim.work import Activity, Phase

NOTHING = 1e-12  # a part of a phase in a round that is smaller is rounding


def play(engine: FluidEngine, steps: Sequence[Sequence[Phase]]) -> Play:
    """Play steps one after the other; an event that succeeds when the last is complete. Its
    ``ends_s`` are then the times at which each ended.
    """
    series = Play(engine, steps)
    series.begin()
    return series


@dataclass(frozen=True, slots=True, kw_only=True)
class Rest:
    """What is left of a step that was stopped: a share of it (``left``), or the parts of each round
    (which phase, and which share of it), the ``rounds`` to go, and of the part ``at`` which it
    stopped the share that is left.
    """

    left: float
    parts: tuple[tuple[int, float], ...] = ()
    rounds: int = 0
    at: int = 0
    part_left: float = 0.0


class Play(Handle):
    """Steps that are played; one object may stand for several equal steps in a row. ``left`` is the
    share of the first that is still to do.
    """

    def __init__(
        self, engine: FluidEngine, steps: Sequence[Sequence[Phase]], left: float = 1.0
    ) -> None:
        super().__init__(engine)
        if not steps or not 0 < left <= 1:
            raise ValueError(f"{len(steps)} steps and left(={left}): must be > 0, left at most 1")
        self.steps = steps
        self.ends_s: list[float] = []
        self._seconds: list[float] = []
        self._rate: dict[int, float] = {}  # the largest of any phase, per resource
        for i, phases in enumerate(steps):
            if i and phases is steps[i - 1]:
                self._seconds.append(self._seconds[-1])
                continue
            self._seconds.append(sum(phase.activity.alone_s for phase in phases))
            for activity in (phase.activity for phase in phases):
                for r, demand in zip(activity.resources, activity.demand, strict=True):
                    rate = demand / activity.alone_s
                    self._rate[r] = max(self._rate.get(r, 0.0), rate)
        self._left = left  # share of the current step, when the stretch or round began
        self._stretch_s: list[float] = []  # ends of the steps, while it runs alone
        self._round: list[tuple[Activity, float]] = []  # the parts of each round of a step ...
        self._at = self._rounds = 0  # ... the part that runs, and the rounds to go
        self._part: Running | None = None
        # Of its time alone, without the stretch or part that runs.
        self._done_s = (1 - left) * self._seconds[0]

    def begin(self) -> None:
        """Claim all resources and go."""
        claims = self.engine.claims
        if any(r >= len(claims) for r in self._rate):
            raise ValueError(f"resources(={tuple(self._rate)}) must be < {len(claims)}")
        self._claim()
        self._go()

    def _claim(self) -> None:
        self.engine.claim(self._rate)
        self.engine.tell(self._rate, parts=False)

    def begin_with(self, rest: Rest) -> None:
        """Claim all resources and go on with what was left of an equal step, maybe on others."""
        if not rest.parts:
            self.begin()
            return
        self._claim()
        phases = [phase.activity for phase in self.steps[0]]
        self._round = [(phases[number], share) for number, share in rest.parts]
        self._at, self._rounds = rest.at, rest.rounds
        activity, share = self._round[self._at]
        if rest.part_left > NOTHING * share:
            self._run(activity, rest.part_left)
        else:
            self._next_part(self)

    def stop(self) -> Rest:
        """Stop it in its only step; returns what is left."""
        phases = [phase.activity for phase in self.steps[0]]
        place = {id(activity): number for number, activity in enumerate(phases)}
        part = self._part
        if self._stretch_s or part is None or self.triggered:
            self.cancel()
            return Rest(left=0.0 if self.triggered or self.ends_s else self._left)
        left, share = self._left, self._round[self._at][1]
        before = share - part.share  # done by one in whose place this went on
        done = before + part.cancel()
        if part.callbacks is not None:  # it may have ended at this instant
            part.callbacks.clear()
        self.cancel()
        parts = tuple((place[id(activity)], size) for activity, size in self._round)
        return Rest(
            left=left, parts=parts, rounds=self._rounds, at=self._at, part_left=share - done
        )

    def _go(self) -> None:
        """Go on from the start of a step."""
        while len(self.ends_s) < len(self.steps):
            if self._is_alone():
                self._go_alone()
                return
            if self._seconds[len(self.ends_s)] > 0:
                self._alternate()
                return
            self.ends_s.append(self.env.now)
        self._finish()

    def _is_alone(self) -> bool:
        claims, capacity = self.engine.claims, self.engine.capacity
        return all(
            claims[r] == 1 and rate <= capacity[r] * (1 + TIE) for r, rate in self._rate.items()
        )

    def _go_alone(self) -> None:
        first, *later = self._seconds[len(self.ends_s) :]
        self.since_s = self.env.now
        self._stretch_s = list(accumulate([self.since_s + first * self._left, *later]))
        for r in self._rate:
            self.engine.owner[r] = self
        self._ring_at(self._stretch_s[-1])

    def _did(self) -> list[tuple[Sequence[Phase], float]]:
        """The steps of the stretch that runs, and the share of each that it did by now; equal ones
        in a row add up.
        """
        now_s, first = self.env.now, len(self.ends_s)
        whole = bisect_right(self._stretch_s, now_s)
        did: list[tuple[Sequence[Phase], float]] = []
        for i, end_s in enumerate(self._stretch_s[: whole + 1]):
            share = 1.0 if i else self._left
            if i == whole:
                share -= (end_s - now_s) / self._seconds[first + i]
            phases = self.steps[first + i]
            if i > 1 and phases is did[-1][0]:
                did[-1] = (phases, did[-1][1] + share)
            else:
                did.append((phases, share))
        return did

    def account(self, meter: Meter) -> None:
        """Add what the stretch did; parts account for themselves."""
        for phases, share in self._did():
            for activity in (phase.activity for phase in phases):
                meter.alone(activity, share, share * activity.alone_s)

    def _stop_alone(self) -> None:
        """Book what the stretch did by now."""
        self.account(self.engine.meter)
        self._silence()
        self.engine.disown(self, self._rate)
        now_s = self.env.now
        whole = bisect_right(self._stretch_s, now_s)
        self._done_s += sum(share * _seconds(phases) for phases, share in self._did())
        self.ends_s += self._stretch_s[:whole]
        if whole < len(self._stretch_s):
            self._left = (self._stretch_s[whole] - now_s) / self._seconds[len(self.ends_s)]
        self._stretch_s = []

    def disturb(self) -> None:
        """Play by parts from now on."""
        self._stop_alone()
        if len(self.ends_s) < len(self.steps):
            self._alternate()
        else:  # it ends at this instant, but whoever comes goes on first
            self.engine.unclaim(self._rate)
            self.succeed()

    def _alternate(self) -> None:
        """Play what is left of the current step in rounds of all its phases.

        The rounds begin where the step stands in its own alternation, so that a short visitor meets
        each phase as often as it takes.
        """
        step, engine = len(self.ends_s), self.engine
        whole = self._left == 1
        stay = whole and all(engine.claims[r] == 1 + engine.staying[r] for r in self._rate)
        count = 1 if stay else engine.alternations
        share, position = self._left / count, (1 - self._left) * count % 1 * self._seconds[step]
        phases = [p.activity for p in self.steps[step] if p.activity.alone_s > 0]
        begin, passed = 0, 0.0
        for begin, activity in enumerate(phases):  # noqa: B007
            passed = position / activity.alone_s
            if passed < 1:
                break
            position -= activity.alone_s
        passed = min(passed, 1.0)
        order = [*phases[begin:], *phases[:begin]]
        parts = [(order[0], (1 - passed) * share), *((a, share) for a in order[1:])]
        parts.append((order[0], passed * share))
        self._round = [(activity, part) for activity, part in parts if part > NOTHING * share]
        self._at, self._rounds = 0, count
        self._start_part()

    def _start_part(self) -> None:
        self._run(*self._round[self._at])

    def _run(self, activity: Activity, share: float) -> None:
        self._part = Running(self.engine, activity, share, claims=1)
        assert self._part.callbacks is not None
        self._part.callbacks.append(self._next_part)
        self.engine.begin(self._part)

    def _next_part(self, event: Event) -> None:
        activity, share = self._round[self._at]
        self._done_s += share * activity.alone_s
        self._at += 1
        if self._at < len(self._round):
            self._start_part()
            return
        self._at = 0
        self._rounds -= 1
        self._left *= self._rounds / (self._rounds + 1)
        if not self._rounds:
            self._part, self._left = None, 1.0
            self.ends_s.append(self.env.now)
            self._go()
        elif self._is_alone():
            self._part = None
            self._go_alone()
        else:
            self._start_part()

    def cancel(self) -> float:
        """Stop it; returns the share of its time alone that is done."""
        total_s = sum(self._seconds)
        if not self.triggered and not self._cancelled:
            if self._stretch_s:
                self._stop_alone()
            elif self._part is not None:
                self._done_s += self._part.cancel() * self._part.activity.alone_s
            self.engine.unclaim(self._rate)
            self._cancelled = True
        return self._done_s / total_s if total_s > 0 else 1.0

    def _end(self) -> None:
        self._stop_alone()
        self._finish()

    def _finish(self) -> None:
        self.engine.unclaim(self._rate)
        self._complete()


def _seconds(phases: Sequence[Phase]) -> float:
    return sum(phase.activity.alone_s for phase in phases)
