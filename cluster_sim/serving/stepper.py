"""The reference replica: one engine step at a time, loops over requests, nothing clever.

It defines what a run means; the fast replica must give the same bytes. Read this file to learn how
a step works.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass

from cluster_sim.errors import SimulationError
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.records import Outcomes, Status, StepCounts, StepLog
from cluster_sim.serving.scheduler import Decision, Holder, Prompt, Scheduler, View


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What all replicas of a run share: prices, cache size in blocks, scheduler and its limits."""

    price: StepPrice
    blocks: int
    block_tokens: int
    scheduler: Scheduler
    max_num_seqs: int
    max_num_batched_tokens: int
    max_output_tokens: int


@dataclass(slots=True)
class _Sequence:
    """A request inside the engine. ``computed`` tokens are in the cache, ``generated`` were emitted
    so far.
    """

    request: int
    isl: int
    osl: int
    generated: int = 0
    computed: int = 0
    prompt: int = 0  # tokens to compute before the next one is emitted; grows at a recompute
    blocks: int = 0
    last_token_s: float = 0.0
    last_token_step: int = -1
    decoded: bool = False  # has decoded since its prompt was last computed

    @property
    def left(self) -> int:
        return max(0, self.prompt - self.computed)


class StepByStepReplica:
    """One copy of the model, advanced one engine step an event."""

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec, self.outcomes = index, spec, outcomes
        self.isl, self.osl = outcomes.isl, outcomes.osl
        self.waiting: deque[_Sequence] = deque()
        self.running: list[_Sequence] = []
        self.free = spec.blocks
        self.outstanding = 0
        self.steps = 0
        self.in_step = False
        self.start_s = self.end_s = 0.0
        self.log, self.counts = StepLog(), StepCounts()
        self._decision = Decision()

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return bool(self.running or self.waiting)

    def enqueue(self, request: int, at_s: float) -> None:
        """Queue an arriving request; an idle replica will start its next step now."""
        if not self.in_step and not self.has_work:
            self.start_s = at_s
        isl = self.isl[request]
        self.waiting.append(_Sequence(request, isl, self.osl[request], prompt=isl))
        self.outstanding += 1

    def begin(self, horizon_s: float) -> None:
        """Start the step at ``start_s``: ask the scheduler, evict, admit, take blocks, price the
        step.
        """
        self._decision = decision = self.spec.scheduler(self._view())
        for _ in range(decision.evict):
            self._evict()
        decoding = [s for s in self.running if s.left == 0] if decision.decode else []
        for sequence in decoding:
            self._take_blocks(sequence, sequence.computed + 1)
        work, tokens = 0.0, 0
        for chunk in decision.prefill:
            sequence = self._find(chunk.request)
            start = sequence.computed
            self._take_blocks(sequence, start + chunk.tokens)
            work += self.spec.price.prefill_work(start, start + chunk.tokens)
            tokens += chunk.tokens
        if not decoding and not tokens:
            raise SimulationError(f"replica {self.index}: the scheduler did nothing", self.start_s)
        used = self.spec.blocks - self.free
        self.counts.blocks_peak = max(self.counts.blocks_peak, used)
        context = sum(s.computed + 1 for s in decoding)
        self._count(len(decoding), context, tokens, len(decision.prefill), work)
        step_s = self.spec.price.step_s(len(decoding), context, tokens, len(decision.prefill), work)
        self.counts.busy_s += step_s
        self.end_s = self.start_s + step_s
        self.in_step = True

    def complete(self) -> list[int]:
        """End the step: tokens are emitted, finished requests leave; returns those in order of
        admission.
        """
        decision, now, emitted, chained = self._decision, self.end_s, 0, 0
        finished: list[_Sequence] = []
        chunks = {chunk.request: chunk.tokens for chunk in decision.prefill}
        for sequence in list(self.running):
            if sequence.request in chunks:
                sequence.computed += chunks[sequence.request]
                if sequence.left:
                    continue
                sequence.decoded = False
            elif sequence.left or not decision.decode:
                continue
            else:
                sequence.computed += 1
                sequence.decoded = True
            emitted += 1
            chained += self._emit(sequence, now)
            if sequence.generated == sequence.osl:
                finished.append(sequence)
        for sequence in finished:
            self.running.remove(sequence)
            self._return_blocks(sequence)
            self.outcomes.finish_s[sequence.request] = now
            self.outcomes.status[sequence.request] = Status.FINISHED
        self.outcomes.finished += len(finished)
        self.outstanding -= len(finished)
        self.log.end_s.append(now)
        self.log.emitted.append(emitted)
        self.log.chained.append(chained)
        self.counts.output_tokens += emitted
        self.steps += 1
        self.start_s, self.in_step = now, False
        return [sequence.request for sequence in finished]

    def shorten(self, at_s: float) -> bool:
        """A step cannot be shortened; the fast replica's segments can."""
        return False

    def _emit(self, sequence: _Sequence, now: float) -> int:
        """Record one token; 1 if the step before emitted its predecessor."""
        if sequence.generated == 0:
            self.outcomes.first_s[sequence.request] = now
            chained = 0
        elif sequence.last_token_step == self.steps - 1:
            chained = 1
        else:
            self.log.lone_gaps.append((now, now - sequence.last_token_s))
            chained = 0
        sequence.generated += 1
        sequence.last_token_s, sequence.last_token_step = now, self.steps
        return chained

    def _evict(self) -> None:
        sequence = self.running.pop()
        self._return_blocks(sequence)
        sequence.computed, sequence.decoded = 0, False
        sequence.prompt = sequence.isl + sequence.generated
        self.outcomes.preemptions[sequence.request] += 1
        self.waiting.appendleft(sequence)

    def _find(self, request: int) -> _Sequence:
        """The sequence of a chunk; one that waits is admitted."""
        for sequence in self.running:
            if sequence.request == request:
                return sequence
        for sequence in self.waiting:
            if sequence.request == request:
                self.waiting.remove(sequence)
                self.running.append(sequence)
                return sequence
        raise SimulationError(f"request {request} is not on replica {self.index}", self.start_s)

    def _take_blocks(self, sequence: _Sequence, tokens: int) -> None:
        new = -(-tokens // self.spec.block_tokens) - sequence.blocks
        if new > self.free:
            raise SimulationError(f"replica {self.index} has no free KV block", self.start_s)
        sequence.blocks += new
        self.free -= new
        self.counts.blocks_taken += new

    def _return_blocks(self, sequence: _Sequence) -> None:
        self.free += sequence.blocks
        self.counts.blocks_returned += sequence.blocks
        sequence.blocks = 0

    def _count(self, decodes: int, context: int, tokens: int, prompts: int, work: float) -> None:
        counts = self.counts
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

    def _view(self) -> View:
        size = self.spec.block_tokens
        decoding = [s for s in self.running if s.left == 0]

        def needs(sequence: _Sequence) -> int:
            return -(-(sequence.computed + 1) // size) - sequence.blocks if not sequence.left else 0

        def waiting() -> Iterator[Prompt]:
            return (Prompt(s.request, s.prompt, 0) for s in self.waiting)

        def holders() -> Iterator[Holder]:
            return (
                Holder(s.request, s.blocks, needs(s), s.left, s.computed)
                for s in reversed(self.running)
            )

        return View(
            max_num_seqs=self.spec.max_num_seqs,
            max_num_batched_tokens=self.spec.max_num_batched_tokens,
            block_tokens=size,
            max_output_tokens=self.spec.max_output_tokens,
            decoding=len(decoding),
            fresh=sum(not s.decoded for s in decoding),
            free_blocks=self.free,
            decode_blocks=sum(needs(s) for s in decoding),
            prefilling=tuple(Prompt(s.request, s.left, s.computed) for s in self.running if s.left),
            waiting=waiting,
            holders=holders,
        )
