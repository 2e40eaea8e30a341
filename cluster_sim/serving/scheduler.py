"""Schedulers: pure functions that say what the next engine step does.

A scheduler is ``decide(view) -> Decision``. It is asked when something changed (arrival, finish,
end of a prompt chunk, blocks short); its answer holds until the next change. It sees prompts and
counters, never how long an answer will be. To add one, write such a function and enter it in
``SCHEDULERS``, whose names files may give; ``cluster_sim.testing.check_scheduler`` holds it to the
contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from cluster_sim.specs.registered import enter

SGLANG_MOST_RESERVED = 4096  # CLIP_MAX_NEW_TOKENS_ESTIMATION: longer answers are not reserved for


class Prompt(NamedTuple):
    """A request that still has prompt tokens to compute: ``left`` of them; ``computed`` are in the
    cache already.

    After a preemption the tokens generated so far count as prompt. ``blocks`` need not be taken
    from the free ones: those that it holds, and cached ones that others hold for it.
    """

    request: int
    left: int
    computed: int
    blocks: int


class Holder(NamedTuple):
    """A running request, next victim first: the blocks that its eviction frees, the new blocks its
    next token needs, what it still has to compute.
    """

    request: int
    blocks: int
    needs: int
    left: int
    tokens: int


class Chunk(NamedTuple):
    """``tokens`` prompt tokens of a request to compute in this step; a waiting request is admitted
    by its first chunk.
    """

    request: int
    tokens: int


class Limit(StrEnum):
    """What keeps a waiting request out of the batch."""

    RESERVED_BLOCKS = "reserved_blocks"  # blocks kept for answers that may come
    MAX_NUM_SEQS = "max_num_seqs"
    TOKEN_BUDGET = "token_budget"  # max_num_batched_tokens of this step
    KV_CACHE = "kv_cache"  # no free block
    STATIC_BATCH = "static_batch"  # nobody joins a batch that runs


class Decision(NamedTuple):
    """What the step does: evict the first ``evict`` victims (they wait again, in front, or behind
    everybody if ``to_back``), compute chunks, and decode one token each, or hold. ``refused``: what
    keeps the first request out that still waits; None if nobody does.
    """

    prefill: tuple[Chunk, ...] = ()
    evict: int = 0
    decode: bool = True
    to_back: bool = False
    refused: Limit | None = None


@dataclass(slots=True)
class View:
    """What a scheduler may read. Counts are of one batch, before the step.

    ``fresh`` of the ``decoding`` sequences have their first token only; each has ``decode_tokens``
    tokens in a step (more than one with drafts); ``decode_blocks`` new blocks are needed to decode
    all. Every sequence takes
    ``state_blocks`` besides the blocks of its tokens. ``max_output_tokens`` is the limit that the
    workload declares, not what a request will produce; ``reserved_blocks`` is what the running
    requests would hold at that limit. ``free_blocks`` counts cached ones that nobody holds;
    ``queued`` requests wait.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    block_tokens: int
    state_blocks: int
    total_blocks: int
    max_output_tokens: int
    new_token_ratio: float
    decoding: int
    fresh: int
    free_blocks: int
    decode_blocks: int
    reserved_blocks: int
    prefilling: tuple[Prompt, ...]
    waiting: Callable[[], Iterator[Prompt]]
    holders: Callable[[], Iterator[Holder]]
    decode_tokens: int = 1
    queued: int = 0

    @property
    def running(self) -> int:
        """Sequences that hold blocks: decoding and in the middle of their prompt."""
        return self.decoding + len(self.prefilling)

    def blocks_for(self, tokens: int) -> int:
        """Blocks that a sequence with so many cached tokens occupies."""
        return -(-tokens // self.block_tokens) + (self.state_blocks if tokens > 0 else 0)

    def new_blocks(self, prompt: Prompt, tokens: int) -> int:
        """Blocks that computing so many more tokens of a prompt takes from the free ones."""
        return self.blocks_for(prompt.computed + tokens) - prompt.blocks


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
    chunks, evict, budget, free = _go_on(view, budget, free, evict)
    if evict:
        return Decision(chunks, evict, refused=Limit.KV_CACHE)
    admitted, refused = _admit(view, budget, free, split=True)
    return Decision((*chunks, *admitted), refused=refused)


def trtllm_max_utilization(view: View) -> Decision:
    """In-flight batching that fills the cache: whole prompts join the decodes while tokens and
    blocks allow; when blocks run out the newest is paused and recomputed later.

    Source: TensorRT-LLM capacity scheduler policy MAX_UTILIZATION (behaviour). Limits: a prompt
    longer than max_num_tokens is computed in parts, as with chunked context.
    """
    evict, free, budget = _evict_until_decodes_fit(view)
    chunks, evict, budget, free = _go_on(view, budget, free, evict)
    if evict:
        return Decision(chunks, evict, refused=Limit.KV_CACHE)
    admitted, refused = _admit(view, budget, free, split=False)
    return Decision((*chunks, *admitted), refused=refused)


def trtllm_no_evict(view: View) -> Decision:
    """In-flight batching that never preempts: a request is admitted only with room for its prompt
    and ``max_output_tokens`` beside the reservations of all that run.

    Source: TensorRT-LLM capacity scheduler policy GUARANTEED_NO_EVICT (behaviour). A request that
    reserves more than the whole cache runs alone and is evicted if it must be.
    """
    evict, free, budget = _evict_until_decodes_fit(view)
    chunks, evict, budget, free = _go_on(view, budget, free, evict)
    if evict:
        return Decision(chunks, evict, refused=Limit.KV_CACHE)
    room = view.total_blocks - view.reserved_blocks
    admitted, refused = _admit(view, budget, free, split=False, room=room)
    return Decision((*chunks, *admitted), refused=refused)


def sglang(view: View) -> Decision:
    """Prompts first and alone: a step computes prompts while any can be admitted, else it decodes;
    retracted requests go behind the queue.

    Model: a request is admitted while its prompt and an estimate of what all running ones will
    produce fit: min(max_output_tokens, 4096) x ``new_token_ratio`` tokens each. When decodes do not
    fit, the newest are retracted. Source: SGLang ``managers/schedule_policy.py`` and
    ``schedule_batch.py`` (behaviour). Limits: the ratio is its settled value, its decay after a
    start and its rise after a retraction are not played; the estimate does not shrink as tokens are
    generated.
    """
    budget, free = view.max_num_batched_tokens, view.free_blocks
    chunks, blocked, budget, free = _go_on(view, budget, free, decoding=False)
    refused: Limit | None = Limit.KV_CACHE
    if not blocked:
        admitted, refused = _admit_estimated(view, budget, free)
        chunks = (*chunks, *admitted)
    if chunks:
        return Decision(chunks, evict=blocked, decode=False, to_back=True, refused=refused)
    evict, _, _ = _evict_until_decodes_fit(view)
    refused = Limit.KV_CACHE if evict else refused
    return Decision(evict=max(evict, blocked), to_back=True, refused=refused)


def sglang_mixed(view: View) -> Decision:
    """SGLang with chunks of prompts and decodes in one step, who is admitted as in ``sglang``.

    Source: SGLang ``--enable-mixed-chunk`` (behaviour). Limits: the budget is one for both.
    """
    evict, free, budget = _evict_until_decodes_fit(view)
    refused: Limit | None = Limit.KV_CACHE
    if evict:
        return Decision(evict=evict, to_back=True, refused=refused)
    chunks, evict, budget, free = _go_on(view, budget, free)
    if not evict:
        admitted, refused = _admit_estimated(view, budget, free)
        chunks = (*chunks, *admitted)
    return Decision(chunks, evict, to_back=True, refused=refused)


def static(view: View) -> Decision:
    """Static batching: fill a batch from the queue, prefill all of it, decode until the last member
    is done.

    A member is admitted only with room for its prompt and ``max_output_tokens``; nobody joins once
    decoding has begun.
    """
    evict, _, _ = _evict_until_decodes_fit(view)
    if evict or view.fresh < view.decoding:
        waits = Limit.STATIC_BATCH if view.queued else None
        return Decision(evict=evict, refused=Limit.KV_CACHE if evict else waits)
    budget, free = view.max_num_batched_tokens, view.free_blocks
    chunks, evict, budget, free = _go_on(view, budget, free, decoding=False)
    if evict:
        return Decision(chunks, evict, decode=not chunks, refused=Limit.KV_CACHE)
    room = view.total_blocks - view.reserved_blocks
    admitted, refused = _admit(view, budget, free, split=True, room=room)
    chunks = (*chunks, *admitted)
    if refused and not chunks:
        refused = Limit.STATIC_BATCH  # from here on it decodes
    return Decision(chunks, decode=not chunks, refused=refused)


SCHEDULERS: dict[str, Scheduler] = {
    "vllm_v1": vllm_v1,
    "trtllm_no_evict": trtllm_no_evict,
    "trtllm_max_utilization": trtllm_max_utilization,
    "sglang": sglang,
    "sglang_mixed": sglang_mixed,
    "static": static,
}
enter("scheduler", SCHEDULERS.keys())


def _evict_until_decodes_fit(view: View) -> tuple[int, int, int]:
    """How many of the victims must go so that the others can decode; the blocks and the budget left
    after decoding.
    """
    evict, free, need, decodes = 0, view.free_blocks, view.decode_blocks, view.decoding
    if need > free:
        for holder in view.holders():
            evict, free, need = evict + 1, free + holder.blocks, need - holder.needs
            decodes -= 1 if holder.left == 0 else 0
            if need <= free:
                break
    return evict, free - need, view.max_num_batched_tokens - decodes * view.decode_tokens


def _go_on(
    view: View, budget: int, free: int, evict: int = 0, *, decoding: bool = True
) -> tuple[tuple[Chunk, ...], int, int, int]:
    """Chunks of the running prompts, how many victims must go for them, and the budget and blocks
    left.

    A prompt that lacks blocks takes those of the next victims, until it is one itself. The first
    ``evict`` victims have gone already; ``decoding``: the others' next tokens are in the budget.
    """
    if not view.prefilling:
        return (), evict, budget, free
    victims = iter(view.holders())
    gone = {next(victims).request for _ in range(evict)}
    taken: dict[int, tuple[int, int]] = {}  # request -> tokens, blocks
    for prompt in view.prefilling:
        if prompt.request in gone or budget <= 0:
            continue
        tokens = min(prompt.left, budget)
        blocks = view.new_blocks(prompt, tokens)
        while blocks > free:
            victim = next(victims)
            evict += 1
            gone.add(victim.request)
            if victim.request == prompt.request:
                break
            returned, more = taken.pop(victim.request, (0, 0))
            decodes = decoding and victim.left == 0
            budget += returned + decodes * view.decode_tokens
            free += victim.blocks + more + (victim.needs if decodes else 0)
        else:
            taken[prompt.request] = (tokens, blocks)
            budget, free = budget - tokens, free - blocks
    chunks = tuple(Chunk(request, tokens) for request, (tokens, _) in taken.items())
    return chunks, evict, budget, free


def _admit_estimated(view: View, budget: int, free: int) -> tuple[list[Chunk], Limit | None]:
    """Waiting requests while they and what all are expected to produce fit."""
    each = int(min(view.max_output_tokens, SGLANG_MOST_RESERVED) * view.new_token_ratio)
    room = free - view.decoding * each // view.block_tokens
    return _admit(view, budget, free, split=True, estimate=(room, each))


def _admit(
    view: View,
    budget: int,
    free: int,
    *,
    split: bool,
    room: int | None = None,
    estimate: tuple[int, int] | None = None,
) -> tuple[list[Chunk], Limit | None]:
    """First chunks of waiting requests, in order, while seats, budget and blocks allow; and what
    keeps the next one out.

    Not ``split``: a prompt waits for a budget that holds all of it, unless the decodes leave no
    such budget. ``room``: blocks that full reservations may still take. ``estimate``: blocks for
    prompts and expected answers, and the tokens expected of each. Somebody is admitted to an empty
    engine in any case. Limits that stay as they are between two changes are looked at first, so
    that the answer to "what keeps it out" holds as long as the decision does.
    """
    chunks: list[Chunk] = []
    seats = view.max_num_seqs - view.running
    alone = view.running == 0
    most = view.max_num_batched_tokens - view.decoding * view.decode_tokens
    if view.queued and seats <= 0:
        return chunks, Limit.MAX_NUM_SEQS
    if view.queued and budget <= 0:
        return chunks, Limit.TOKEN_BUDGET
    for prompt in view.waiting():
        if seats <= 0:
            return chunks, Limit.MAX_NUM_SEQS
        if budget <= 0:
            return chunks, Limit.TOKEN_BUDGET
        tokens = min(prompt.left, budget)
        if not split and tokens < prompt.left <= most:
            return chunks, Limit.TOKEN_BUDGET
        whole = prompt.left + prompt.computed
        if room is not None:
            room -= view.blocks_for(whole + view.max_output_tokens)
            if room < 0 and not alone:
                return chunks, Limit.RESERVED_BLOCKS
        if estimate is not None:
            left = estimate[0] - view.new_blocks(prompt, prompt.left + estimate[1])
            estimate = (left, estimate[1])
            if left < 0 and not alone:
                return chunks, Limit.RESERVED_BLOCKS
        blocks = view.new_blocks(prompt, tokens)
        if blocks > free:
            return chunks, Limit.KV_CACHE
        chunks.append(Chunk(prompt.request, tokens))
        budget, free, seats, alone = budget - tokens, free - blocks, seats - 1, False
    return chunks, None
