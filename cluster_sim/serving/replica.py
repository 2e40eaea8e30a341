"""The fast replica: the same steps as the reference, with work that does not grow with the batch.

What the reference loops over, this one keeps as sums: decoding sequences, their context, and how
many of them need a new KV block at which remainder of the decode counter. A run of decode-only
steps is one segment: the number of sequences stays, the context grows by it a step, so all end
times come from one expression, summed in the order of single steps.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Iterator
from heapq import heapify, heappop, heappush

import numpy as np

from cluster_sim.errors import SimulationError
from cluster_sim.serving.records import Outcomes, Status, StepCounts, StepLog
from cluster_sim.serving.scheduler import Decision, Holder, Prompt, View
from cluster_sim.serving.stepper import ReplicaSpec

SHORT_SEGMENT = 24  # up to here a Python loop beats the fixed cost of numpy calls


class _Running:
    """A request that holds blocks; once it decodes, tokens emitted = decode steps of the replica -
    ``birth``.
    """

    __slots__ = ("admission", "birth", "blocks", "computed", "left", "token_s", "token_step")

    def __init__(self, admission: int, left: int) -> None:
        self.admission, self.left = admission, left
        self.computed = self.blocks = self.birth = 0
        self.token_s, self.token_step = 0.0, -1


class FastReplica:
    """One copy of the model; a drop-in for StepByStepReplica that advances by segments."""

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec, self.outcomes = index, spec, outcomes
        self.isl, self.osl = outcomes.isl, outcomes.osl
        self.waiting: deque[int] = deque()
        self.running: dict[int, _Running] = {}  # in order of admission
        self.prefilling: dict[int, _Running] = {}
        self.preempted: dict[int, tuple[int, float, int]] = {}  # tokens, time and step of the last
        self.free = spec.blocks
        self.outstanding = self.steps = 0
        self.in_step = False
        self.start_s = self.end_s = 0.0
        self.log, self.counts = StepLog(), StepCounts()
        self._decoding = self._context = self._fresh = self._admissions = 0
        self._decodes = 0  # decode steps so far: the clock of births, block needs and finishes
        self._last_decode = (0.0, -1)  # end time and number of the last step that decoded
        self._held = False  # the last step left decoding sequences without a token
        self._finishes: list[tuple[int, int, int]] = []  # heap: decode count, admission, request
        self._needs = [
            0
        ] * spec.block_tokens  # by c: they need a block when (c + decodes) % size == 0
        self._ask = True  # something changed since the scheduler was asked
        self._segment: list[float] | None = None
        self._decision = Decision()

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return bool(self.running or self.waiting)

    def enqueue(self, request: int, at_s: float) -> None:
        """Queue an arriving request; an idle replica will start its next step now."""
        if not self.in_step and not self.running and not self.waiting:
            self.start_s = at_s
        self.waiting.append(request)
        self.outstanding += 1
        self._ask = True

    def advance(self, until_s: float) -> None:
        """Run everything that happens before ``until_s``; a step that starts or ends at it is left
        for later.
        """
        while True:
            if self.in_step:
                if self.end_s >= until_s:
                    return
                self.complete()
            if self.start_s >= until_s or not (self.running or self.waiting):
                return
            self.begin(until_s)

    def begin(self, horizon_s: float) -> None:
        """Start a step at ``start_s``, or a segment of decode steps up to the first that ends at
        the horizon.
        """
        need = self._needs[-self._decodes % self.spec.block_tokens]
        short = need > self.free
        if short or self.prefilling or (self._ask and self.waiting):
            decision = self.spec.scheduler(self._view(need))
            if decision.prefill or decision.evict or not decision.decode:
                self._begin_mixed(decision)
                return
        self._ask = False
        if not self._decoding:
            raise SimulationError(f"replica {self.index}: the scheduler did nothing", self.start_s)
        self._begin_segment(horizon_s)

    def complete(self) -> list[int]:
        """End the running step or segment; returns the requests that finished, in order of
        admission.
        """
        self.in_step = False
        self.counts.busy_s += self.end_s - self.start_s
        finished = self._complete_mixed() if self._segment is None else self._complete_segment()
        self.start_s = self.end_s
        if not finished:
            return []
        self._ask = True
        self.outstanding -= len(finished)
        self.outcomes.finished += len(finished)
        return [request for _, request in sorted(finished)]

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

    # Segments of decode-only steps

    def _begin_segment(self, horizon_s: float) -> None:
        decodes, context, price = self._decoding, self._context, self.spec.price
        steps = self._finishes[0][0] - self._decodes
        if decodes * (steps // self.spec.block_tokens + 1) > self.free:
            steps = self._steps_with_blocks(steps)
        now, base, slope = self.start_s, price.decode_base_s[decodes], price.context_s
        quick = min(steps, SHORT_SEGMENT)
        ends: list[float] = []
        while len(ends) < quick and now < horizon_s:
            now += base + slope * context
            ends.append(now)
            context += decodes
        if quick < steps and now < horizon_s:
            ends += self._long_segment(now, context, steps - quick, horizon_s)
        self._segment, self.end_s, self.in_step = ends, ends[-1], True

    def _long_segment(self, now: float, context: int, steps: int, horizon_s: float) -> list[float]:
        """End times of further steps, added one after the other as single steps would."""
        price, decodes = self.spec.price, self._decoding
        first = price.step_s(decodes, context, 0, 0, 0.0)
        if horizon_s < now + first * steps:
            # Steps only get longer, so these pass the horizon; two more guard the rounding.
            steps = min(steps, int((horizon_s - now) / first) + 2)
        clock = np.empty(steps + 1)
        clock[0] = now
        clock[1:] = price.decode_stretch_s(decodes, context, steps)
        ends: list[float] = np.add.accumulate(clock)[1:].tolist()
        return ends[: bisect_left(ends, horizon_s) + 1]

    def _steps_with_blocks(self, steps: int) -> int:
        """How many decode steps the free blocks last; the caller has checked the first."""
        size = self.spec.block_tokens
        rounds = min(self.free // self._decoding, steps // size)
        done, free = rounds * size, self.free - rounds * self._decoding
        while done < steps:
            free -= self._needs[-(self._decodes + done) % size]
            if free < 0:
                break
            done += 1
        return done

    def _complete_segment(self) -> list[tuple[int, int]]:
        ends, self._segment = self._segment or [], None
        steps, decodes, counts, log = len(ends), self._decoding, self.counts, self.log
        counts.pure[decodes] += steps
        counts.context += steps * self._context + decodes * (steps * (steps - 1) // 2)
        counts.output_tokens += steps * decodes
        self._take(self._blocks_of(steps))
        chained = self._chained(ends[0]) if self._held else decodes
        if steps == 1:
            log.end_s.append(ends[0])
            log.emitted.append(decodes)
            log.chained.append(chained)
        else:
            log.end_s.extend(ends)
            log.emitted.extend([decodes] * steps)
            log.chained.append(chained)
            log.chained.extend([decodes] * (steps - 1))
        self.steps += steps
        return self._decoded(steps, ends[-1])

    def _blocks_of(self, steps: int) -> int:
        """New blocks that the next decode steps take together."""
        size, needs, decodes = self.spec.block_tokens, self._needs, self._decodes
        if steps == 1:
            return needs[-decodes % size]
        rounds, rest = divmod(steps, size)
        return rounds * self._decoding + sum(needs[-(decodes + i) % size] for i in range(rest))

    def _decoded(self, steps: int, now: float) -> list[tuple[int, int]]:
        """Every decoding sequence has emitted ``steps`` tokens, the last at ``now``; returns who
        finished.
        """
        self._context += steps * self._decoding
        self._decodes += steps
        self._fresh, self._held = 0, False
        self._last_decode = (now, self.steps - 1)
        finished: list[tuple[int, int]] = []
        while self._finishes and self._finishes[0][0] == self._decodes:
            _, admission, request = heappop(self._finishes)
            self._leave_decoding(request, self.osl[request])
            self._finish(request, now)
            finished.append((admission, request))
        return finished

    def _chained(self, now: float) -> int:
        """After held decodes: log the gap of each token on its own; returns how many follow the
        step before.
        """
        chained = 0
        for running in self.running.values():
            if running.left:
                continue
            token_s, step = self._last_token(running)
            if step == self.steps - 1:
                chained += 1
            else:
                self.log.lone_gaps.append((now, now - token_s))
        return chained

    # Steps with prompt chunks, evictions or held decodes

    def _begin_mixed(self, decision: Decision) -> None:
        self._decision, self._ask = decision, True
        for _ in range(decision.evict):
            self._evict()
        size, price, counts = self.spec.block_tokens, self.spec.price, self.counts
        decodes, context = (self._decoding, self._context) if decision.decode else (0, 0)
        if decodes:
            self._take(self._needs[-self._decodes % size])
        work, tokens, prompts = 0.0, 0, len(decision.prefill)
        for chunk in decision.prefill:
            running = self.prefilling.get(chunk.request) or self._admit(chunk.request)
            end = running.computed + chunk.tokens
            blocks = -(-end // size)
            self._take(blocks - running.blocks)
            running.blocks = blocks
            work += price.prefill_work(running.computed, end)
            tokens += chunk.tokens
        if not decodes and not tokens:
            raise SimulationError(f"replica {self.index}: the scheduler did nothing", self.start_s)
        self.end_s = self.start_s + price.step_s(decodes, context, tokens, prompts, work)
        self.in_step = True
        counts.context += context
        if tokens == 0:
            counts.pure[decodes] += 1
            return
        counts.mixed_tokens[decodes + tokens] += 1
        counts.mixed_sequences[decodes + prompts] += 1
        counts.mixed_decodes[decodes] += 1
        counts.prefill_steps += 1
        counts.prefill_work += work
        counts.prompt_tokens += tokens

    def _complete_mixed(self) -> list[tuple[int, int]]:
        decision, now, log = self._decision, self.end_s, self.log
        decodes = self._decoding if decision.decode else 0
        emitted = decodes
        chained = self._chained(now) if decodes and self._held else decodes
        finished: list[tuple[int, int]] = []
        self.steps += 1
        if decodes:
            finished = self._decoded(1, now)
        else:
            self._held = self._decoding > 0
        for chunk in decision.prefill:
            running = self.prefilling[chunk.request]
            running.computed += chunk.tokens
            running.left -= chunk.tokens
            if running.left == 0:
                emitted += 1
                chained += self._prompt_done(chunk.request, running, now, finished)
        log.end_s.append(now)
        log.emitted.append(emitted)
        log.chained.append(chained)
        self.counts.output_tokens += emitted
        return finished

    def _prompt_done(
        self, request: int, running: _Running, now: float, finished: list[tuple[int, int]]
    ) -> int:
        """The prompt is computed: emit a token and start to decode; 1 if the step before emitted
        the last token.
        """
        del self.prefilling[request]
        tokens, token_s, step = self.preempted.pop(request, (0, 0.0, -2))
        chained = 0
        if tokens == 0:
            self.outcomes.first_s[request] = now
        elif step == self.steps - 2:
            chained = 1
        else:
            self.log.lone_gaps.append((now, now - token_s))
        tokens += 1
        running.birth = self._decodes - tokens
        running.token_s, running.token_step = now, self.steps - 1
        isl, osl, size = self.isl[request], self.osl[request], self.spec.block_tokens
        self._decoding += 1
        self._context += isl + tokens
        self._needs[(isl + tokens - 1 - self._decodes) % size] += 1
        self._fresh += 1
        if tokens == osl:
            self._fresh -= 1
            self._leave_decoding(request, osl)
            self._finish(request, now)
            finished.append((running.admission, request))
        else:
            heappush(self._finishes, (self._decodes + osl - tokens, running.admission, request))
        return chained

    def _admit(self, request: int) -> _Running:
        """Take a request from the queue into the engine."""
        if self.waiting and self.waiting[0] == request:
            self.waiting.popleft()
        else:
            self.waiting.remove(request)
        emitted = self.preempted[request][0] if request in self.preempted else 0
        running = _Running(self._admissions, self.isl[request] + emitted)
        self._admissions += 1
        self.running[request] = self.prefilling[request] = running
        return running

    def _evict(self) -> None:
        """Preempt the newest request: its blocks go back, its tokens will be recomputed."""
        request, running = next(reversed(self.running.items()))
        self.outcomes.preemptions[request] += 1
        self.waiting.appendleft(request)
        if running.left:
            del self.running[request], self.prefilling[request]
            self._return(running.blocks)
            return
        tokens = self._decodes - running.birth
        token_s, step = self._last_token(running)
        self.preempted[request] = (tokens, token_s, step)
        self._fresh -= 1 if running.token_step > self._last_decode[1] else 0
        self._finishes.remove((running.birth + self.osl[request], running.admission, request))
        heapify(self._finishes)
        self._leave_decoding(request, tokens)

    def _last_token(self, running: _Running) -> tuple[float, int]:
        """Time and step of the last token of a decoding sequence: its first, or the last decode
        step if later.
        """
        if running.token_step > self._last_decode[1]:
            return running.token_s, running.token_step
        return self._last_decode

    def _leave_decoding(self, request: int, tokens: int) -> None:
        """Take a sequence that has emitted so many tokens out of the sums and return its blocks."""
        stored, size = self.isl[request] + tokens - 1, self.spec.block_tokens
        del self.running[request]
        self._decoding -= 1
        self._context -= stored + 1
        self._needs[(stored - self._decodes) % size] -= 1
        self._return(-(-stored // size))

    def _finish(self, request: int, now: float) -> None:
        self.outcomes.finish_s[request] = now
        self.outcomes.status[request] = Status.FINISHED

    def _take(self, blocks: int) -> None:
        if blocks > self.free:
            raise SimulationError(f"replica {self.index} has no free KV block", self.start_s)
        self.free -= blocks
        self.counts.blocks_taken += blocks
        used = self.spec.blocks - self.free
        if used > self.counts.blocks_peak:
            self.counts.blocks_peak = used

    def _return(self, blocks: int) -> None:
        self.free += blocks
        self.counts.blocks_returned += blocks

    # What the scheduler may see

    def _view(self, need: int) -> View:
        spec = self.spec
        return View(
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            block_tokens=spec.block_tokens,
            max_output_tokens=spec.max_output_tokens,
            decoding=self._decoding,
            fresh=self._fresh,
            free_blocks=self.free,
            decode_blocks=need,
            prefilling=tuple(
                Prompt(request, running.left, running.computed)
                for request, running in self.prefilling.items()
            )
            if self.prefilling
            else (),
            waiting=self._view_waiting,
            holders=self._view_holders,
        )

    def _view_waiting(self) -> Iterator[Prompt]:
        for request in self.waiting:
            emitted = self.preempted[request][0] if request in self.preempted else 0
            yield Prompt(request, self.isl[request] + emitted, 0)

    def _view_holders(self) -> Iterator[Holder]:
        size = self.spec.block_tokens
        for request, running in reversed(self.running.items()):
            if running.left:
                yield Holder(request, running.blocks, 0, running.left, running.computed)
            else:
                stored = self.isl[request] + self._decodes - running.birth - 1
                yield Holder(request, -(-stored // size), int(stored % size == 0), 0, stored)
