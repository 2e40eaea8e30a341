"""Checks for plug-ins: ``check_scheduler`` holds a scheduler to the contract on random small
services.

The services have made-up but exactly reproducible step prices, starved caches, bursts, several
replicas and closed loops.
"""

from __future__ import annotations

import dataclasses
import math
import random
from array import array
from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster_sim.kernels.attention import PromptAttention
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.pace import Pace
from cluster_sim.serving.records import StepCounts, StepLog
from cluster_sim.serving.requests import Prefixes, Requests, prefixes_of_runs
from cluster_sim.serving.router import ROUTERS
from cluster_sim.serving.scheduler import SCHEDULERS, Decision, Scheduler, View
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.specs.model import LocalAttention


def synthetic_price(
    base_s: float,
    per_token_s: float,
    context_s: float = 0.0,
    *,
    local: LocalAttention | None = None,
    shared: bool = False,
) -> StepPrice:
    """A price list of made-up numbers: ``base_s`` a step, more with tokens and context."""
    tokens = [base_s + 2 * per_token_s * n for n in range(20_000)]
    rows = [1e-6 * n for n in range(3000)]
    decodes = [0.0] + [1e-5 + per_token_s * n for n in range(1, 3000)]
    local_s = 1e-11 if local else 0.0
    return StepPrice(
        families=(),
        tokens_s=tokens,
        sequences_s=rows,
        decodes_s=decodes,
        decode_base_s=[base_s + per_token_s * n for n in range(3000)],
        context_s=context_s,
        local_context_s=context_s / 3 if local else 0.0,
        prefill_floor_s=1e-5,
        prompt=PromptAttention(3e-11, local_s, 0.0, 1.0, 700.0, 0.0, "assumed", local),
        swap_s=1e-7,
        shared_s=np.array([2 * per_token_s * n for n in range(60_000)]) if shared else None,
    )


def _random_price(rng: random.Random, *, shared: bool) -> StepPrice:
    kinds: tuple[Literal["sliding", "chunked"], ...] = ("sliding", "chunked")
    window = rng.choice((None, None, 3, 50, 300))
    local = None
    if window is not None:
        local = LocalAttention(kind=rng.choice(kinds), tokens=window, layers=1)
    base_s = 5e-3 * (1 + rng.random())
    return synthetic_price(
        base_s, 3e-5 * rng.random(), 1e-8 * rng.random(), local=local, shared=shared
    )


