"""The reference replica: one engine step at a time, loops over requests, nothing clever.

It defines what a run means; the fast replica must give the same bytes. Read this file to learn how
a step works.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from cluster_sim.errors import SimulationError
from cluster_sim.perf.family import NOTHING, Batch
from cluster_sim.perf.step_price import StepPrice, local_tokens
from cluster_sim.serving.pace import Pace
from cluster_sim.serving.prefix_cache import PrefixCache
from cluster_sim.serving.queue import WaitingQueue
from cluster_sim.serving.records import Outcomes, Refusal, Status, StepCounts, StepLog
from cluster_sim.serving.requests import Prefixes
from cluster_sim.serving.scheduler import Decision, Holder, Prompt, Scheduler, View
from cluster_sim.serving.tape import Move, Tape


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplicaSpec:
    """What all replicas of a run share: prices, the batches that work side by side (``ranks``), the
    cache of each in blocks, scheduler and its limits, the ``pace`` of decoding with drafts.
    ``swap``: preempted sequences keep their KV on the host; else it is recomputed.
    """

    price: StepPrice
    blocks: int
    block_tokens: int
    scheduler: Scheduler
    max_num_seqs: int
    max_num_batched_tokens: int
    max_output_tokens: int
    ranks: int = 1
    state_blocks: int = 0
    new_token_ratio: float = 1.0
    swap: bool = False
    prefixes: Prefixes | None = None
    pace: Pace | None = None

    def blocks_for(self, tokens: int) -> int:
        """Blocks that a sequence with so many cached tokens occupies."""
        return -(-tokens // self.block_tokens) + (self.state_blocks if tokens > 0 else 0)

    def new_cache(self) -> PrefixCache | None:
        """The prefix cache of a batch, if there is anything to share."""
        if self.prefixes is None:
            return None
        return PrefixCache(self.prefixes, self.block_tokens, self.blocks)


@dataclass(slots=True, eq=False)
class _Sequence:
    """A request inside the engine. ``computed`` tokens are in the cache, ``generated`` were emitted
    so far.
    """

    request: int
    isl: int
    osl: int
    priority: int
    generated: int = 0
    computed: int = 0
    prompt: int = 0  # tokens to compute before the next one is emitted; grows at a recompute
    blocks: int = 0  # with those of the prefix cache
    counted: int = 0  # of its own prompt, in what the log says
    last_token_s: float = 0.0
    last_token_step: int = -1
    decoded: bool = False  # has decoded since its prompt was last computed
    swapped: bool = False  # its KV is on the host

    @property
    def left(self) -> int:
        return max(0, self.prompt - self.computed)


class StepByStepRank:
    """One batch with its queue and cache, advanced one engine step at a time."""

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec, self.outcomes = index, spec, outcomes
        self.isl, self.osl = outcomes.isl, outcomes.osl
        self.waiting = WaitingQueue(outcomes.priority)
        self.sequences: dict[int, _Sequence] = {}  # waiting and running
        self.running: list[_Sequence] = []
        self.free = spec.blocks
        self.cache = spec.new_cache()
        self.outstanding = 0
        self.counts = StepCounts(decode_tokens=spec.price.decode_tokens)
        self.decode_steps = 0
        self.tape: Tape | None = None
        self.consists: Batch | None = None  # what the step that runs is, if somebody asks for it
        self._decision = Decision()
        self._refusal = Refusal(self.counts)

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return bool(self.running or self.waiting)

    def enqueue(self, request: int) -> None:
        """Queue an arriving request."""
        isl, priority = self.isl[request], self.outcomes.priority
        urgency = priority[request] if priority is not None else 0
        self.sequences[request] = _Sequence(request, isl, self.osl[request], urgency, prompt=isl)
        self.waiting.append(request)
        self.outcomes.rank[request] = self.index
        self.outstanding += 1

    def begin(self, start_s: float) -> tuple[float, int]:
        """Start a step: ask the scheduler, evict, admit, take blocks; returns its seconds and
        tokens.
        """
        self._decision = decision = self.spec.scheduler(self._view())
        if decision.refused is not self._refusal.limit:
            self._refusal.note(decision.refused, start_s)
        swapped = sum(self._evict(decision.to_back) for _ in range(decision.evict))
        decoding = [s for s in self.running if s.left == 0] if decision.decode else []
        for sequence in decoding:
            self._take_blocks(sequence, sequence.computed + self._gain(), start_s)
        prefill_s, tokens = 0.0, 0
        for chunk in decision.prefill:
            sequence = self.sequences[chunk.request]
            if sequence not in self.running:
                swapped += self._admit(sequence)
            start = sequence.computed
            self._take_blocks(sequence, start + chunk.tokens, start_s)
            prefill_s += self.spec.price.prefill_attention_s(start, start + chunk.tokens)
            tokens += chunk.tokens
        if not decoding and not tokens:
            raise SimulationError(f"rank {self.index}: the scheduler did nothing", start_s)
        used = self.spec.blocks - self.free - (self.cache.idle_blocks if self.cache else 0)
        self.counts.blocks_peak = max(self.counts.blocks_peak, used)
        context = sum(s.computed + 1 for s in decoding)
        near = sum(local_tokens(self.spec.price.local, s.computed + 1) for s in decoding)
        prompts = len(decision.prefill)
        consists = Batch(len(decoding), context, near, tokens, prompts, prefill_s, swapped)
        self.counts.add(*consists)
        if self.consists is not None:
            self.consists = consists
        if self.tape is not None:
            self.tape.step(self.index, *consists, used)
        price = self.spec.price
        step_s = price.step_s(len(decoding), context, near, tokens, prompts, prefill_s)
        if swapped:
            step_s += price.swap_s * swapped
        return step_s, len(decoding) * price.decode_tokens + tokens

    def _gain(self) -> int:
        """Tokens that each decoding sequence gets of the next step that decodes."""
        return 1 if self.spec.pace is None else self.spec.pace.gained(self.decode_steps)

    def complete(self, now: float, step: int, log: StepLog) -> tuple[list[int], int, int, int, int]:
        """End step number ``step``: tokens are emitted, finished requests leave; returns those in
        order of admission, the tokens, how many of them follow one of the step before, how many one
        of the same step, and the tokens of prompts that are done for the first time.
        """
        decision, emitted, chained, together, decoded = self._decision, 0, 0, 0, False
        prompted = 0
        finished: list[_Sequence] = []
        chunks = {chunk.request: chunk.tokens for chunk in decision.prefill}
        for sequence in self.running:
            gained = 1
            if sequence.request in chunks:
                sequence.computed += chunks[sequence.request]
                done = min(sequence.computed, sequence.isl)
                prompted += max(0, done - sequence.counted)
                sequence.counted = max(done, sequence.counted)
                if sequence.left:
                    continue
                sequence.decoded = False
                if self.tape is not None:
                    self.tape.move(sequence.request, Move.PROMPTED)
                if self.cache is not None:
                    self.cache.insert(sequence.request, sequence.computed)
            elif sequence.left or not decision.decode:
                continue
            else:
                gained = min(self._gain(), sequence.osl - sequence.generated)
                sequence.computed += gained
                sequence.decoded = decoded = True
            emitted += gained
            chained += self._emit(sequence, now, step, log)
            sequence.generated += gained - 1
            together += gained - 1
            if sequence.generated == sequence.osl:
                finished.append(sequence)
        self.decode_steps += decoded
        for sequence in finished:
            self.running.remove(sequence)
            del self.sequences[sequence.request]
            if self.cache is not None:
                self.cache.insert(sequence.request, sequence.computed)
            self._return_blocks(sequence, leaves=True)
            self.outcomes.finish_s[sequence.request] = now
            self.outcomes.status[sequence.request] = Status.FINISHED
        self.outcomes.finished += len(finished)
        self.outstanding -= len(finished)
        self.counts.output_tokens += emitted
        return [sequence.request for sequence in finished], emitted, chained, together, prompted

    def _emit(self, sequence: _Sequence, now: float, step: int, log: StepLog) -> int:
        """Record one token; 1 if the step before emitted its predecessor."""
        chained = 0
        if sequence.generated == 0:
            self.outcomes.first_s[sequence.request] = now
        elif sequence.last_token_step == step - 1:
            chained = 1
        else:
            log.lone_gaps.append((now, now - sequence.last_token_s))
        sequence.generated += 1
        sequence.last_token_s, sequence.last_token_step = now, step
        return chained

    def _evict(self, to_back: bool) -> int:
        """Preempt the next victim; returns how many tokens go to the host."""
        sequence = self._victims()[0]
        self.running.remove(sequence)
        self._return_blocks(sequence, leaves=False)
        stored, whole = sequence.computed, sequence.left == 0
        sequence.swapped = self.spec.swap and whole
        sequence.computed, sequence.decoded = 0, False
        sequence.prompt = sequence.isl + sequence.generated
        self.outcomes.preemptions[sequence.request] += 1
        if self.tape is not None:
            self.tape.move(sequence.request, Move.PREEMPTED)
        if to_back:
            self.waiting.append(sequence.request)
        else:
            self.waiting.appendleft(sequence.request)
        return stored if sequence.swapped else 0

    def _victims(self) -> list[_Sequence]:
        """Running sequences, the least urgent and newest first."""
        newest_first = list(reversed(self.running))
        return sorted(newest_first, key=lambda sequence: -sequence.priority)

    def _admit(self, sequence: _Sequence) -> int:
        """Take a request from the queue into the batch; returns how many tokens come from the
        host.
        """
        self.waiting.remove(sequence.request)
        self.running.append(sequence)
        if self.tape is not None:
            self.tape.move(sequence.request, Move.ADMITTED)
        if sequence.swapped:
            sequence.swapped = False
            sequence.computed = sequence.prompt - 1
            return sequence.computed
        if self.cache is not None:
            sequence.computed = self.cache.acquire(sequence.request, sequence.prompt)
            sequence.blocks = sequence.computed // self.spec.block_tokens
        return 0

    def _take_blocks(self, sequence: _Sequence, tokens: int, at_s: float) -> None:
        new = self.spec.blocks_for(tokens) - sequence.blocks
        if new > self.free and self.cache is not None and self._available() >= new:
            forgotten = self.cache.forget(new - self.free)
            self.free += forgotten
            self.counts.blocks_returned += forgotten
        if new > self.free:
            raise SimulationError(f"rank {self.index} has no free KV block", at_s)
        sequence.blocks += new
        self.free -= new
        self.counts.blocks_taken += new

    def _return_blocks(self, sequence: _Sequence, *, leaves: bool) -> None:
        own = sequence.blocks
        if self.cache is not None:
            own -= self.cache.release(sequence.request, leaves=leaves)
        self.free += own
        self.counts.blocks_returned += own
        sequence.blocks = 0

    def _available(self) -> int:
        return self.free + (self.cache.idle_blocks if self.cache is not None else 0)

    def _view(self) -> View:
        spec = self.spec
        decoding = [s for s in self.running if s.left == 0]

        def needs(sequence: _Sequence) -> int:
            if sequence.left:
                return 0
            return spec.blocks_for(sequence.computed + self._gain()) - sequence.blocks

        def own(sequence: _Sequence) -> int:
            """Blocks that an eviction frees: those shared with others stay."""
            if self.cache is None:
                return sequence.blocks
            return sequence.blocks - self.cache.shared_blocks(sequence.request)

        def holders() -> Iterator[Holder]:
            return (
                Holder(s.request, own(s), needs(s), s.left, s.computed) for s in self._victims()
            )

        return View(
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            block_tokens=spec.block_tokens,
            state_blocks=spec.state_blocks,
            total_blocks=spec.blocks,
            max_output_tokens=spec.max_output_tokens,
            new_token_ratio=spec.new_token_ratio,
            decoding=len(decoding),
            decode_tokens=spec.price.decode_tokens,
            fresh=sum(not s.decoded for s in decoding),
            free_blocks=self._available(),
            decode_blocks=sum(needs(s) for s in decoding),
            reserved_blocks=sum(
                spec.blocks_for(s.isl + spec.max_output_tokens) for s in self.running
            ),
            prefilling=tuple(
                Prompt(s.request, s.left, s.computed, s.blocks) for s in self.running if s.left
            ),
            waiting=lambda: (self._waiting_prompt(r) for r in self.waiting),
            holders=holders,
            queued=len(self.waiting),
        )

    def _waiting_prompt(self, request: int) -> Prompt:
        sequence = self.sequences[request]
        if sequence.swapped:
            return Prompt(request, 1, sequence.prompt - 1, 0)
        if self.cache is None:
            return Prompt(request, sequence.prompt, 0, 0)
        cached, blocks = self.cache.match(request, sequence.prompt)
        return Prompt(request, sequence.prompt - cached, cached, blocks)


class StepByStepReplica:
    """One copy of the model: its batches do one step together, one event a step."""

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec = index, spec
        self.ranks = [StepByStepRank(i, spec, outcomes) for i in range(spec.ranks)]
        self.in_step = False
        self.start_s = self.end_s = self.idle_s = 0.0
        self.log = StepLog()
        self.shared: Counter[int] = Counter()
        self.steps = 0
        self.tape: Tape | None = None
        self._busy: list[StepByStepRank] = []

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return any(rank.has_work for rank in self.ranks)

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
        min(self.ranks, key=lambda rank: rank.outstanding).enqueue(request)

    def begin(self, horizon_s: float) -> None:
        """Start the step at ``start_s``; it ends when the slowest batch and what they share is
        done.
        """
        self._busy = [rank for rank in self.ranks if rank.has_work]
        steps_s, tokens = zip(*(rank.begin(self.start_s) for rank in self._busy), strict=True)
        if self.spec.price.shared_s is not None:
            self.shared[sum(tokens)] += 1
        self.end_s = self.start_s + self.spec.price.round_s(steps_s, sum(tokens))
        self.in_step = True

    def complete(self) -> list[int]:
        """End the step; returns who finished, in order of rank and admission."""
        finished: list[int] = []
        emitted = chained = together = prompted = 0
        for rank in self._busy:
            done, tokens, following, more, new = rank.complete(self.end_s, self.steps, self.log)
            finished += done
            emitted += tokens
            chained += following
            together += more
            prompted += new
        if prompted:
            self.log.prompt_s.append(self.end_s)
            self.log.prompt_tokens.append(prompted)
        self.log.end_s.append(self.end_s)
        self.log.emitted.append(emitted)
        self.log.chained.append(chained)
        if self.spec.pace is not None:
            self.log.together.append(together)
        self.steps += 1
        self.start_s, self.in_step = self.end_s, False
        return finished

    def shorten(self, at_s: float) -> bool:
        """A step cannot be shortened; the fast replica's segments can."""
        return False

    def last_step(self) -> tuple[float, list[Batch]]:
        """When the step that runs starts, and what the batches do in it."""
        return self.start_s, [rank.consists or NOTHING for rank in self._busy]

    def end_at(self, end_s: float) -> None:
        """Let the step end at another time."""
        self.end_s = end_s
