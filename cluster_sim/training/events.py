"""A training step as events on the fluid engine, where all that overlaps shares the machine.

Model: a stage does the operations of its schedule one after the other. What it sends goes at once,
beside the next operation, and is needed at the other end. Collectives of a stage run one after the
other on a lane of their own: parameters from the start of the step in the order in which they are
needed, gradients when they are ready. After all stages have all gradients comes the norm, then each
stage's optimizer. An operation during which buckets are needed or become ready has as many equal
parts. Links, SM time and memory bandwidth are shared by the engine's max-min rule.

What has its resources to itself for the whole step is put on the clock as one instant.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from simpy.core import Environment
from simpy.events import Event

from cluster_sim.engine.clock import END_RANK, instant
from cluster_sim.engine.fluid import FluidEngine, Handle
from cluster_sim.engine.fluid_play import play as play_phases
from cluster_sim.training.exclusive import Exclusive, exclusive, phases_of
from cluster_sim.training.step_work import (
    Phases,
    Record,
    StageSeconds,
    StepWork,
    alone_s,
    part_of,
)
from cluster_sim.training.wiring import wire
from cluster_sim.work import Activity

# Rounds of the phases of an operation beside something else. Source: against 80 rounds, random
# steps of PP8 to PP16 differ by up to 0.05 % beside collectives (8 rounds: 0.04 %), and by up to
# 1 % where passes use the NIC that sends use (8 rounds: 0.6 %).
ALTERNATIONS = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class PlayedStep:
    """What happened in a step, in order of ends, and where each stage's time went."""

    records: tuple[Record, ...]
    stages: tuple[StageSeconds, ...]
    end_s: float


def play(work: StepWork, *, instants: bool = True) -> PlayedStep:
    """Play a step. Without ``instants`` all of it goes through the engine, with the same result."""
    env = Environment()
    step = _Step(work, FluidEngine(env, work.capacity, alternations=ALTERNATIONS), instants)
    step.begin()
    env.run()
    return step.result()


class _Books:
    """Seconds of each stage so far, and when it computed and moved its last."""

    def __init__(self, stages: int) -> None:
        self.busy_s, self.slowed_s, self.gather_s = ([0.0] * stages for _ in range(3))
        self.p2p_s, self.optimizer_s = [0.0] * stages, [0.0] * stages
        self.last_end_s, self.lane_end_s = [0.0] * stages, [0.0] * stages

    def close(self, stage: int, norm_s: float, end_s: float) -> StageSeconds:
        """What is not known otherwise is the bubble."""
        exposed_s = max(self.lane_end_s[stage] - self.last_end_s[stage], 0.0)
        known_s = self.busy_s[stage] + self.gather_s[stage] + exposed_s + norm_s
        return StageSeconds(
            busy_s=self.busy_s[stage],
            slowed_s=self.slowed_s[stage],
            gather_exposed_s=self.gather_s[stage],
            gradient_exposed_s=exposed_s,
            norm_s=norm_s,
            optimizer_s=self.optimizer_s[stage],
            bubble_s=end_s - known_s - self.optimizer_s[stage],
            p2p_exposed_s=self.p2p_s[stage],
        )