def _random_prefixes(
    rng: random.Random, isl: NDArray[np.int64], osl: NDArray[np.int64], size: int
) -> Prefixes | None:
    """Requests that begin with one of a few texts, and then with one of a few others."""
    unit = size * rng.choice((1, 2, 4))
    draw = np.random.default_rng(rng.randrange(2**32))
    reach = isl if rng.random() < 0.5 else isl + osl
    whole = draw.integers(0, reach // unit, endpoint=True)
    first = np.minimum(whole, draw.choice((1, 3, 1000), len(isl)))
    texts = [draw.integers(1, 4, len(isl), endpoint=True) for _ in range(2)]
    return prefixes_of_runs([(texts[0], first), (texts[1], whole - first)], unit)


def _random_sessions(rng: random.Random, requests: Requests) -> Requests:
    """Some requests become turns: each waits for one of the few before it that nobody else waits
    for.
    """
    after = np.full(len(requests), -1, dtype=np.int64)
    open_ends: list[int] = []
    width = rng.choice((1, 3, 20))
    for request in range(len(requests)):
        if open_ends and rng.random() < 0.7:
            after[request] = open_ends.pop(rng.randrange(len(open_ends)))
        open_ends = [*open_ends, request][-width:]
    think = [rng.choice((0.0, 0.0, 1e-3, 0.1, 3.0)) * rng.random() for _ in after]
    return dataclasses.replace(requests, after=after, think_s=np.array(think))


def _random_wait(rng: random.Random) -> ClientWait:
    """Half of the clients see last tokens as soon as the engine has them."""
    return ClientWait(rng.choice((0.0, 0.0, 1e-3, 0.2)), rng.choice((0.0, 0.5, 4.0)))


def random_drafts(seed: int, scheduler: Scheduler | None = None) -> tuple[Service, Requests]:
    """A random case whose sequences have drafts in their steps."""
    service, requests = random_case(seed, scheduler)
    rng = random.Random(-1 - seed)
    drafts = rng.choice((1, 1, 2, 3, 7))
    acceptance = rng.choice((0.0, 1.0, rng.random(), rng.random(), rng.random()))
    spec = dataclasses.replace(
        service.spec,
        price=dataclasses.replace(service.spec.price, decode_tokens=1 + drafts),
        max_output_tokens=service.spec.max_output_tokens + drafts,
        pace=Pace.of(sum(acceptance**n for n in range(drafts + 1))),
    )
    return dataclasses.replace(service, spec=spec), requests


def random_case(seed: int, scheduler: Scheduler | None = None) -> tuple[Service, Requests]:
    """A service and its traffic: schedulers, bursts, starved caches, several replicas, closed and
    open loops, sessions.
    """
    rng = random.Random(seed)
    draw = np.random.default_rng(seed)
    count = rng.choice((1, 5, 40, 80, 150, 150))
    size = rng.choice((1, 4, 16, 32))
    isl = draw.integers(1, rng.choice((3, 60, 400)), count, endpoint=True)
    osl = draw.integers(1, rng.choice((1, 4, 50, 300, 300)), count, endpoint=True)
    longest = int((isl + osl).max())
    spare = rng.choice((1, 1.2, 1.5, 2, 3, 1000))
    state_blocks = rng.choice((0, 0, 0, 1, 3))
    needed = -(-longest // size) + state_blocks
    blocks = max(1 + state_blocks, int(needed * spare) - rng.choice((0, 0, 0, 1)))
    gaps = draw.gamma(rng.choice((0.3, 1.0, 4.0)), rng.choice((1e-4, 1e-3, 1e-2, 0.1, 1.0)), count)
    arrival = np.zeros(count) if rng.random() < 0.15 else np.cumsum(gaps)
    if rng.random() < 0.2:
        arrival = np.round(arrival, 1)  # many arrivals at one instant
    name = rng.choice((*SCHEDULERS, "vllm_v1", "trtllm_max_utilization"))
    ranks = rng.choice((1, 1, 1, 2, 4))
    prefixes = _random_prefixes(rng, isl, osl, size) if rng.random() < 0.3 else None
    spec = ReplicaSpec(
        price=_random_price(rng, shared=ranks > 1 and rng.random() < 0.5),
        blocks=blocks,
        block_tokens=size,
        scheduler=scheduler or SCHEDULERS[name],
        max_num_seqs=rng.choice((1, 4, 8, 64, 64, 1000)),
        max_num_batched_tokens=rng.choice((8, 64, 512, 8192)),
        max_output_tokens=int(osl.max()),
        ranks=ranks,
        state_blocks=state_blocks,
        new_token_ratio=rng.choice((0.1, 0.5, 1.0)),
        swap=rng.random() < 0.95,
        prefixes=prefixes,
    )
    service = Service(
        spec=spec,
        replicas=rng.choice((1, 1, 2, 5)),
        router=rng.choice(tuple(ROUTERS)),
        max_context=rng.choice((10**6, longest, longest, max(2, longest - 5))),
        concurrency=rng.choice((None, None, None, 1, 7, 64, 64)),
        client=_random_wait(random.Random(f"client of {seed}")),
    )
    priority = draw.integers(0, 2, count) if rng.random() < 0.3 else None
    requests = Requests(arrival, isl, osl, priority=priority, prefixes=prefixes)
    return service, _random_sessions(rng, requests) if rng.random() < 0.2 else requests


Cases = Callable[[int, Scheduler | None], tuple[Service, Requests]]


def facts(run: Run) -> dict[str, object]:
    """Everything that a result is made of, in comparable form; NaN becomes None."""

    def plain(values: array[float]) -> list[float | None]:
        return [None if math.isnan(value) else value for value in values]

    def of_log(log: StepLog) -> tuple[object, ...]:
        return (
            log.end_s.tolist(),
            log.emitted.tolist(),
            log.chained.tolist(),
            sorted(log.lone_gaps),
            log.together.tolist(),
            log.prompt_s.tolist(),
            log.prompt_tokens.tolist(),
        )

    def of_counts(counts: StepCounts) -> dict[str, object]:
        return {name: getattr(counts, name) for name in StepCounts.__slots__}

    outcomes = run.outcomes
    return {
        "arrival": plain(outcomes.arrival_s),
        "first": plain(outcomes.first_s),
        "finish": plain(outcomes.finish_s),
        "replica": outcomes.replica,
        "rank": outcomes.rank,
        "others": outcomes.others,
        "preemptions": outcomes.preemptions,
        "status": outcomes.status,
        "logs": [of_log(log) for log in run.logs],
        "counts": [of_counts(counts) for counts in run.counts],
        "shared": run.shared,
        "idle": run.idle_s,
        "hits": run.hit_tokens,
        "end": run.end_s,
    }


def check_scheduler(
    scheduler: Scheduler, cases: int = 40, *, cases_of: Cases = random_case
) -> None:
    """Hold a scheduler to the contract on random services; raises AssertionError naming the case
    and the rule.

    Rules: the same view gives the same decision; only known requests, at most what is left of them,
    within budget, sequence limit and free blocks; it never idles while something can run; every
    request ends; and an answer holds until the next event, so that skipping ahead gives the bytes
    of asking at every step.
    """
    for seed in range(cases):
        service, requests = cases_of(seed, _watched(scheduler, seed))
        reference = facts(serve(service, requests, step_by_step=True))
        fast = facts(serve(service, requests))
        differing = [name for name, value in reference.items() if fast[name] != value]
        assert not differing, (
            f"case {seed}: a decision changed without an event (differs: {', '.join(differing)})"
        )


def _watched(scheduler: Scheduler, seed: int) -> Scheduler:
    def decide(view: View) -> Decision:
        decision = scheduler(view)
        again = scheduler(dataclasses.replace(view))
        assert again == decision, f"case {seed}: two answers to one view: {decision}, {again}"
        _check_decision(view, decision, f"case {seed}")
        return decision

    return decide


def _check_decision(view: View, decision: Decision, case: str) -> None:
    holders = list(view.holders())
    assert 0 <= decision.evict <= len(holders), f"{case}: evicts {decision.evict} of {len(holders)}"
    evicted, kept = holders[: decision.evict], holders[decision.evict :]
    free = view.free_blocks + sum(holder.blocks for holder in evicted)
    decodes = sum(holder.left == 0 for holder in kept) if decision.decode else 0
    free -= sum(holder.needs for holder in kept) if decision.decode else 0
    prompts = {prompt.request: prompt for prompt in (*view.prefilling, *view.waiting())}
    gone = {holder.request for holder in evicted}
    seats = view.max_num_seqs - len(kept)
    tokens = 0
    for chunk in decision.prefill:
        prompt = prompts.pop(chunk.request, None)
        assert prompt is not None, f"{case}: chunk of request {chunk.request}, unknown or repeated"
        assert chunk.request not in gone, f"{case}: evicts and computes request {chunk.request}"
        assert 1 <= chunk.tokens <= prompt.left, f"{case}: {chunk.tokens} of {prompt.left} tokens"
        free -= view.new_blocks(prompt, chunk.tokens)
        seats -= prompt.request not in {held.request for held in kept}
        tokens += chunk.tokens
    budget = view.max_num_batched_tokens
    decoded = decodes * view.decode_tokens
    assert tokens == 0 or tokens + decoded <= max(budget, decoded), f"{case}: {tokens} over budget"
    assert free >= 0, f"{case}: {-free} KV blocks short"
    assert seats >= 0, f"{case}: {-seats} sequences over max_num_seqs"
    assert tokens or decodes, f"{case}: idles although something can run"
