"""How many sequences an engine holds in steady state: its own scheduler is asked until it refuses.

Model: a batch of decoding sequences in the middle of their lives. An answer of n tokens is met with
a chance in proportion to n, at an age anywhere in it; prompts and answers are independent. In each
step prompts come for as many sequences as end. The scheduler that the run uses sees such a batch
and a queue of mean prompts; the largest batch that it refills is the answer, and what it lacks for
a larger one is found by asking again with that in plenty.
Limits: what a prefix cache shares is not counted; prompts of several chunks hold no blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.steady import typical
from cluster_sim.serving.scheduler import SCHEDULERS, Decision, Holder, Prompt, Scheduler, View
from cluster_sim.specs.inputs import WorkloadInput

Refusal = Literal["reserved_blocks", "max_num_seqs", "token_budget", "kv_cache"]
AGES = 8  # points in the life of an answer
PLENTY = 1 << 40  # of blocks, tokens or seats: more than anybody takes


@dataclass(frozen=True, slots=True)
class Admission:
    """The largest batch of a rank that lasts, and what refuses one more; ``joins``: the engine
    admits while others decode; ``mixed``: in the same step.
    """

    batch: int
    limit: Refusal
    joins: bool
    mixed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Residents:
    """Who is in a batch in the mean, whatever the layout: tokens of a prompt, the share of answers
    that end in a step, blocks held and their standard deviation, those just after the prompt, and
    those that the longest answer would need.
    """

    prompt: float
    ending: float
    blocks: float
    spread: float
    blocks_at_start: float
    reserved: float
    longest: int

    @staticmethod
    def of(job: WorkloadInput) -> Residents:
        """The residents under the traffic of a workload."""
        software, (isls, osls) = job.software, job.workload.shape
        size, longest = software.memory.block_tokens, osls.longest + software.draft_tokens
        prompts, answers = np.array(typical(isls)), np.array(typical(osls))
        ages = (np.arange(AGES) + 0.5) / AGES
        blocks = -(-(prompts[:, None, None] + np.floor(answers[:, None] * ages)) // size)
        weights = np.broadcast_to((answers / answers.sum())[:, None], blocks.shape)
        mean = float(np.average(blocks, weights=weights))
        return Residents(
            prompt=float(prompts.mean()),
            ending=software.tokens_per_step / float(answers.mean()),
            blocks=mean,
            spread=math.sqrt(float(np.average((blocks - mean) ** 2, weights=weights))),
            blocks_at_start=float((-(-prompts // size)).mean()),
            reserved=float((-(-(prompts + longest) // size)).mean()),
            longest=longest,
        )


def admission(job: WorkloadInput, cache: KvCache, residents: Residents | None = None) -> Admission:
    """What the engine of a workload admits to a rank with such a cache; at least one sequence."""
    software = job.software
    limits = View(
        max_num_seqs=software.max_num_seqs,
        max_num_batched_tokens=software.max_num_batched_tokens,
        block_tokens=cache.block_tokens,
        state_blocks=cache.state_blocks,
        total_blocks=cache.blocks,
        max_output_tokens=0,
        new_token_ratio=software.new_token_ratio,
        decoding=0,
        fresh=0,
        free_blocks=cache.blocks,
        decode_blocks=0,
        reserved_blocks=0,
        prefilling=(),
        waiting=lambda: iter(()),
        holders=lambda: iter(()),
        decode_tokens=1 + software.draft_tokens,
    )
    who = residents or Residents.of(job)
    limits.max_output_tokens = who.longest
    batch = _Batch(SCHEDULERS[software.scheduler], who, software.tokens_per_step, joins=True)
    plenty = replace(
        limits, max_num_seqs=PLENTY, max_num_batched_tokens=PLENTY, total_blocks=PLENTY
    )
    if not batch.refills(2, plenty):
        batch = replace(batch, joins=False)
    low, high = 1, software.max_num_seqs
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if batch.refills(middle, limits) else (low, middle - 1)
    mixed = batch.step(1 + batch.joins, plenty).decode
    return Admission(low, _refusal(batch, low + 1, limits), batch.joins, mixed)


@dataclass(frozen=True, slots=True)
class _Batch:
    """A steady batch as its scheduler sees it. Not ``joins``: the batch is being filled, and nobody
    has decoded yet.
    """

    scheduler: Scheduler
    who: Residents
    gained: float  # tokens of a sequence in a step
    joins: bool

    def refills(self, sequences: int, limits: View) -> bool:
        """Whether the scheduler keeps so many sequences going: in each step it decodes those that
        go on and takes in as many prompt tokens as those need that follow.

        One standard deviation of all their blocks stays free, since blocks that run out cost work
        that is done again.
        """
        decision = self.step(sequences, limits)
        if decision.evict or not decision.prefill:
            return False
        if not (self.joins and decision.decode):
            return True  # prompts have steps of their own, as many as they take
        tokens = sum(chunk.tokens for chunk in decision.prefill)
        return tokens >= sequences * self.who.ending * self.who.prompt

    def step(self, sequences: int, limits: View) -> Decision:
        """What the scheduler does in a step at whose end so many are in the batch."""
        who = self.who
        coming = min(sequences, max(1, math.ceil(sequences * who.ending * self.joins)))
        staying = sequences - coming
        each = (who.blocks if self.joins else who.blocks_at_start) + limits.state_blocks
        used = staying * each + math.sqrt(staying) * who.spread * self.joins
        promised = staying * (who.reserved + limits.state_blocks)
        growing = math.ceil(staying * self.gained / limits.block_tokens)
        free = limits.total_blocks - math.ceil(used)
        if free < growing:
            return Decision(evict=1)
        prompt = math.ceil(who.prompt)

        def waiting() -> Iterator[Prompt]:
            return (Prompt(-1 - i, prompt, 0, 0) for i in range(coming))

        def holders() -> Iterator[Holder]:
            tokens = round(who.blocks) * limits.block_tokens
            return (Holder(i, round(each), 1, 0, tokens) for i in range(staying))

        view = replace(
            limits,
            decoding=staying,
            fresh=0 if self.joins else staying,
            free_blocks=free,
            decode_blocks=growing,
            reserved_blocks=math.ceil(promised) if limits.max_output_tokens else 0,
            waiting=waiting,
            holders=holders,
        )
        return self.scheduler(view)


def _refusal(batch: _Batch, sequences: int, limits: View) -> Refusal:
    """What the scheduler lacks to keep so many going."""
    if sequences > limits.max_num_seqs:
        return "max_num_seqs"
    if batch.refills(sequences, replace(limits, max_num_batched_tokens=PLENTY)):
        return "token_budget"
    if batch.refills(sequences, replace(limits, max_output_tokens=0)):
        return "reserved_blocks"
    return "kv_cache"
