"""One way to count: what is divided by a window is counted in it, and nothing is counted twice."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from cluster_sim.errors import SimulationError
from cluster_sim.metrics import Targets, latencies, meets_slo
from cluster_sim.overload import trend
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.scheduler import Limit
from cluster_sim.serving.service import Run, serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.workload import Slo
from cluster_sim.status import check_laws, most_tokens_per_s
from cluster_sim.testing import random_case, random_drafts
from cluster_sim.window import Window, prompt_tokens_in, steady_window, tokens_in

CASES = 200
BUDGET = "engine.max_num_batched_tokens=65536"
LONGEST = "engine.max_model_len=8192"


@cache
def played(seed: int) -> tuple[Requests, Run]:
    service, requests = random_case(seed)
    return requests, serve(service, requests)


@pytest.mark.parametrize("cases_of", [random_case, random_drafts])
def test_tokens_of_the_parts_are_those_of_the_run(cases_of: object) -> None:
    """200 random runs: every prompt token and every output token once, however time is cut."""
    for seed in range(CASES // 2):
        service, requests = cases_of(seed)  # type: ignore[operator]
        run = serve(service, requests)
        done = np.array(run.outcomes.status) == 1
        edges = Window(-1.0, run.end_s).parts(1 + seed % 7)
        assert tokens_in(run.logs, edges).sum() == requests.osl[done].sum()
        assert prompt_tokens_in(run.logs, edges).sum() == requests.isl[done].sum()


def test_the_window_lies_in_the_run_and_ends_before_the_drain() -> None:
    supported = 0
    for seed in range(CASES):
        requests, run = played(seed)
        steady = steady_window(run, requests)
        window = steady.window
        assert 0 <= window.start_s <= window.end_s <= max(run.end_s, window.start_s)
        supported += not steady.reason
    assert supported > CASES // 10


def test_goodput_is_within_throughput_and_the_window_within_the_run() -> None:
    kept = 0
    for seed in range(CASES):
        requests, run = played(seed)
        window = steady_window(run, requests).window
        seen = latencies(run, requests)
        limit = float(np.nanmedian(seen.ttft_s)) if seen.finished.any() else 1.0
        good = meets_slo(seen, Targets((Slo(ttft=limit),)))
        ended = window.holds(np.array(run.outcomes.finish_s))
        assert (good & ended).sum() <= ended.sum()
        edges = window.parts(1)
        assert tokens_in(run.logs, edges)[0] <= sum(c.output_tokens for c in run.counts)
        assert prompt_tokens_in(run.logs, edges)[0] <= requests.isl.sum()
        kept += int((good & ended).sum())
    assert kept > 0


def test_time_refused_is_within_the_time_of_the_run() -> None:
    seen: set[str] = set()
    for seed in range(CASES):
        requests, run = played(seed)
        for counts in run.counts:
            assert sum(counts.refused_s.values()) <= run.end_s * (1 + 1e-9)
            assert all(value >= 0 for value in counts.refused_s.values())
            seen |= set(counts.refused_s)
    assert seen == set(Limit)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [
        (("engine.max_num_seqs=2",), Limit.MAX_NUM_SEQS),
        (("engine.memory_fraction=0.03",), Limit.RESERVED_BLOCKS),
        (("engine.max_num_batched_tokens=128",), Limit.TOKEN_BUDGET),
        (
            ("workload.software=vllm", "engine.memory_fraction=0.34", BUDGET, LONGEST),
            Limit.KV_CACHE,
        ),
    ],
)
def test_the_limit_that_refuses_is_named(
    h200: TopologyInput, changes: tuple[str, ...], limit: Limit
) -> None:
    """A backlog on a machine that one setting starves."""
    base = ["workload.requests=400", "workload.arrivals={kind: offline}", "plan.tp=2"]
    row = simulate(h200, load_workload("llama70b", [*base, *changes])).summary
    shares = {name: row[f"limit_{name}"] for name in Limit}
    assert max(shares, key=shares.__getitem__) == limit
    assert shares[limit] > 0.5


def test_an_overloaded_service_is_told_and_counts_its_work(h200: TopologyInput) -> None:
    job = load_workload(
        "llama70b",
        [
            "workload.arrivals={kind: open, rate: 60 requests/s}",
            "plan.tp=2",
        ],
    )
    result = simulate(h200, job)
    row = result.summary
    assert row["stable"] is False
    assert row["rate_asked_per_s"] == pytest.approx(60)
    served = row["saturation_output_tokens_per_s_per_chip"] * row["chips_used"]
    assert row["output_tokens_per_s"] <= served * 1.05
    assert row["goodput_per_s"] <= row["requests_per_s"] < 60
    assert row["ttft_mean_ms_status"] == "lower_bound"
    assert any(
        note.startswith("overloaded: 60 requests/s come") for note in result.manifest["notes"]
    )


def test_a_service_at_half_its_saturation_is_stable(h200: TopologyInput) -> None:
    job = load_workload(
        "llama70b",
        [
            "workload.arrivals={kind: open, rate: 18 requests/s}",
            "plan.tp=2",
        ],
    )
    row = simulate(h200, job).summary
    assert row["stable"] is True
    assert row["requests_per_s"] == pytest.approx(row["rate_per_s"], rel=0.05)


def test_a_queue_that_grows_is_seen_and_one_that_does_not_is_not() -> None:
    service, _ = random_case(3)
    count = 4000
    ones = np.ones(count, dtype=np.int64)
    alone = serve(service, Requests(np.zeros(1), ones[:1], ones[:1]))
    service_s = alone.outcomes.finish_s[0]
    from dataclasses import replace

    spec = replace(service.spec, ranks=1, max_num_seqs=1, prefixes=None, max_num_batched_tokens=8)
    service = replace(service, spec=spec, replicas=1, concurrency=None)
    for load, grows in ((0.5, False), (1.3, True)):
        gaps = np.random.default_rng(5).exponential(service_s / load, count)
        requests = Requests(np.cumsum(gaps), ones, ones)
        run = serve(service, requests)
        found = trend(run, requests, Window(0.0, run.end_s))
        assert found.grows is grows
        if grows:
            assert found.growth_per_s == pytest.approx((load - 1) / service_s, rel=0.2)


def test_figures_that_break_a_law_fail_loudly(h200: TopologyInput) -> None:
    base = ["workload.requests=1500", "workload.arrivals={kind: open, rate: 18 requests/s}"]
    result = simulate(h200, load_workload("llama70b", base), keep=True)
    facts = result.facts
    assert facts is not None
    steady = steady_window(facts.run, facts.requests)
    assert not steady.reason
    check_laws(facts, steady, result.summary)
    most = most_tokens_per_s(facts)
    for broken in (
        {"goodput_per_s": result.summary["requests_per_s"] + 1},
        {"output_tokens_per_s": 1e9},
        {"input_tokens_per_s": 1e9},
    ):
        with pytest.raises(SimulationError):
            check_laws(facts, steady, {**result.summary, **broken})
    assert result.summary["total_tokens_per_s"] < most
