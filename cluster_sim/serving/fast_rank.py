"""The fast batch: the same steps as the reference, with work that does not grow with the batch.

What the reference loops over, this one keeps as sums: decoding sequences, their context, and how
many of them need a new KV block at which remainder of the tokens that all have gained.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush

from cluster_sim.errors import SimulationError
from cluster_sim.perf.family import Batch
from cluster_sim.serving.block_needs import BlockNeeds
from cluster_sim.serving.local_context import LocalContext
from cluster_sim.serving.queue import WaitingQueue
from cluster_sim.serving.records import Outcomes, Refusal, Status, StepCounts, StepLog
from cluster_sim.serving.running import Running
from cluster_sim.serving.scheduler import Decision, Holder, Prompt, View
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.tape import Move, Tape

Finished = list[tuple[int, int]]  # (admission, request)


class FastRank:
    """One batch with its queue and cache; a drop-in for StepByStepRank that can take many decode
    steps at once.
    """

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec, self.outcomes = index, spec, outcomes
        self.isl, self.osl = outcomes.isl, outcomes.osl
        self.waiting = WaitingQueue(outcomes.priority)
        self.running: dict[int, Running] = {}  # in order of admission
        self.prefilling: dict[int, Running] = {}
        self.free = spec.blocks
        self.cache = spec.new_cache()
        self.outstanding = 0
        self.counts = StepCounts(decode_tokens=spec.price.decode_tokens)
        self.tape: Tape | None = None
        self.consists: Batch | None = None  # what the last mixed step is, if somebody asks for it
        self.decoding = self.context = 0
        self.near = LocalContext(spec.price.local)
        self.held = False  # the last step left decoding sequences without a token
        self._preempted: dict[int, tuple[int, float, int]] = {}  # tokens, time, step of the last
        self._swapped: set[int] = set()
        self._counted: dict[int, int] = {}  # of the prompts of the preempted
        self._refusal = Refusal(self.counts)
        self._fresh = self._admissions = self._reserved = 0
        # What each decoding sequence has gained so far: the clock of births, block needs, finishes.
        self._decodes = 0
        self._pace, self._width = spec.pace, spec.price.decode_tokens
        self.paced = 0  # decode steps so far, if they give more than a token each
        self.cut = 0  # tokens of the last decode step that lie beyond the ends of answers
        self._last_decode = (0.0, -1)  # end time and number of the last step that decoded
        self._finishes: list[tuple[int, int, int]] = []  # heap: decode count, admission, request
        self._needs = BlockNeeds(spec.block_tokens)
        self._at, self._size, self._plain = self._needs.at, self._needs.size, spec.pace is None
        self._ask = True  # something changed since the scheduler was asked
        self._decision: Decision | None = None

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return bool(self.running) or self.waiting.count > 0

    def enqueue(self, request: int) -> None:
        """Queue an arriving request."""
        self.waiting.append(request)
        self.outcomes.rank[request] = self.index
        self.outstanding += 1
        self._ask = True

    def decide(self, at_s: float) -> bool:
        """Ask the scheduler if its last answer may not hold any more; true if the next step is more
        than every sequence decoding.
        """
        self._decision = None
        need = self._at[-self._decodes % self._size] if self._plain else self._needed()
        available = self.free if self.cache is None else self._available()
        if need > available or self.prefilling or (self._ask and self.waiting.count):
            decision = self.spec.scheduler(self._view(need, available))
            if decision.refused is not self._refusal.limit:
                self._refusal.note(decision.refused, at_s)
            if decision.prefill or decision.evict or not decision.decode:
                self._decision = decision
                return True
        self._ask = False
        if not self.decoding:
            raise SimulationError(f"rank {self.index}: the scheduler did nothing", at_s)
        return False

    # Stretches of decode-only steps

    def stretch(self) -> int:
        """Decode steps until a sequence finishes, blocks run out, or local context changes its
        growth.
        """
        tokens, pace = self._finishes[0][0] - self._decodes, self._pace
        if self.near.local is not None:
            tokens = self.near.steps_to_change(self._decodes, tokens)
        # A step with drafts may go beyond them.
        reach = tokens + self._width - 1
        if self.decoding * (reach // self._size + 1) <= self.free:
            return tokens if pace is None else pace.steps_for(self.paced, tokens)
        # At least one, the caller has checked. A step that makes the prefix cache forget stands
        # alone, since a waiting request may fit after it.
        lasting = self._needs.lasting(self._decodes, self.free, reach)
        if pace is None:
            return max(1, min(tokens, lasting))
        steps = pace.steps_for(self.paced, tokens)
        if lasting < reach:
            steps = min(steps, pace.steps_for(self.paced, lasting + 1) - 1)
        return max(1, steps)

    def gained(self, steps: int) -> int:
        """Tokens that each sequence gains in the next so many decode steps."""
        return steps if self._pace is None else self._pace.gained(self.paced, steps)

    def _needed(self) -> int:
        """New blocks that the next decode step with drafts takes."""
        return self._needs.of(self._decodes, self.gained(1))

    def decode(
        self, steps: int, first_s: float, last_s: float, step: int, log: StepLog
    ) -> tuple[Finished, int]:
        """Every sequence decodes ``steps`` times, the first at ``first_s`` in step number ``step``;
        returns who finished at ``last_s`` and how many of the first tokens follow one of the step
        before.
        """
        counts, decodes, pace = self.counts, self.decoding, self._pace
        counts.pure[decodes] += steps
        if pace is None:
            tokens, series = steps, steps * (steps - 1) // 2
        else:
            tokens = pace.gained(self.paced, steps)
            series = pace.total_before(self.paced, steps)
        counts.context += steps * self.context + decodes * series
        if self.near.local is not None:
            counts.local_context += steps * self.near.tokens + self.near.growing * series
        if self.tape is not None:
            self._record(self.tape, steps, step)
        blocks = self._needs.of(self._decodes, tokens)
        if blocks:
            self._take(blocks, last_s)
            self._note_peak()
        chained = self._chained(first_s, step, log) if self.held else decodes
        finished = self._decoded(tokens, steps, last_s, step + steps - 1)
        counts.output_tokens += tokens * decodes - self.cut
        if finished:
            self._leave(finished, last_s)
        return finished, chained

    def _record(self, tape: Tape, steps: int, step: int) -> None:
        """Write a stretch of decode steps down, with the blocks in use at each."""
        near, pace, used = self.near, self._pace, self.spec.blocks - self._available()
        gains = [1] * steps if pace is None else pace.each(self.paced, steps)
        blocks = self._needs.rising(self._decodes, gains, used)
        consists = (self.decoding, self.context, near.tokens, near.growing)
        tape.stretch(self.index, step, *consists, blocks, None if pace is None else gains)

    def _decoded(self, tokens: int, steps: int, now: float, step: int) -> Finished:
        """Every decoding sequence has gained ``tokens`` tokens in ``steps`` steps, the last at
        ``now`` in step number ``step``; returns who is done.
        """
        self.context += tokens * self.decoding
        self._decodes += tokens
        self.paced += steps
        if self.near.local is not None:
            self.near.advance(tokens, self._decodes)
        self._fresh, self.held = 0, False
        self._last_decode = (now, step)
        finished: Finished = []
        finishes, decodes = self._finishes, self._decodes
        self.cut = 0
        while finishes and finishes[0][0] <= decodes:
            end, admission, request = heappop(finishes)
            self.cut += decodes - end
            finished.append((admission, request))
        return finished

    def _chained(self, now: float, step: int, log: StepLog) -> int:
        """After held decodes: log the gap of each token on its own; returns how many follow the
        step before.
        """
        chained = 0
        for running in self.running.values():
            if running.left:
                continue
            token_s, last = self._last_token(running)
            if last == step - 1:
                chained += 1
            else:
                log.lone_gaps.append((now, now - token_s))
        return chained

    # Steps with prompt chunks, evictions or held decodes

    def begin_mixed(self, at_s: float) -> tuple[float, int]:
        """Start the step that the scheduler decided on, or one of decodes only; returns its seconds
        and tokens.
        """
        decision = self._decision or Decision()
        self._ask = True if self._decision else self._ask
        swapped = 0
        for _ in range(decision.evict):
            swapped += self._evict(decision.to_back)
        spec, price = self.spec, self.spec.price
        decodes, context, near = (
            (self.decoding, self.context, self.near.tokens) if decision.decode else (0, 0, 0)
        )
        if decodes:
            need = self._at[-self._decodes % self._size] if self._plain else self._needed()
            self._take(need, at_s)
        prefill_s, tokens, prompts = 0.0, 0, len(decision.prefill)
        for chunk in decision.prefill:
            running = self.prefilling.get(chunk.request)
            if running is None:
                running, restored = self._admit(chunk.request)
                swapped += restored
            end = running.computed + chunk.tokens
            blocks = spec.blocks_for(end)
            self._take(blocks - running.blocks, at_s)
            running.blocks = blocks
            prefill_s += price.prefill_attention_s(running.computed, end)
            tokens += chunk.tokens
        if not decodes and not tokens:
            raise SimulationError(f"rank {self.index}: the scheduler did nothing", at_s)
        self._note_peak()
        step_s = price.step_s(decodes, context, near, tokens, prompts, prefill_s)
        if swapped:
            step_s += price.swap_s * swapped
        self.counts.add(decodes, context, near, tokens, prompts, prefill_s, swapped)
        if self.consists is not None:
            self.consists = Batch(decodes, context, near, tokens, prompts, prefill_s, swapped)
        if self.tape is not None:
            consists = (decodes, context, near, tokens, prompts, prefill_s, swapped)
            self.tape.step(self.index, *consists, spec.blocks - self._available())
        return step_s, decodes * self._width + tokens

    def complete_mixed(
        self, now: float, step: int, log: StepLog
    ) -> tuple[Finished, int, int, int, int]:
        """End step number ``step``: returns who finished, the tokens emitted, how many of them
        follow one of the step before, how many one of the same step, and the tokens of prompts that
        are done for the first time.
        """
        decision = self._decision or Decision()
        decodes = self.decoding if decision.decode else 0
        emitted = together = prompted = 0
        chained = self._chained(now, step, log) if decodes and self.held else decodes
        finished: Finished = []
        if decodes:
            tokens = 1 if self._plain else self.gained(1)
            finished = self._decoded(tokens, 1, now, step)
            emitted = tokens * decodes - self.cut
            together = emitted - decodes
        else:
            self.held = self.decoding > 0
        for chunk in decision.prefill:
            running = self.prefilling[chunk.request]
            running.computed += chunk.tokens
            running.left -= chunk.tokens
            done = min(running.computed, self.isl[chunk.request])
            if done > running.counted:
                prompted += done - running.counted
                running.counted = done
            if running.left == 0:
                emitted += 1
                chained += self._prompt_done(chunk.request, running, now, step, log, finished)
        self.counts.output_tokens += emitted
        if finished:
            self._leave(finished, now)
        return finished, emitted, chained, together, prompted

    def _prompt_done(
        self,
        request: int,
        running: Running,
        now: float,
        step: int,
        log: StepLog,
        finished: Finished,
    ) -> int:
        """The prompt is computed: emit a token and start to decode; 1 if the step before emitted
        the last token.
        """
        del self.prefilling[request]
        if self.tape is not None:
            self.tape.move(request, Move.PROMPTED)
        if self.cache is not None:
            self.cache.insert(request, running.computed)
        tokens, token_s, last = self._preempted.pop(request, (0, 0.0, -2))
        chained = 0
        if tokens == 0:
            self.outcomes.first_s[request] = now
        elif last == step - 1:
            chained = 1
        else:
            log.lone_gaps.append((now, now - token_s))
        tokens += 1
        running.birth, running.joined = self._decodes - tokens, self._decodes
        running.token_s, running.token_step = now, step
        context, osl = self.isl[request] + tokens, self.osl[request]
        self.decoding += 1
        self.context += context
        self._needs.join(context - 1, self._decodes)
        self._fresh += 1
        self.near.join(request, running.admission, context, self._decodes)
        if tokens == osl:
            finished.append((running.admission, request))
        else:
            heappush(self._finishes, (self._decodes + osl - tokens, running.admission, request))
        return chained

    def _admit(self, request: int) -> tuple[Running, int]:
        """Take a request from the queue into the batch; also returns how many tokens come from the
        host.
        """
        self.waiting.remove(request)
        emitted = self._preempted[request][0] if request in self._preempted else 0
        prompt, computed, restored = self.isl[request] + emitted, 0, 0
        blocks = 0
        if request in self._swapped:
            self._swapped.remove(request)
            computed = restored = prompt - 1
        elif self.cache is not None:
            computed = self.cache.acquire(request, prompt)
            blocks = computed // self.spec.block_tokens
        running = Running(self._admissions, prompt - computed, computed, blocks)
        if request in self._counted:
            running.counted = self._counted.pop(request)
        self._admissions += 1
        self._reserved += self.spec.blocks_for(self.isl[request] + self.spec.max_output_tokens)
        self.running[request] = self.prefilling[request] = running
        if self.tape is not None:
            self.tape.move(request, Move.ADMITTED)
        return running, restored

    def _evict(self, to_back: bool) -> int:
        """Preempt the next victim: its blocks go back; returns how many tokens go to the host."""
        request = next(iter(self._victims()))
        running = self.running[request]
        self.outcomes.preemptions[request] += 1
        if self.tape is not None:
            self.tape.move(request, Move.PREEMPTED)
        stored, self._counted[request] = 0, running.counted
        if running.left:
            del self.prefilling[request]
            self._forget_running(request, running.blocks, leaves=False)
        else:
            tokens = self._decodes - running.birth
            token_s, step = self._last_token(running)
            self._preempted[request] = (tokens, token_s, step)
            self._finishes.remove((running.birth + self.osl[request], running.admission, request))
            heapify(self._finishes)
            stored = self._leave_decoding(request, leaves=False)
        if to_back:
            self.waiting.append(request)
        else:
            self.waiting.appendleft(request)
        if self.spec.swap and stored:
            self._swapped.add(request)
            return stored
        return 0

    def _victims(self) -> Iterable[int]:
        """Running requests, the least urgent and newest first."""
        priority = self.outcomes.priority
        if priority is None:
            return reversed(self.running)
        return sorted(reversed(self.running), key=lambda request: -priority[request])

    def _last_token(self, running: Running) -> tuple[float, int]:
        """Time and step of the last token of a decoding sequence: its first, or the last decode
        step if later.
        """
        if running.token_step > self._last_decode[1]:
            return running.token_s, running.token_step
        return self._last_decode

    def _leave(self, finished: Finished, now: float) -> None:
        """Finished requests leave, in order of admission."""
        finished.sort()
        for _, request in finished:
            if self.cache is not None:
                self.cache.insert(request, self.isl[request] + self.osl[request] - 1)
            self._leave_decoding(request, leaves=True)
            self.outcomes.finish_s[request] = now
            self.outcomes.status[request] = Status.FINISHED
        self._ask = True
        self.outstanding -= len(finished)
        self.outcomes.finished += len(finished)

    def _leave_decoding(self, request: int, *, leaves: bool) -> int:
        """Take a sequence out of the sums and return its blocks; returns its cached tokens."""
        running = self.running[request]
        stored: int = self.isl[request] + self._decodes - running.birth - 1
        self._fresh -= 1 if running.joined == self._decodes else 0
        self.decoding -= 1
        self.context -= stored + 1
        self._needs.leave(stored, self._decodes)
        self.near.leave(request, stored + 1)
        self._forget_running(request, self.spec.blocks_for(stored), leaves=leaves)
        return stored

    def _forget_running(self, request: int, blocks: int, *, leaves: bool) -> None:
        del self.running[request]
        self._reserved -= self.spec.blocks_for(self.isl[request] + self.spec.max_output_tokens)
        if self.cache is not None:
            blocks -= self.cache.release(request, leaves=leaves)
        self.free += blocks
        self.counts.blocks_returned += blocks

    def _available(self) -> int:
        if self.cache is None:
            return self.free
        return self.free + self.cache.idle_blocks

    def _take(self, blocks: int, at_s: float) -> None:
        if blocks > self.free and self.cache is not None and self._available() >= blocks:
            self._ask = True
            forgotten = self.cache.forget(blocks - self.free)
            self.free += forgotten
            self.counts.blocks_returned += forgotten
        if blocks > self.free:
            raise SimulationError(f"rank {self.index} has no free KV block", at_s)
        self.free -= blocks
        self.counts.blocks_taken += blocks

    def _note_peak(self) -> None:
        used = self.spec.blocks - self._available()
        if used > self.counts.blocks_peak:
            self.counts.blocks_peak = used

    # What the scheduler may see

    def _view(self, need: int, available: int) -> View:
        spec = self.spec
        return View(
            max_num_seqs=spec.max_num_seqs,
            max_num_batched_tokens=spec.max_num_batched_tokens,
            block_tokens=spec.block_tokens,
            state_blocks=spec.state_blocks,
            total_blocks=spec.blocks,
            max_output_tokens=spec.max_output_tokens,
            new_token_ratio=spec.new_token_ratio,
            decoding=self.decoding,
            decode_tokens=self._width,
            fresh=self._fresh,
            free_blocks=available,
            decode_blocks=need,
            reserved_blocks=self._reserved,
            prefilling=tuple(
                Prompt(request, running.left, running.computed, running.blocks)
                for request, running in self.prefilling.items()
            )
            if self.prefilling
            else (),
            waiting=self._view_waiting,
            holders=self._view_holders,
            queued=self.waiting.count,
        )

    def _view_waiting(self) -> Iterator[Prompt]:
        for request in self.waiting:
            prompt = self.isl[request]
            if request in self._preempted:
                prompt += self._preempted[request][0]
            if request in self._swapped:
                yield Prompt(request, 1, prompt - 1, 0)
            elif self.cache is None:
                yield Prompt(request, prompt, 0, 0)
            else:
                cached, blocks = self.cache.match(request, prompt)
                yield Prompt(request, prompt - cached, cached, blocks)

    def _view_holders(self) -> Iterator[Holder]:
        gained, shared = self.gained(1), 0
        for request in self._victims():
            running = self.running[request]
            if self.cache is not None:
                shared = self.cache.shared_blocks(request)
            if running.left:
                blocks = running.blocks - shared
                yield Holder(request, blocks, 0, running.left, running.computed)
            else:
                stored = self.isl[request] + self._decodes - running.birth - 1
                blocks = self.spec.blocks_for(stored)
                needs = self.spec.blocks_for(stored + gained) - blocks
                yield Holder(request, blocks - shared, needs, 0, stored)
