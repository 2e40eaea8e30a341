"""The fast path gives the bytes of the step-by-step reference: every time, every count, every
order.
"""

from __future__ import annotations

from collections import Counter

import pytest

from cluster_sim.serving import prefix_cache
from cluster_sim.serving.router import ROUTERS
from cluster_sim.serving.scheduler import SCHEDULERS, Chunk, Decision, Scheduler, View
from cluster_sim.serving.service import serve
from cluster_sim.testing import check_scheduler, facts, random_case

SLOW = pytest.mark.slow
DEFAULT_CASES, ALL_CASES = 40, 400


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=SLOW if seed >= DEFAULT_CASES else ()) for seed in range(ALL_CASES)],
)
def test_fast_path_equals_step_by_step(seed: int) -> None:
    service, requests = random_case(seed)
    reference = facts(serve(service, requests, step_by_step=True))
    fast = facts(serve(service, requests))
    for name, value in reference.items():
        assert fast[name] == value, name


def test_the_cases_reach_every_mechanism() -> None:
    reached: Counter[str] = Counter()
    for seed in range(ALL_CASES):
        service, requests = random_case(seed)
        run, spec = serve(service, requests), service.spec
        preempted = sum(run.outcomes.preemptions) > 0
        reached[spec.scheduler.__name__] += 1
        reached[service.router] += 1
        reached["preempted"] += preempted
        reached["rejected"] += any(status > 1 for status in run.outcomes.status)
        reached["several replicas"] += service.replicas > 1
        reached["closed loop"] += service.concurrency is not None
        reached["several ranks"] += spec.ranks > 1
        reached["shared operators"] += spec.price.shared_s is not None
        reached["local attention"] += spec.price.local is not None
        reached["states"] += spec.state_blocks > 0
        reached["swapped"] += any(counts.swapped for counts in run.counts)
        reached["prefix hits"] += run.hit_tokens > 0
        reached["priorities"] += requests.priority is not None
        reached["sessions"] += requests.after is not None
    assert min(reached.values()) >= 30, reached
    assert len(reached) == len(SCHEDULERS) + len(ROUTERS) + 12


def test_a_cache_that_forgets_in_large_portions_does_so_on_both_paths(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(prefix_cache, "PORTIONS", 6)
    forgotten = 0
    for seed in range(160):
        service, requests = random_case(seed)
        if requests.prefixes is None or service.spec.blocks < 12:
            continue
        reference = facts(serve(service, requests, step_by_step=True))
        run = serve(service, requests)
        assert facts(run) == reference
        forgotten += any(c.blocks_taken > service.spec.blocks for c in run.counts)
    assert forgotten > 10


@pytest.mark.parametrize("cases", [12, pytest.param(40, marks=SLOW)])
@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_schedulers_keep_the_contract(name: str, cases: int) -> None:
    check_scheduler(SCHEDULERS[name], cases)


def greedy(view: View) -> Decision:
    """Admits whole prompts whether or not there is room."""
    return Decision(tuple(Chunk(p.request, p.left) for p in (*view.prefilling, *view.waiting())))


def idle(view: View) -> Decision:
    """Never does anything."""
    return Decision(decode=False)


def moody() -> Scheduler:
    """Answers differently each time."""
    asked: list[int] = []

    def decide(view: View) -> Decision:
        asked.append(1)
        return SCHEDULERS["vllm_v1"](view) if len(asked) % 2 else Decision(decode=False)

    return decide


@pytest.mark.parametrize(
    ("scheduler", "rule"),
    [(greedy, "short|budget|over"), (idle, "idles"), (moody(), "two answers")],
)
def test_a_bad_scheduler_is_caught(scheduler: Scheduler, rule: str) -> None:
    with pytest.raises(AssertionError, match=rule):
        check_scheduler(scheduler)
