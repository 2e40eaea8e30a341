"""What the engine admits in steady state, against runs and against counts by hand."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.startup import kv_cache
from cluster_sim.serving.admission import Admission, admission
from cluster_sim.simulation import play
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_workload

LONG = (
    "workload.isl={mean: 2000, cv: 0.8, max: 16000}",
    "workload.osl={mean: 600, cv: 1.0, max: 4000}",
)
EQUAL = ("workload.isl={fixed: 2000}", "workload.osl={fixed: 500}")


def asked(
    machine: TopologyInput, tp: int, *changes: str, blocks: int | None = None
) -> tuple[WorkloadInput, KvCache, Admission]:
    job = load_workload("llama70b_offline", list(changes)).on(machine.chip)
    dtypes = recipe(machine.chip, job.model, "fp8", "fp8")
    cache = kv_cache(machine.chip, job.model, job.software, Layout(tp), dtypes)
    if blocks is not None:
        cache = dataclasses.replace(cache, blocks=blocks)
    return job, cache, admission(job, cache)


def held(machine: TopologyInput, tp: int, *changes: str) -> float:
    """The median batch over the steps of a run with everything queued."""
    plan = (f"plan.tp={tp}", "plan.pp=1", "plan.replicas=1", "workload.precision=fp8")
    job = load_workload("llama70b_offline", ["workload.requests=4000", *plan, *changes])
    (counts,) = play(machine, job).run.counts
    batches: Counter[int] = counts.pure + counts.mixed_decodes
    del batches[0]  # steps of prompts alone
    seen = sorted(batches.elements())
    return seen[len(seen) // 2]


@pytest.mark.parametrize(
    ("scheduler", "lengths"),
    [
        ("trtllm_no_evict", LONG),
        ("trtllm_no_evict", EQUAL),
        ("trtllm_max_utilization", LONG),
        ("vllm_v1", LONG),
        ("sglang", LONG),
        ("sglang_mixed", LONG),
    ],
)
def test_a_backlog_fills_the_batch_that_is_admitted(
    h200: TopologyInput, scheduler: str, lengths: tuple[str, ...]
) -> None:
    """Within 8 %: prompts of several chunks hold seats, and preempted work is done again."""
    changes = (*lengths, f"engine.scheduler={scheduler}", "workload.precision=fp8")
    expected = asked(h200, 1, *changes)[2].batch
    assert held(h200, 1, *changes) == pytest.approx(expected, rel=0.08)


def test_full_reservations_by_hand(h200: TopologyInput) -> None:
    """Prompt 2,000 and answer 500 tokens in blocks of 32: 79 blocks each."""
    _, cache, found = asked(h200, 1, *EQUAL)
    assert found == Admission(cache.blocks // 79, "reserved_blocks", joins=True, mixed=True)


def test_the_longest_answer_is_reserved_not_the_mean(h200: TopologyInput) -> None:
    short = asked(h200, 1, *EQUAL)[2].batch
    tail = "workload.osl={quantiles: {0%: 500, 99.99%: 500, 100%: 8000}}"
    far = asked(h200, 1, EQUAL[0], tail)[2]
    assert far.limit == "reserved_blocks"
    assert far.batch == pytest.approx(short * 79 / 313, rel=0.02)  # ceil(10,000 / 32) blocks
    free = asked(h200, 1, EQUAL[0], tail, "engine.scheduler=vllm_v1")[2]
    assert free.limit == "kv_cache"
    assert free.batch > short


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        (("engine.max_num_seqs=16",), "max_num_seqs"),
        (("engine.max_num_batched_tokens=128",), "token_budget"),
        (("engine.scheduler=vllm_v1",), "kv_cache"),
        (("engine.scheduler=sglang",), "reserved_blocks"),
        ((), "reserved_blocks"),
    ],
)
def test_the_limit_is_named(h200: TopologyInput, changes: tuple[str, ...], limit: str) -> None:
    assert asked(h200, 1, *EQUAL, *changes)[2].limit == limit


@pytest.mark.parametrize("scheduler", ["trtllm_no_evict", "vllm_v1", "sglang", "static"])
def test_more_blocks_never_hold_fewer(h200: TopologyInput, scheduler: str) -> None:
    changes = (*LONG, f"engine.scheduler={scheduler}")
    batches = [asked(h200, 1, *changes, blocks=n)[2].batch for n in range(200, 4000, 190)]
    assert batches == sorted(batches)
    assert batches[-1] > batches[0]


def test_a_static_batch_admits_nobody_while_it_decodes(h200: TopologyInput) -> None:
    found = asked(h200, 1, *EQUAL, "engine.scheduler=static")[2]
    assert not found.joins
    assert not found.mixed
    assert asked(h200, 1, *EQUAL, "engine.scheduler=sglang")[2].mixed is False
