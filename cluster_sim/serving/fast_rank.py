"""The fast batch: the same steps as the reference, with work that does not grow with the batch.

What the reference loops over, this one keeps as sums: decoding sequences, their context, and how
many of them need a new KV block at which remainder of the decode counter.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heapify, heappop, heappush
from itertools import accumulate

from cluster_sim.errors import SimulationError
from cluster_sim.perf.families import Batch
from cluster_sim.serving.local_context import LocalContext
from cluster_sim.serving.queue import WaitingQueue
from cluster_sim.serving.records import Outcomes, Status, StepCounts, StepLog
from cluster_sim.serving.scheduler import Decision, Holder, Prompt, View
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.tape import Move, Tape

Finished = list[tuple[int, int]]  # (admission, request)


class _Running:
    """A request that holds blocks; once it decodes, tokens emitted = decode steps of the batch -
    ``birth``.
    """

    __slots__ = (
        "admission",
        "birth",
        "blocks",
        "computed",
        "joined",
        "left",
        "token_s",
        "token_step",
    )

    def __init__(self, admission: int, left: int, computed: int, blocks: int) -> None:
        self.admission, self.left, self.computed, self.blocks = admission, left, computed, blocks
        self.birth = self.joined = 0
        self.token_s, self.token_step = 0.0, -1


class FastRank:
    """One batch with its queue and cache; a drop-in for StepByStepRank that can take many decode
    steps at once.
    """

    def __init__(self, index: int, spec: ReplicaSpec, outcomes: Outcomes) -> None:
        self.index, self.spec, self.outcomes = index, spec, outcomes
        self.isl, self.osl = outcomes.isl, outcomes.osl
        self.waiting = WaitingQueue(outcomes.priority)
        self.running: dict[int, _Running] = {}  # in order of admission
        self.prefilling: dict[int, _Running] = {}
        self.free = spec.blocks
        self.cache = spec.new_cache()
        self.outstanding = 0
        self.counts = StepCounts()
        self.tape: Tape | None = None
        self.consists: Batch | None = None  # what the last mixed step is, if somebody asks for it
        self.decoding = self.context = 0
        self.near = LocalContext(spec.price.local)
        self.held = False  # the last step left decoding sequences without a token
        self._preempted: dict[int, tuple[int, float, int]] = {}  # tokens, time, step of the last
        self._swapped: set[int] = set()
        self._fresh = self._admissions = self._reserved = 0
        self._decodes = 0  # decode steps so far: the clock of births, block needs and finishes
        self._last_decode = (0.0, -1)  # end time and number of the last step that decoded
        self._finishes: list[tuple[int, int, int]] = []  # heap: decode count, admission, request
        self._needs = [
            0
        ] * spec.block_tokens  # by c: they need a block when (c + decodes) % size == 0
        self._size = spec.block_tokens
        self._ask = True  # something changed since the scheduler was asked
        self._decision: Decision | None = None

    @property
    def has_work(self) -> bool:
        """Whether a step could be started."""
        return bool(self.running) or self.waiting.count > 0

    def enqueue(self, request: int) -> None:
        """Queue an arriving request."""
        self.waiting.append(request)
        self.outstanding += 1
        self._ask = True

    def decide(self, at_s: float) -> bool:
        """Ask the scheduler if its last answer may not hold any more; true if the next step is more
        than every sequence decoding one token.
        """
        self._decision = None
        need = self._needs[-self._decodes % self._size]
        available = self.free if self.cache is None else self._available()
        if need > available or self.prefilling or (self._ask and self.waiting.count):
            decision = self.spec.scheduler(self._view(need, available))
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
        steps = self._finishes[0][0] - self._decodes
        if self.near.local is not None:
            steps = self.near.steps_to_change(self._decodes, steps)
        if self.decoding * (steps // self._size + 1) > self.free:
            steps = self._steps_with_blocks(steps)
        return steps

    def _steps_with_blocks(self, steps: int) -> int:
        """How many decode steps the free blocks last, at least one: the caller has checked that.

        A step that makes the prefix cache forget stands alone, since a waiting request may fit
        after it.
        """
        size = self.spec.block_tokens
        rounds = min(self.free // self.decoding, steps // size)
        done, free = rounds * size, self.free - rounds * self.decoding
        while done < steps:
            free -= self._needs[-(self._decodes + done) % size]
            if free < 0:
                break
            done += 1
        return max(1, done)

    def decode(
        self, steps: int, first_s: float, last_s: float, step: int, log: StepLog
    ) -> tuple[Finished, int]:
        """Every sequence decodes ``steps`` tokens, the first at ``first_s`` in step number
        ``step``; returns who finished at ``last_s`` and how many of the first tokens follow one of
        the step before.
        """
        counts, decodes = self.counts, self.decoding
        counts.pure[decodes] += steps
        series = steps * (steps - 1) // 2
        counts.context += steps * self.context + decodes * series
        counts.output_tokens += steps * decodes
        if self.near.local is not None:
            counts.local_context += steps * self.near.tokens + self.near.growing * series
        if self.tape is not None:
            self._record(self.tape, steps, step)
        blocks = self._blocks_of(steps)
        if blocks:
            self._take(blocks, last_s)
            self._note_peak()
        chained = self._chained(first_s, step, log) if self.held else decodes
        finished = self._decoded(steps, last_s, step + steps - 1)
        if finished:
            self._leave(finished, last_s)
        return finished, chained

    def _blocks_of(self, steps: int) -> int:
        """New blocks that the next decode steps take together."""
        size, needs, decodes = self._size, self._needs, self._decodes
        if steps == 1:
            return needs[-decodes % size]
        rounds, rest = divmod(steps, size)
        last = -decodes % size  # the first step looks here, the next ones below it, then from above
        first = last - rest + 1
        part = sum(needs[max(0, first) : last + 1])
        if first < 0:
            part += sum(needs[first + size :])
        return rounds * self.decoding + part

    def _record(self, tape: Tape, steps: int, step: int) -> None:
        """Write a stretch of decode steps down, with the blocks in use at each."""
        size, near = self.spec.block_tokens, self.near
        needs = (self._needs[-(self._decodes + i) % size] for i in range(steps))
        used = accumulate(needs, initial=self.spec.blocks - self._available())
        blocks = list(used)[1:]
        consists = (self.decoding, self.context, near.tokens, near.growing)
        tape.stretch(self.index, step, *consists, blocks)

    def _decoded(self, steps: int, now: float, step: int) -> Finished:
        """Every decoding sequence has emitted ``steps`` tokens, the last at ``now`` in step number
        ``step``; returns who is done.
        """
        self.context += steps * self.decoding
        self._decodes += steps
        if self.near.local is not None:
            self.near.advance(steps, self._decodes)
        self._fresh, self.held = 0, False
        self._last_decode = (now, step)
        finished: Finished = []
        finishes, decodes = self._finishes, self._decodes
        while finishes and finishes[0][0] == decodes:
            _, admission, request = heappop(finishes)
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
            self._take(self._needs[-self._decodes % spec.block_tokens], at_s)
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
        return step_s, decodes + tokens

    def complete_mixed(self, now: float, step: int, log: StepLog) -> tuple[Finished, int, int]:
        """End step number ``step``: returns who finished, the tokens emitted, and how many of them
        follow one of the step before.
        """
        decision = self._decision or Decision()
        decodes = self.decoding if decision.decode else 0
        emitted = decodes
        chained = self._chained(now, step, log) if decodes and self.held else decodes
        finished: Finished = []
        if decodes:
            finished = self._decoded(1, now, step)
        else:
            self.held = self.decoding > 0
        for chunk in decision.prefill:
            running = self.prefilling[chunk.request]
            running.computed += chunk.tokens
            running.left -= chunk.tokens
            if running.left == 0:
                emitted += 1
                chained += self._prompt_done(chunk.request, running, now, step, log, finished)
        self.counts.output_tokens += emitted
        if finished:
            self._leave(finished, now)
        return finished, emitted, chained

    def _prompt_done(
        self,
        request: int,
        running: _Running,
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
        self._needs[(context - 1 - self._decodes) % self.spec.block_tokens] += 1
        self._fresh += 1
        self.near.join(request, running.admission, context, self._decodes)
        if tokens == osl:
            finished.append((running.admission, request))
        else:
            heappush(self._finishes, (self._decodes + osl - tokens, running.admission, request))
        return chained

    def _admit(self, request: int) -> tuple[_Running, int]:
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
        running = _Running(self._admissions, prompt - computed, computed, blocks)
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
        stored = 0
        if running.left:
            del self.prefilling[request]
            self._forget_running(request, running.blocks, leaves=False)
        else:
            tokens = self._decodes - running.birth
            token_s, step = self._last_token(running)
            self._preempted[request] = (tokens, token_s, step)
            self._finishes.remove((running.birth + self.osl[request], running.admission, request))
            heapify(self._finishes)
            stored = self._leave_decoding(request, tokens, leaves=False)
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

    def _last_token(self, running: _Running) -> tuple[float, int]:
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
            self._leave_decoding(request, self.osl[request], leaves=True)
            self.outcomes.finish_s[request] = now
            self.outcomes.status[request] = Status.FINISHED
        self._ask = True
        self.outstanding -= len(finished)
        self.outcomes.finished += len(finished)

    def _leave_decoding(self, request: int, tokens: int, *, leaves: bool) -> int:
        """Take a sequence that has emitted so many tokens out of the sums and return its blocks;
        returns its cached tokens.
        """
        running, size = self.running[request], self.spec.block_tokens
        stored: int = self.isl[request] + tokens - 1
        self._fresh -= 1 if running.joined == self._decodes else 0
        self.decoding -= 1
        self.context -= stored + 1
        self._needs[(stored - self._decodes) % size] -= 1
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
        size, shared = self.spec.block_tokens, 0
        for request in self._victims():
            running = self.running[request]
            if self.cache is not None:
                shared = self.cache.shared_blocks(request)
            if running.left:
                blocks = running.blocks - shared
                yield Holder(request, blocks, 0, running.left, running.computed)
            else:
                stored = self.isl[request] + self._decodes - running.birth - 1
                blocks = self.spec.blocks_for(stored) - shared
                yield Holder(request, blocks, int(stored % size == 0), 0, stored)