class _Step:
    """A step that is being played; nodes are those of the schedule."""

    def __init__(self, work: StepWork, engine: FluidEngine, instants: bool) -> None:
        plan = work.schedule
        self.work, self.plan, self.engine, self.env = work, plan, engine, engine.env
        self.wiring = wire(plan)
        self.books, self.records = _Books(plan.stages), list[Record]()
        self.end_s = 0.0
        # What nodes do, whole and in parts, and how long it takes alone.
        self.phases: dict[tuple[int, int], Phases] = {}
        for node in plan.nodes:
            if (node.doing, node.virtual) not in self.phases:
                self.phases[node.doing, node.virtual] = phases_of(work, node)
        self.seconds = {does: alone_s(phases) for does, phases in self.phases.items()}
        self.free = exclusive(work, self.phases, self.seconds) if instants else Exclusive()
        self.sends = {
            (kind, boundary): activity
            for kind, sends in (("F", work.send_forward), ("B", work.send_backward))
            for boundary, activity in enumerate(sends or ())
            if activity is not None and activity.alone_s
        }
        self.in_parts = self._in_parts()
        self.parts: dict[tuple[int, int, int], Phases] = {}
        # Nodes: what each still waits for, when all of it was done and had arrived, its start; the
        # part before which one is paused, and since when; how long it was.
        self.missing = list(self.wiring.waits)
        self.done_s, self.here_s, self.start_s = ([0.0] * len(plan.nodes) for _ in range(3))
        self.paused: dict[int, tuple[int, float]] = {}
        self.paused_s: dict[int, float] = {}
        # Virtual stages: weight gradients to go, and buckets of parameters that are here.
        self.gradients_left = list(self.wiring.gradients)
        self.gathered = [0] * plan.virtual_stages
        # Stages: nodes to go, the buckets that wait and whether one runs; stages to go.
        self.nodes_left = list(self.wiring.nodes_of)
        self.lanes: list[deque[tuple[str, int, Activity]]] = [deque() for _ in range(plan.stages)]
        self.in_lane = [False] * plan.stages
        self.slowable = [0] * plan.stages  # sends on their way that the engine runs
        self.unfinished = plan.stages

    def _in_parts(self) -> dict[int, int]:
        """The nodes that have several parts: first passes that need parameters bucket by bucket,
        and last ones after which gradients are ready so.
        """
        work, parts = self.work, {}
        if work.gathers is not None and work.gathers_needed == "during":
            parts.update({n: len(work.gathers[v]) for v, n in self.wiring.first_forward.items()})
        if work.gradients is not None and work.gradients_ready == "during":
            parts.update({n: len(work.gradients[v]) for v, n in self.wiring.last_gradient.items()})
        return {number: count for number, count in parts.items() if count > 1}

    def begin(self) -> None:
        """Start all that waits for nothing."""
        gathers = self.work.gathers
        free = [number for number, missing in enumerate(self.missing) if not missing]
        if gathers is not None:
            for virtual, number in self.wiring.first_forward.items():
                if gathers[virtual]:
                    self.missing[number] += 1
                    self._queue("gather", virtual, gathers[virtual])
        for number in free:
            if not self.missing[number]:
                self._start(number, self.env.now)

    def _arrive(self, number: int, done_s: float, now_s: float) -> None:
        """One of what a node waits for, done at ``done_s``, is here."""
        if done_s > self.done_s[number]:
            self.done_s[number] = done_s
        self.here_s[number] = now_s
        self.missing[number] -= 1
        if not self.missing[number]:
            self._start(number, now_s)

    def _start(self, number: int, now_s: float) -> None:
        stage, books, here_s = self.plan.nodes[number].stage, self.books, self.here_s[number]
        self.start_s[number] = now_s
        books.gather_s[stage] += now_s - here_s
        books.p2p_s[stage] += here_s - self.done_s[number]
        self._go(number, 0, now_s)

    def _go(self, number: int, part: int, now_s: float) -> None:
        """Start a part of an operation; most have one."""
        stage, _, doing, virtual, _, _ = self.plan.nodes[number]
        does, parts = (doing, virtual), self.in_parts.get(number, 1)
        needed = parts > 1 and self.wiring.first_forward.get(virtual) == number
        if needed and self.gathered[virtual] <= part:
            self.paused[number] = (part, now_s)
            return
        last = part + 1 == parts
        then = partial(self._end, number) if last else partial(self._next, number, part)
        if does in self.free.always or (
            does in self.free.beside_idle_lane and not self.in_lane[stage]
        ):
            instant(self.env, now_s + self.seconds[does] / parts, END_RANK, then)
            return
        key = (*does, parts)
        if key not in self.parts:
            self.parts[key] = part_of(self.phases[does], parts)
        _after(play_phases(self.engine, [self.parts[key]]), then)

    def _next(self, number: int, part: int, event: Event) -> None:
        virtual, gradients = self.wiring.completes[number], self.work.gradients
        if virtual >= 0 and gradients is not None:
            self._queue("gradient", virtual, gradients[virtual][part : part + 1])
        self._go(number, part + 1, self.env.now)

    def _end(self, number: int, event: Event) -> None:
        stage, ops, doing, virtual, _, _ = self.plan.nodes[number]
        now_s, start_s, books, wiring = self.env.now, self.start_s[number], self.books, self.wiring
        busy_s = now_s - start_s
        if number in self.paused_s:
            books.gather_s[stage] += self.paused_s[number]
            busy_s -= self.paused_s[number]
        books.busy_s[stage] += busy_s
        books.slowed_s[stage] += busy_s - self.seconds[doing, virtual]
        books.last_end_s[stage] = now_s
        self.nodes_left[stage] -= 1
        for op in ops:
            self.records.append(
                Record(stage, "compute", op.kind, op.micro_batch, op.chunk, start_s, now_s)
            )
        completed, follows = wiring.completes[number], wiring.next[number]
        if completed >= 0:  # before the next node starts, which then has the lane beside it
            self._count_gradient(number, completed)
        for target, boundary, kind in wiring.gets[number]:
            activity = self.sends.get((kind, boundary))
            if activity is None:
                self._arrive(target, now_s, now_s)
            else:
                self._send(number, target, boundary, kind, activity)
        if follows >= 0:
            self._arrive(follows, now_s, now_s)
        self._check_finished(stage)

    def _send(self, number: int, target: int, boundary: int, kind: str, activity: Activity) -> None:
        now_s, stage, free = self.env.now, self.plan.nodes[number].stage, self.free
        then = partial(self._sent, number, target, kind, now_s)
        if (kind, boundary) in free.sends or (
            (kind, boundary) in free.sends_beside_idle_lane
            and not self.in_lane[stage]
            and not self.slowable[stage]
        ):
            instant(self.env, now_s + activity.alone_s, END_RANK, then)
        else:
            self.slowable[stage] += 1
            _after(self.engine.start(activity), then)

    def _sent(self, number: int, target: int, kind: str, start_s: float, event: Event) -> None:
        stage, ops, *_ = self.plan.nodes[number]
        now_s, op = self.env.now, ops[-1] if kind == "B" else ops[0]
        if isinstance(event, Handle):
            self.slowable[stage] -= 1
        self.records.append(Record(stage, "p2p", kind, op.micro_batch, op.chunk, start_s, now_s))
        self._arrive(target, start_s, now_s)

    def _count_gradient(self, number: int, virtual: int) -> None:
        self.gradients_left[virtual] -= 1
        gradients, stage = self.work.gradients, self.plan.nodes[number].stage
        if gradients is None:
            return
        if self.work.gradients_ready == "end":
            if self.nodes_left[stage] == 0:
                for v in self.wiring.last_gradient:
                    if self.plan.home(v)[0] == stage:
                        self._queue("gradient", v, gradients[v])
        elif not self.gradients_left[virtual]:
            self._queue("gradient", virtual, gradients[virtual][self.in_parts.get(number, 1) - 1 :])

    def _queue(self, kind: str, virtual: int, buckets: Sequence[Activity]) -> None:
        """Put buckets on the lane of the stage."""
        stage, _ = self.plan.home(virtual)
        self.lanes[stage].extend((kind, virtual, bucket) for bucket in buckets)
        self._next_bucket(stage)

    def _next_bucket(self, stage: int) -> None:
        lane = self.lanes[stage]
        if self.in_lane[stage] or not lane:
            return
        self.in_lane[stage] = True
        kind, virtual, bucket = lane.popleft()
        then = partial(self._bucket_done, stage, kind, virtual, self.env.now)
        _after(self.engine.start(bucket), then)

    def _bucket_done(
        self, stage: int, kind: str, virtual: int, start_s: float, event: Event
    ) -> None:
        now_s, chunk = self.env.now, self.plan.home(virtual)[1]
        self.records.append(Record(stage, "collective", kind, -1, chunk, start_s, now_s))
        self.in_lane[stage] = False
        self.books.lane_end_s[stage] = now_s
        self._next_bucket(stage)  # before a node starts, which then has the lane beside it
        if kind == "gather":
            self._gathered(virtual)
        self._check_finished(stage)

    def _gathered(self, virtual: int) -> None:
        """One more bucket of parameters is here."""
        self.gathered[virtual] += 1
        number = self.wiring.first_forward[virtual]
        if number in self.paused:
            part, since_s = self.paused.pop(number)
            self.paused_s[number] = self.paused_s.get(number, 0.0) + self.env.now - since_s
            self._go(number, part, self.env.now)
        elif self.gathered[virtual] == self._needed_first(virtual):
            self.missing[number] -= 1
            if not self.missing[number]:
                self._start(number, self.env.now)

    def _needed_first(self, virtual: int) -> int:
        """Buckets of parameters without which a virtual stage cannot start."""
        gathers = self.work.gathers
        during = self.work.gathers_needed == "during"
        return 1 if during or gathers is None else len(gathers[virtual])

    def _check_finished(self, stage: int) -> None:
        if self.nodes_left[stage] or self.in_lane[stage]:
            return
        self.unfinished -= 1
        if self.unfinished:
            return
        self.end_s = self.env.now + self.work.barrier_s
        instant(self.env, self.end_s, END_RANK, self._optimize)

    def _optimize(self, event: Event) -> None:
        for stage, activity in enumerate(self.work.optimizer or ()):
            if activity is not None and activity.alone_s:
                then = partial(self._optimized, stage, self.env.now)
                _after(self.engine.start(activity), then)

    def _optimized(self, stage: int, start_s: float, event: Event) -> None:
        self.end_s = self.env.now
        self.books.optimizer_s[stage] = self.env.now - start_s
        self.records.append(Record(stage, "compute", "optimizer", -1, 0, start_s, self.env.now))

    def result(self) -> PlayedStep:
        """Close the books."""
        norm_s, stages = self.work.barrier_s, range(self.plan.stages)
        return PlayedStep(
            records=tuple(self.records),
            stages=tuple(self.books.close(stage, norm_s, self.end_s) for stage in stages),
            end_s=self.end_s,
        )


def _after(event: Event, then: Callable[[Event], None]) -> None:
    assert event.callbacks is not None
    event.callbacks.append(then)
