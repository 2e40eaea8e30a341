"""The run as it would go if nothing ever failed: one position in seconds for every step, evaluation
and checkpoint of it, found without walking there.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

from cluster_sim.errors import SpecError
from cluster_sim.specs.campaign import Campaign, LearningPhase
from cluster_sim.training.campaign_checkpoints import Tier

SHARES = ("exposed_communication", "bubble", "recompute")
MAX_STEPS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFacts:
    """A step of one shape: seconds, joules of the job's hosts at the wall, and the shares of its
    time that are exposed communication, bubble and recompute; the rest is productive.
    """

    step_s: float
    energy_j: float = 0.0
    exposed_communication: float = 0.0
    bubble: float = 0.0
    recompute: float = 0.0

    def __post_init__(self) -> None:
        shares = [getattr(self, name) for name in SHARES]
        if not (math.isfinite(self.step_s) and self.step_s > 0):
            raise SpecError(f"a step must take a positive time (got {self.step_s} s)")
        if min(shares) < 0 or math.fsum(shares) > 1 + 1e-9:
            raise SpecError(f"shares of a step must lie within 0 and 1 together (got {shares})")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Steps of one shape: where they begin, and what comes every so many steps of the whole run.

    ``stops``: (every how many steps, seconds), evaluation first, then the kinds of checkpoint;
    ``every`` the same numbers of steps for the kinds alone.
    """

    first_step: int
    steps: int
    start_s: float
    switch_s: float
    step_s: float
    tokens_per_step: int
    seq_len: int
    facts: StepFacts
    stops: tuple[tuple[int, float], ...]
    every: tuple[int, ...]

    def offset_s(self, steps: int) -> float:
        """Seconds from the beginning to the end of its first ``steps`` steps, with all that is due
        by then.
        """
        total, before = steps * self.step_s, self.first_step
        for every, seconds in self.stops:
            total += ((before + steps) // every - before // every) * seconds
        return total

    def steps_at(self, offset_s: float) -> int:
        """How many steps, with all that is due after them, end by an offset."""
        rate, slack = self.step_s, 0.0
        for every, seconds in self.stops:
            rate += seconds / every
            slack += seconds
        low = max(0, int((offset_s - slack) / rate) - 1)
        high = min(self.steps, int((offset_s + slack) / rate) + 1)
        if high <= 0 or offset_s < 0:
            return 0
        low = min(low, high)
        while low < high:
            middle = (low + high + 1) // 2
            if self.offset_s(middle) <= offset_s:
                low = middle
            else:
                high = middle - 1
        return low

    @property
    def end_s(self) -> float:
        """Where it ends."""
        return self.start_s + self.offset_s(self.steps)


class Schedule:
    """The stretches of a run, and what lies at a position."""

    def __init__(self, stretches: Sequence[Stretch], tiers: Sequence[Tier]) -> None:
        self.stretches, self.tiers = tuple(stretches), tuple(tiers)
        self.starts = [stretch.start_s for stretch in stretches]
        self.end_s = stretches[-1].end_s
        self.steps = stretches[-1].first_step + stretches[-1].steps

    def stretch_at(self, position_s: float) -> int:
        """Which stretch a position is in; the switch to the next one counts with the former."""
        return max(0, bisect_right(self.starts, position_s) - 1)

    def steps_at(self, position_s: float) -> int:
        """Steps of the whole run that are finished at a position."""
        stretch = self.stretches[self.stretch_at(position_s)]
        return stretch.first_step + stretch.steps_at(position_s - stretch.start_s)

    def tokens_at(self, step: int) -> int:
        """Tokens of the first ``step`` steps."""
        return sum(
            min(max(step - part.first_step, 0), part.steps) * part.tokens_per_step
            for part in self.stretches
        )

    def last_saved(self, tier: int, position_s: float) -> tuple[float, int]:
        """Position just after the last checkpoint of a kind that is complete by a position, and its
        step; (0, 0) is the beginning of the run.
        """
        reached_s = position_s - self.tiers[tier].tail_s
        for index in range(self.stretch_at(reached_s), -1, -1):
            part = self.stretches[index]
            every = part.every[tier]
            if not every:
                continue
            steps = part.steps_at(reached_s - part.start_s)
            step = (part.first_step + steps) // every * every
            if step > part.first_step:
                return part.start_s + part.offset_s(step - part.first_step), step
        return 0.0, 0

    def saved_by(self, step: int) -> int:
        """How many checkpoints of all kinds are due by the end of a step."""
        count = 0
        for part in self.stretches:
            reached = min(step, part.first_step + part.steps)
            if reached <= part.first_step:
                break
            for every in part.every:
                if every:
                    count += reached // every - part.first_step // every
        return count


def make_schedule(
    campaign: Campaign,
    default: LearningPhase,
    price: Callable[[int, int], StepFacts],
    tiers: Sequence[Tier],
    straggler: float = 1.0,
) -> Schedule:
    """The schedule of a run; ``price(global_batch, seq_len)`` gives the facts of a step and
    ``straggler`` its factor on the time of a step.

    Each phase takes whole steps until its tokens are reached. Raises SpecError for a checkpoint
    longer than its interval and for runs of over a thousand million steps.
    """
    stretches: list[Stretch] = []
    step, tokens, at_s = 0, 0, 0.0
    for phase in campaign.phases or (default,):
        until = min(phase.until or campaign.tokens, campaign.tokens)
        per_step = phase.global_batch * phase.seq_len
        steps = math.ceil((until - tokens) / per_step)
        if steps <= 0:
            continue
        if steps > MAX_STEPS:
            raise SpecError(
                f"run.tokens: {steps:.3g} steps of {per_step} tokens are more than "
                f"{MAX_STEPS:.0e}; take a larger batch"
            )
        facts = price(phase.global_batch, phase.seq_len)
        step_s = facts.step_s * straggler
        every = tuple(tier.every_steps(step_s) for tier in tiers)
        blocks = [(n, tier.block_s) for n, tier in zip(every, tiers, strict=True) if n]
        look = campaign.evaluation
        looks = [(look.every_steps, look.time)] if look else []
        stretch = Stretch(
            first_step=step,
            steps=steps,
            start_s=at_s + phase.switch,
            switch_s=phase.switch,
            step_s=step_s,
            tokens_per_step=per_step,
            seq_len=phase.seq_len,
            facts=facts,
            stops=(*looks, *blocks),
            every=every,
        )
        stretches.append(stretch)
        step, tokens, at_s = step + steps, tokens + steps * per_step, stretch.end_s
    return Schedule(stretches, tiers)


def straggler_factor(jitter: float, hosts: int) -> float:
    """How much longer a step takes that waits for the slowest of its hosts.

    Model: 1 + sigma E[largest of n normals], the latter by Blom's approximation, the quantile
    (n - 0.375) / (n + 0.25). Source: Blom 1958.
    """
    if jitter == 0 or hosts < 2:
        return 1.0
    return 1.0 + jitter * NormalDist().inv_cdf((hosts - 0.375) / (hosts + 0.25))


def owners_by(schedule: Schedule, position_s: float) -> dict[str, float]:
    """Seconds up to a position by owner; what is under way there belongs to ``lost``."""
    owners = dict.fromkeys(
        ("productive", *SHARES, "slow", "evaluation", "checkpoint", "restart", "lost"), 0.0
    )
    step = schedule.steps_at(position_s)
    done_s = 0.0
    for part in schedule.stretches:
        steps = min(step - part.first_step, part.steps)
        if position_s < part.start_s:
            break
        facts = part.facts
        owners["restart"] += part.switch_s
        done_s = part.start_s + part.offset_s(steps)
        kept = 1.0 - math.fsum(getattr(facts, name) for name in SHARES)
        owners["productive"] += steps * facts.step_s * kept
        for name in SHARES:
            owners[name] += steps * facts.step_s * getattr(facts, name)
        owners["slow"] += steps * (part.step_s - facts.step_s)
        looks = len(part.stops) - sum(1 for every in part.every if every)
        for index, (every, seconds) in enumerate(part.stops):
            times = (part.first_step + steps) // every - part.first_step // every
            owners["evaluation" if index < looks else "checkpoint"] += times * seconds
    owners["lost"] += position_s - done_s
    return owners
