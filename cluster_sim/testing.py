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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.records import StepCounts, StepLog
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.scheduler import SCHEDULERS, Decision, Scheduler, View
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.serving.stepper import ReplicaSpec


@dataclass(frozen=True)
class SyntheticPrice:
    """The arithmetic of StepPrice over made-up numbers."""

    decode_base_s: list[float]
    tokens_s: list[float]
    context_s: float
    half_length: float = 700.0

    def step_s(self, decodes: int, context: int, tokens: int, prompts: int, work: float) -> float:
        """Seconds of one step."""
        if tokens == 0:
            return self.decode_base_s[decodes] + self.context_s * context
        fixed = self.tokens_s[decodes + tokens] + 1e-6 * prompts
        return fixed + (self.context_s * context) + (1e-5 + 3e-11 * work)

    def decode_stretch_s(self, decodes: int, context: int, steps: int) -> NDArray[np.float64]:
        """The same for consecutive decode-only steps."""
        contexts = context + decodes * np.arange(steps)
        return np.asarray(self.decode_base_s[decodes] + self.context_s * contexts, np.float64)

    def prefill_work(self, start: int, end: int) -> float:
        """Units of prompt attention."""
        return (end * end - start * start) * (1 + self.half_length / end)


def synthetic_price(rng: random.Random, scale: float = 1.0) -> SyntheticPrice:
    """Prices of a few milliseconds a step, growing with the batch."""
    base = 5e-3 * scale * (1 + rng.random())
    slope = 3e-5 * scale * rng.random()
    return SyntheticPrice(
        [base + slope * n for n in range(3000)],
        [base + 2 * slope * n for n in range(20_000)],
        1e-8 * scale * rng.random(),
    )


def random_case(seed: int, scheduler: Scheduler | None = None) -> tuple[Service, Requests]:
    """A service and its traffic: schedulers, bursts, starved caches, several replicas, closed and
    open loops.
    """
    rng = random.Random(seed)
    draw = np.random.default_rng(seed)
    count = rng.choice((1, 5, 40, 40, 150, 150))
    size = rng.choice((1, 4, 16, 32))
    isl = draw.integers(1, rng.choice((3, 60, 400)), count, endpoint=True)
    osl = draw.integers(1, rng.choice((1, 4, 50, 300)), count, endpoint=True)
    longest = int((isl + osl).max())
    spare = rng.choice((1, 1.5, 2, 3, 5, 1000))
    blocks = max(1, int(-(-longest // size) * spare) - rng.choice((0, 0, 0, 1)))
    gaps = draw.gamma(rng.choice((0.3, 1.0, 4.0)), rng.choice((1e-4, 1e-3, 1e-2, 0.1, 1.0)), count)
    arrival = np.zeros(count) if rng.random() < 0.15 else np.cumsum(gaps)
    if rng.random() < 0.2:
        arrival = np.round(arrival, 1)  # many arrivals at one instant
    name = rng.choice(("vllm_v1", "vllm_v1", "static"))
    spec = ReplicaSpec(
        price=synthetic_price(rng),  # type: ignore[arg-type]
        blocks=blocks,
        block_tokens=size,
        scheduler=scheduler or SCHEDULERS[name],
        max_num_seqs=rng.choice((1, 4, 8, 64, 64, 1000)),
        max_num_batched_tokens=rng.choice((8, 64, 512, 8192)),
        max_output_tokens=int(osl.max()),
    )
    service = Service(
        spec=spec,
        replicas=rng.choice((1, 1, 2, 5)),
        router=rng.choice(("round_robin", "least_outstanding")),
        max_context=rng.choice((10**6, longest, longest, max(2, longest - 5))),
        concurrency=rng.choice((None, None, None, 1, 7, 64, 64)),
    )
    return service, Requests(arrival, isl, osl)


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
        )

    def of_counts(counts: StepCounts) -> dict[str, object]:
        names = [name for name in StepCounts.__slots__ if name != "busy_s"]
        return {name: getattr(counts, name) for name in names}

    outcomes = run.outcomes
    return {
        "arrival": plain(outcomes.arrival_s),
        "first": plain(outcomes.first_s),
        "finish": plain(outcomes.finish_s),
        "replica": outcomes.replica,
        "preemptions": outcomes.preemptions,
        "status": outcomes.status,
        "logs": [of_log(log) for log in run.logs],
        "counts": [of_counts(counts) for counts in run.counts],
        "end": run.end_s,
    }


def check_scheduler(scheduler: Scheduler, cases: int = 40) -> None:
    """Hold a scheduler to the contract on random services; raises AssertionError naming the case
    and the rule.

    Rules: the same view gives the same decision; only known requests, at most what is left of them,
    within budget, sequence limit and free blocks; it never idles while something can run; every
    request ends; and an answer holds until the next event, so that skipping ahead gives the bytes
    of asking at every step.
    """
    for seed in range(cases):
        service, requests = random_case(seed, _watched(scheduler, seed))
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
        free -= view.blocks_for(prompt.computed + chunk.tokens) - view.blocks_for(prompt.computed)
        seats -= prompt.request not in {held.request for held in kept}
        tokens += chunk.tokens
    budget = view.max_num_batched_tokens
    assert tokens == 0 or tokens + decodes <= max(budget, decodes), f"{case}: {tokens} over budget"
    assert free >= 0, f"{case}: {-free} KV blocks short"
    assert seats >= 0, f"{case}: {-seats} sequences over max_num_seqs"
    assert tokens or decodes, f"{case}: idles although something can run"
