"""Schedulers: pure functions that say what the next engine step does.

A scheduler is ``decide(view) -> Decision``. It is asked when something changed (arrival, finish,
end of a prompt chunk, blocks short); its answer holds until the next change. It sees prompts and
counters, never how long an answer will be. To add one, write such a function and enter it in
``SCHEDULERS``; ``cluster_sim.testing.check_scheduler`` holds it to the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prompt:
    """A request that still has prompt tokens to compute: ``left`` of them, ``computed`` are in the
    cache.

    After a preemption the tokens generated so far count as prompt: they are recomputed.
    """

    request: int
    left: int
    computed: int


@dataclass(frozen=True, slots=True)
class Holder:
    """A running request, newest first: its blocks, the new blocks its next token needs, what it
    still has to compute.
    """

    request: int
    blocks: int
    needs: int
    left: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Chunk:
    """``tokens`` prompt tokens of a request to compute in this step; a waiting request is admitted
    by its first chunk.
    """

    request: int
    tokens: int


@dataclass(frozen=True, slots=True)
class Decision:
    """What the step does: evict the newest ``evict`` requests, compute chunks, and decode one token
    each, or hold.
    """

    prefill: tuple[Chunk, ...] = ()
    evict: int = 0
    decode: bool = True


@dataclass(slots=True)
class View:
    """What a scheduler may read. Counts are of one replica, before the step.

    ``fresh`` of the ``decoding`` sequences have their first token only; ``decode_blocks`` new
    blocks are needed to decode all; ``max_output_tokens`` is the limit that the workload declares,
    not what a request will produce.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int
    max_output_tokens: int
    decoding: int
    fresh: int
    free_blocks: int
    decode_blocks: int
    prefilling: tuple[Prompt, ...]
    waiting: Callable[[], Iterator[Prompt]]
    holders: Callable[[], Iterator[Holder]]

    @property
    def running(self) -> int:
        """Sequences that hold blocks: decoding and in the middle of their prompt."""
        return self.decoding + len(self.prefilling)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that so many cached tokens occupy."""
        return -(-tokens // self.block_tokens)


Scheduler = Callable[[View], Decision]


def vllm_v1(view: View) -> Decision:
    """Mixed batches under one token budget, first come first served, newest preempted when blocks
    run out.

    Model: decodes take one token each; running prompts go on with what is left of the budget; then
    waiting requests are admitted in order while budget, sequence limit and blocks allow, the last
    one with a part of its prompt. Nobody is admitted in a step that preempts.
    Source: vLLM v1 ``core/sched/scheduler.py`` (behaviour, not code).
    """
    evict, free, budget = _evict_until_decodes_fit(view)
    evicted = {holder.request for holder, _ in zip(view.holders(), range(evict), strict=False)}
    chunks: list[Chunk] = []
    for prompt in view.prefilling:
        if prompt.request in evicted or budget <= 0:
            continue
        tokens = min(prompt.left, budget)
        blocks = _new_blocks(view, prompt, tokens)
        if blocks > free:
            # The newest request makes room for nobody but itself.
            return Decision(tuple(chunks), evict + 1)
        chunks.append(Chunk(prompt.request, tokens))
        budget, free = budget - tokens, free - blocks
    if evict:
        return Decision(tuple(chunks), evict)
    chunks += _admit(view, budget, free)
    return Decision(tuple(chunks))


def static(view: View) -> Decision:
    """Static batching: fill a batch from the queue, prefill all of it, decode until the last member
    is done.

    A member is admitted only with room for its prompt and ``max_output_tokens``; nobody joins once
    decoding has begun.
    """
    evict, free, budget = _evict_until_decodes_fit(view)
    if evict or view.fresh < view.decoding:
        return Decision(evict=evict)
    budget = view.max_num_batched_tokens
    reserved = sum(
        view.blocks_for(holder.tokens + holder.left + view.max_output_tokens) - holder.blocks
        for holder in view.holders()
    )
    chunks: list[Chunk] = []
    for prompt in view.prefilling:
        if budget > 0:
            chunks.append(Chunk(prompt.request, min(prompt.left, budget)))
            budget -= chunks[-1].tokens
    free, seats = view.free_blocks - reserved, view.max_num_seqs - view.running
    for prompt in view.waiting():
        whole = view.blocks_for(prompt.left + view.max_output_tokens)
        first = seats == view.max_num_seqs
        if seats <= 0 or budget <= 0 or (whole > free and not first):
            break
        tokens = min(prompt.left, budget)
        if view.blocks_for(tokens) > view.free_blocks:
            break
        chunks.append(Chunk(prompt.request, tokens))
        budget, free, seats = budget - tokens, free - whole, seats - 1
    return Decision(tuple(chunks), decode=not chunks)


SCHEDULERS: dict[str, Scheduler] = {"vllm_v1": vllm_v1, "static": static}


def _evict_until_decodes_fit(view: View) -> tuple[int, int, int]:
    """How many of the newest must go so that the others can decode; the blocks and the budget left
    after decoding.
    """
    evict, free, need, decodes = 0, view.free_blocks, view.decode_blocks, view.decoding
    if need > free:
        for holder in view.holders():
            evict, free, need = evict + 1, free + holder.blocks, need - holder.needs
            decodes -= 1 if holder.left == 0 else 0
            if need <= free:
                break
    return evict, free - need, view.max_num_batched_tokens - decodes


def _new_blocks(view: View, prompt: Prompt, tokens: int) -> int:
    return view.blocks_for(prompt.computed + tokens) - view.blocks_for(prompt.computed)


def _admit(view: View, budget: int, free: int) -> list[Chunk]:
    chunks: list[Chunk] = []
    seats = view.max_num_seqs - view.running
    if seats <= 0 or budget <= 0:
        return chunks
    for prompt in view.waiting():
        tokens = min(prompt.left, budget)
        blocks = view.blocks_for(tokens)
        if blocks > free:
            break
        chunks.append(Chunk(prompt.request, tokens))
        budget, free, seats = budget - tokens, free - blocks, seats - 1
        if seats <= 0 or budget <= 0:
            break
    return chunks
