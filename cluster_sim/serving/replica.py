"""The fast replica: batches that do their steps together, advanced by segments.

A run of steps in which all batches only decode is one segment: the number of sequences stays, the
context grows by it a step (with drafts by what its pace gives), so all end times come from one
expression, summed in the order of single steps.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections import Counter
from itertools import repeat

import numpy as np
from numpy.typing import NDArray

from cluster_sim.perf.family import NOTHING, Batch
from cluster_sim.serving.fast_rank import FastRank
from cluster_sim.serving.records import Outcomes, StepLog
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.tape import Tape

SHORT_SEGMENT = 24  # up to here a Python loop beats the fixed cost of numpy calls


class FastReplica:
    """One copy of the model; a drop-in for StepByStepReplica that advances by segments."""

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec = index, spec
        self.ranks = [FastRank(i, spec, outcomes) for i in range(spec.ranks)]
        self.in_step = False
        self.start_s = self.end_s = self.idle_s = 0.0
        self.log = StepLog()
        self.shared: Counter[int] = Counter()
        self.steps = 0
        self.far = False  # segments pass the horizon; who sends a request shortens them
        self._busy = self.ranks
        self._only = self.ranks[0] if spec.ranks == 1 else None
        self._counts_shared = spec.price.shared_s is not None
        self._pace, self._width = spec.pace, spec.price.decode_tokens
        self._segment: array[float] | None = None
        self.tape: Tape | None = None

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        only = self._only
        if only is not None:
            return bool(only.running) or only.waiting.count > 0
        return any(rank.running or rank.waiting.count for rank in self.ranks)

    @property
    def outstanding(self) -> int:
        """Unfinished requests."""
        return sum(rank.outstanding for rank in self.ranks)

    def enqueue(self, request: int, at_s: float) -> None:
        """Queue an arriving request where the fewest are; an idle replica will start its next step
        now.
        """
        if not self.in_step and not self.has_work:
            self.idle_s += at_s - self.start_s
            self.start_s = at_s
            if self.tape is not None:
                self.tape.wakes.append((self.steps, at_s))
        rank = self._only or min(self.ranks, key=lambda rank: rank.outstanding)
        rank.enqueue(request)

    def advance(self, until_s: float) -> None:
        """Run everything that happens before ``until_s``; a step that starts or ends at it is left
        for later.
        """
        while True:
            if self.in_step:
                if self.end_s >= until_s:
                    return
                self.complete()
            if self.start_s >= until_s or not self.has_work:
                return
            self.begin(math.inf if self.far else until_s)

    def begin(self, horizon_s: float) -> None:
        """Start a step at ``start_s``, or a segment of decode steps up to the first that ends at
        the horizon.
        """
        ranks, now = self.ranks, self.start_s
        if self._only is not None:
            mixed = self._only.decide(now)
        else:
            ranks = self._busy = [rank for rank in ranks if rank.has_work]
            mixed = False
            for rank in ranks:
                mixed |= rank.decide(now)
        self.in_step = True
        if not mixed:
            self._segment = self._decode_ends(horizon_s)
            self.end_s = self._segment[-1]
            return
        self._segment = None
        steps_s, total = [], 0
        for rank in ranks:
            step_s, tokens = rank.begin_mixed(now)
            steps_s.append(step_s)
            total += tokens
        if self._counts_shared:
            self.shared[total] += 1
        self.end_s = now + self.spec.price.round_s(steps_s, total)

    def complete(self) -> list[int]:
        """End the running step or segment; returns the requests that finished, in order of rank and
        admission.
        """
        self.in_step = False
        self.start_s = self.end_s
        return self._complete_mixed() if self._segment is None else self._complete_segment()

    def shorten(self, at_s: float) -> bool:
        """Cut a segment after the step that runs at ``at_s``; true if its end moved."""
        ends = self._segment
        if ends is None or not self.in_step:
            return False
        keep = bisect_left(ends, at_s) + 1
        if keep >= len(ends):
            return False
        del ends[keep:]
        self.end_s = ends[-1]
        return True

    def last_step(self) -> tuple[float, list[Batch]]:
        """When the last step of what runs starts, and what the batches do in it."""
        ends = self._segment
        if ends is None:
            return self.start_s, [rank.consists or NOTHING for rank in self._busy]
        before, batches = len(ends) - 1, []
        for rank in self._busy:
            gained = rank.gained(before)
            context = rank.context + gained * rank.decoding
            near = rank.near.tokens + gained * rank.near.growing
            batches.append(Batch(rank.decoding, context, near, 0, 0, 0.0, 0))
        return ends[-2] if before else self.start_s, batches

    def end_at(self, end_s: float) -> None:
        """Let the last step of what runs end at another time."""
        self.end_s = end_s
        if self._segment is not None:
            self._segment[-1] = end_s

    def _decode_ends(self, horizon_s: float) -> array[float]:
        """End times of decode-only steps until a batch changes or the horizon is passed."""
        if len(self._busy) > 1 or self._counts_shared:
            return self._ends_together(horizon_s)
        rank, price, pace = self._busy[0], self.spec.price, self._pace
        steps = rank.stretch()
        now, context, decoding = self.start_s, rank.context, rank.decoding
        near, growing = rank.near.tokens, rank.near.growing
        base, slope, near_slope = (
            price.decode_base_s[decoding],
            price.context_s,
            price.local_context_s,
        )
        quick = steps
        if steps > SHORT_SEGMENT:
            far = horizon_s > now + SHORT_SEGMENT * (base + slope * context)
            quick = 0 if far else SHORT_SEGMENT
        ends = array("d")
        gains = repeat(1, quick) if pace is None else pace.each(rank.paced, quick)
        for gained in gains:
            # Without local attention the last term is 0, which changes no bit.
            now += base + slope * context + near_slope * near if near else base + slope * context
            ends.append(now)
            if now >= horizon_s:
                return ends
            context += gained * decoding
            near += gained * growing
        if quick < steps:
            worth = _within(steps - quick, horizon_s, now, base + slope * context)
            count = self._gained(rank.paced + quick, worth)
            more = price.decode_stretch_s(decoding, context, near, growing, worth, count)
            ends += _until(now, more, horizon_s)
        return ends

    def _ends_together(self, horizon_s: float) -> array[float]:
        """The same for several batches: the slowest decides each step."""
        price, now = self.spec.price, self.start_s
        shortest = max(
            price.decode_base_s[rank.decoding] + price.context_s * rank.context
            for rank in self._busy
        )
        steps = _within(min(rank.stretch() for rank in self._busy), horizon_s, now, shortest)
        each = [
            price.decode_stretch_s(
                rank.decoding,
                rank.context,
                rank.near.tokens,
                rank.near.growing,
                steps,
                self._gained(rank.paced, steps),
            )
            for rank in self._busy
        ]
        seconds = np.maximum.reduce(each)
        if price.shared_s is not None:
            tokens = sum(rank.decoding for rank in self._busy) * self._width
            seconds = seconds + float(price.shared_s[tokens])
        return _until(now, seconds, horizon_s)

    def _gained(self, done: int, steps: int) -> NDArray[np.float64] | None:
        """What a sequence has gained before each of the next steps, if not one a step."""
        return None if self._pace is None else self._pace.before(done, steps).astype(np.float64)

    def _complete_segment(self) -> list[int]:
        ends, self._segment = self._segment, None
        assert ends is not None
        steps, log = len(ends), self.log
        finished: list[int] = []
        emitted = chained = 0
        gains, pace = None, self._pace
        if pace is not None:
            gains = [[n * r.decoding for n in pace.each(r.paced, steps)] for r in self._busy]
        for rank in self._busy:
            emitted += rank.decoding
            done, following = rank.decode(steps, ends[0], ends[-1], self.steps, log)
            chained += following
            if done:
                finished += [request for _, request in done]
        if self._counts_shared:
            self.shared[emitted * self._width] += steps
        self.steps += steps
        if gains is not None:
            self._log_gains(ends, gains, emitted, chained)
        elif steps == 1:
            log.end_s.append(ends[0])
            log.emitted.append(emitted)
            log.chained.append(chained)
        else:
            same = array("i", (emitted,))
            log.end_s.extend(ends)
            log.emitted.extend(same * steps)
            log.chained.append(chained)
            log.chained.extend(same * (steps - 1))
        return finished

    def _log_gains(
        self, ends: array[float], gains: list[list[int]], sequences: int, chained: int
    ) -> None:
        """Log a segment in which each of so many sequences may get several tokens a step; ``gains``
        are the tokens of each batch.
        """
        tokens = gains[0] if len(gains) == 1 else [sum(each) for each in zip(*gains, strict=True)]
        tokens[-1] -= sum(rank.cut for rank in self._busy)
        log, same = self.log, array("i", (sequences,))
        log.end_s.extend(ends)
        log.emitted.extend(tokens)
        log.chained.append(chained)
        log.chained.extend(same * (len(ends) - 1))
        log.together.extend([each - sequences for each in tokens])

    def _complete_mixed(self) -> list[int]:
        now, log = self.end_s, self.log
        finished: list[int] = []
        emitted = chained = together = prompted = 0
        for rank in self._busy:
            done, tokens, following, more, new = rank.complete_mixed(now, self.steps, log)
            finished += [request for _, request in done]
            emitted += tokens
            chained += following
            together += more
            prompted += new
        self.steps += 1
        if prompted:
            log.prompt_s.append(now)
            log.prompt_tokens.append(prompted)
        if self._pace is not None:
            log.together.append(together)
        log.end_s.append(now)
        log.emitted.append(emitted)
        log.chained.append(chained)
        return finished


def _within(steps: int, horizon_s: float, now: float, shortest_s: float) -> int:
    """Steps worth pricing before the horizon: those that pass it even if all are as short as the
    first can be, at most the steps there are.
    """
    if not shortest_s > 0 or horizon_s >= now + shortest_s * steps:
        return steps
    # Two more guard the rounding.
    return min(steps, int((horizon_s - now) / shortest_s) + 2)


def _until(now: float, seconds: NDArray[np.float64], horizon_s: float) -> array[float]:
    """End times of steps of given lengths, added one after the other as single steps would, up to
    the first at the horizon.
    """
    clock = np.empty(len(seconds) + 1)
    clock[0] = now
    clock[1:] = seconds
    ends = np.add.accumulate(clock)[1:]
    keep = int(ends.searchsorted(horizon_s)) + 1
    return array("d", ends[:keep].tobytes())
