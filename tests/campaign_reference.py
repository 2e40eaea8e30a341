"""A whole run walked step by step, as plainly as can be: what the skipping one must agree with."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from cluster_sim.training.campaign_play import Rules
from cluster_sim.training.campaign_schedule import Schedule


class Script:
    """In place of a random generator: gaps in order, then none; always the same component."""

    def __init__(self, gaps: Sequence[float], points: Sequence[float] = ()) -> None:
        self.gaps, self.points = deque(gaps), deque(points)

    def exponential(self, scale: float) -> float:
        return self.gaps.popleft() if self.gaps else np.inf

    def random(self) -> float:
        return self.points.popleft() if self.points else 0.0

    def integers(self, n: int) -> int:
        return 0


@dataclass
class Walked:
    wall_s: float = 0.0
    lost_s: float = 0.0
    lost_steps: int = 0
    strikes: int = 0
    checkpoints: int = 0
    saved: dict[int, tuple[int, float]] = field(default_factory=dict)


def walk(schedule: Schedule, rules: Rules, random: Script) -> Walked:
    """One replication without spares to wait for and with nothing slow: one activity after the
    other, an attempt at a time.
    """
    out = Walked()
    acts: list[tuple[str, float, int]] = []  # (what, seconds, tier or step) of the run in order
    step = 0
    for part in schedule.stretches:
        if part.switch_s:
            acts.append(("switch", part.switch_s, 0))
        looks = len(part.stops) - sum(1 for every in part.every if every)
        for _ in range(part.steps):
            step += 1
            acts.append(("step", part.step_s, step))
            acts += [
                ("evaluation", seconds, 0)
                for every, seconds in part.stops[:looks]
                if step % every == 0
            ]
            acts += [
                ("block", tier.block_s, index)
                for index, tier in enumerate(schedule.tiers)
                if part.every[index] and step % part.every[index] == 0
            ]
    # Where a copy of several kinds written after one step leaves off: after the last of them.
    saved = [0] * len(schedule.tiers)  # index of the activity to go on with
    steps_done = np.cumsum([what == "step" for what, _, _ in acts])
    strike = random.exponential(1.0)
    clock, at = 0.0, 0
    while True:
        pending: list[tuple[float, int, int]] = []
        lost_here = 0.0
        begun = at
        struck = False
        while at < len(acts):
            what, seconds, tier = acts[at]
            if clock + seconds > strike:
                struck, lost_here = True, lost_here + strike - clock
                clock = strike
                break
            clock += seconds
            lost_here += seconds
            at += 1
            if what == "block":
                after, before = at, at
                while after < len(acts) and acts[after][0] == "block":
                    after += 1
                while acts[before - 1][0] == "block":
                    before -= 1
                out.checkpoints += after - before if after == at else 0
                rest = sum(acts[i][1] for i in range(at, after))
                pending.append((clock + rest + schedule.tiers[tier].tail_s, tier, after))
        if not struck:
            out.wall_s = clock
            return out
        complete = [entry for entry in pending if entry[0] <= clock]
        for _, tier, index in complete:
            saved[tier] = max(saved[tier], index)
        while True:
            which = int(
                np.searchsorted(
                    np.cumsum(rules.strikes.per_s),
                    random.random() * rules.strikes.total_per_s,
                    side="right",
                )
            )
            out.strikes += 1
            strike = clock + random.exponential(1.0)
            if rules.strikes.loses_host[which]:
                random.integers(1)
                saved = [
                    index if tier.survives else 0
                    for index, tier in zip(saved, schedule.tiers, strict=True)
                ]
            back = max(saved, default=0)
            done = int(steps_done[at - 1]) if at else 0
            if at < len(acts) and acts[at][0] in ("evaluation", "block"):
                done -= 1  # a step counts when all that is due after it is over
            kept = int(steps_done[back - 1]) if back else 0
            out.lost_steps += done - kept
            between = sum(acts[i][1] for i in range(back, begun)) if back < begun else 0.0
            out.lost_s += (
                lost_here
                + between
                - (sum(acts[i][1] for i in range(begun, back)) if back > begun else 0.0)
            )
            lost_here, begun, at = 0.0, back, back
            loads = [
                tier.load_s
                for index, tier in zip(saved, schedule.tiers, strict=True)
                if index == back and back
            ]
            down = rules.detection_s + rules.restart_s + min(loads, default=0.0)
            if clock + down > strike:
                clock = strike
                continue
            clock += down
            break
