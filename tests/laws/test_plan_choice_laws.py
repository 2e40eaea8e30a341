"""Laws of plan auto: what is weighed, by what, and that no machine is worse for its size."""

from __future__ import annotations

import dataclasses

import pytest

from cluster_sim.kernels.layout import Layout
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.serving.admission import Residents, admission
from cluster_sim.serving.candidate import LIMITS, Candidate, planning_price, weigh
from cluster_sim.serving.generators import draw_requests, planned
from cluster_sim.serving.layouts import layouts
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload

FP8_MOE = ("workload.model=gpt-moe-1.8t", "workload.precision=fp8")


def set_up(machine: str, workload: str, *changes: str) -> tuple[TopologyInput, WorkloadInput]:
    inputs = load_topology(machine)
    job = load_workload(workload, list(changes)).on(inputs.chip)
    job = dataclasses.replace(job, workload=job.workload.plain())
    return inputs, job


def best(machine: str, workload: str, *changes: str) -> tuple[Choice, Candidate, float]:
    """The choice, and its rate per chip that holds a part of a replica."""
    inputs, job = set_up(machine, workload, *changes)
    choice = resolve(inputs, job)
    mine = next(c for c in choice.candidates if c.layout == choice.layout)
    devices = mine.layout.devices * mine.replicas
    return choice, mine, mine.requests_per_s * inputs.chip.devices_per_chip / devices


@pytest.mark.parametrize(
    ("large", "small", "workload", "changes"),
    [
        ("gb200_nvl72", "8 x gb200", "deepseek_r1_8chips", ()),
        ("gb200_nvl72", "8 x gb200", "gpt_oss_120b", ()),
        ("gb200_nvl72", "8 x gb200", "llama405b", ()),
        ("gb200_nvl72", "12 x gb200", "llama70b", FP8_MOE),
        ("cloudmatrix384", "ascend_910c_8", "llama405b", ()),
        ("cloudmatrix384", "16 x ascend_910c", "deepseek_r1_8chips", ()),
    ],
)
def test_a_large_machine_is_no_worse_a_chip(
    large: str, small: str, workload: str, changes: tuple[str, ...]
) -> None:
    assert best(large, workload, *changes)[2] >= 0.999 * best(small, workload, *changes)[2]


def test_a_machine_larger_than_the_best_replica_holds_several() -> None:
    choice, mine, _ = best("gb200_nvl72", "deepseek_r1_8chips")
    assert choice.replicas > 1
    assert mine.layout.devices * choice.replicas >= 0.85 * 72
    choice, _, _ = best("cloudmatrix384", "deepseek_r1_8chips")
    assert choice.layout.devices * choice.replicas >= 0.85 * 768


def test_a_large_mixture_keeps_its_slo_on_a_rack() -> None:
    choice, mine, _ = best("gb200_nvl72", "llama70b", *FP8_MOE)
    assert mine.within_slo
    assert not choice.notes


@pytest.mark.parametrize(
    ("machine", "workload", "changes"),
    [
        ("h200_nvl8", "llama70b", ()),
        ("h200_nvl8", "llama70b_offline", ()),
        ("h200_nvl8", "deepseek_r1_8chips", ()),
        ("h100_nvl8", "mixtral_8x7b", ("workload.software=vllm",)),
        ("gb200_nvl72", "gpt_oss_120b", ()),
        ("gb200_nvl72", "deepseek_r1_8chips", ()),
        pytest.param("gb200_nvl72", "llama70b", FP8_MOE, marks=pytest.mark.slow),
        pytest.param("cloudmatrix384", "deepseek_r1_8chips", (), marks=pytest.mark.slow),
    ],
)
def test_what_is_left_out_is_not_better(
    machine: str, workload: str, changes: tuple[str, ...]
) -> None:
    """All layouts weighed one by one against those that the search weighs."""
    inputs, job = set_up(machine, workload, *changes)
    choice = resolve(inputs, job)
    mine = next(c for c in choice.candidates if c.layout == choice.layout)
    every = [weigh(inputs, job, choice.recipe, lay) for lay in layouts(inputs, job)]
    assert len(every) > sum(c.fits for c in choice.candidates)
    open_loop = job.workload.arrivals.kind == "open"
    among = [c for c in every if c.fits and (c.within_slo or not open_loop)]
    assert mine.requests_per_s >= 0.995 * max(c.requests_per_s for c in among)


def test_a_closed_loop_is_ranked_at_its_clients(h200: TopologyInput) -> None:
    _, job = set_up("h200_nvl8", "llama70b_closed")
    choice = resolve(h200, job)
    assert len({c.layout.tp for c in choice.candidates}) == 4
    for c in choice.candidates:
        changes = [f"plan.tp={c.layout.tp}", f"plan.replicas={c.replicas}", "plan.pp=1"]
        changes.append("workload.requests=4000")
        row = simulate(h200, load_workload("llama70b_closed", changes)).summary
        assert c.limit == "concurrency"
        assert c.requests_per_s == pytest.approx(row["requests_per_s"], rel=0.05)
    fewer = set_up("h200_nvl8", "llama70b_closed", "workload.arrivals.concurrency=2")[1]
    assert resolve(h200, fewer).layout == Layout(8)


@pytest.mark.parametrize(
    ("tp", "changes"),
    [
        (1, ()),
        (2, ()),
        (1, ("workload.software=vllm",)),
        (2, ("workload.software=sglang",)),
        (2, ("engine.scheduler=static",)),
    ],
)
def test_a_backlog_has_the_rate_of_a_run(
    h200: TopologyInput, tp: int, changes: tuple[str, ...]
) -> None:
    """Within 20 %: the run has a beginning and an end as well."""
    set_to = (*changes, f"plan.tp={tp}", "plan.replicas=1")
    _, job = set_up("h200_nvl8", "llama70b_offline", *set_to)
    choice = resolve(h200, job)
    row = simulate(h200, job).summary
    mine = next(c for c in choice.candidates if c.layout == choice.layout)
    assert mine.requests_per_s == pytest.approx(row["requests_per_s"], rel=0.2)


def test_a_backlog_is_ranked_by_saturation_not_by_the_slo(h200: TopologyInput) -> None:
    slo = "workload.slo={tpot: 20 ms}"
    choices = [resolve(h200, set_up("h200_nvl8", "llama70b_offline", *c)[1]) for c in ((), (slo,))]
    assert choices[0].layout == choices[1].layout
    assert resolve(h200, set_up("h200_nvl8", "llama70b", slo)[1]).layout != choices[0].layout


def test_reservations_decide_between_plans() -> None:
    """DeepSeek-R1's tensor-parallel replica holds 45 sequences of up to 16,000 tokens."""
    choice, mine, _ = best("h200_nvl8", "deepseek_r1_8chips")
    by_layout = {str(c.layout): c for c in choice.candidates}
    one = by_layout["tp8-ep8"]
    assert one.limit == "reserved_blocks"
    assert one.batch <= 45
    assert mine.layout.attn_dp > 1
    assert mine.requests_per_s > 1.5 * one.requests_per_s


def test_every_candidate_says_what_limits_it() -> None:
    for machine, workload in (("h200_nvl8", "deepseek_r1_8chips"), ("h20_nvl8", "reasoning")):
        inputs, job = set_up(machine, workload)
        for c in resolve(inputs, job).candidates:
            assert (c.limit in LIMITS) == c.fits


@pytest.mark.parametrize("layout", [Layout(8), Layout(2, 1, 8, 4), Layout(1, 1, 2, 8)])
def test_the_planning_price_has_the_entries_of_the_run(layout: Layout) -> None:
    inputs, job = set_up("h200_nvl8", "deepseek_r1_8chips", "workload.software=vllm")
    recipe = resolve(inputs, job).recipe
    seats = admission(job, kv_cache(inputs.chip, job.model, job.software, layout, recipe))
    short = planning_price(inputs, job, layout, recipe, seats)
    full = compile_step_price(inputs, job.model, job.software, layout, recipe)
    assert len(short.decode_base_s) < len(full.decode_base_s)
    for batch in (1, 7, seats.batch):
        assert short.decode_base_s[batch] == pytest.approx(full.decode_base_s[batch], rel=0.01)
        assert short.tokens_s[batch + 1000] == pytest.approx(full.tokens_s[batch + 1000], rel=0.01)
    if full.shared_s is not None and short.shared_s is not None:
        for tokens in (8, 100, 5000):
            assert short.shared_s[tokens] == pytest.approx(full.shared_s[tokens], rel=0.02)


def test_the_longest_answer_of_a_mix_is_the_declared_one() -> None:
    _, job = set_up("h200_nvl8", "mixed")
    size = job.software.memory.block_tokens
    requests = draw_requests(job.workload, 10_000, seed=0, block_tokens=size)
    osls = planned(job, None, block_tokens=size).workload.shape[1]
    assert osls.longest == max(part.osl.longest for part in job.workload.parts)
    assert osls.average == pytest.approx(float(requests.osl.mean()), rel=0.1)
    assert Residents.of(planned(job, None, block_tokens=size)).longest == osls.longest


def test_what_was_played_decides(h200: TopologyInput) -> None:
    _, job = set_up("h200_nvl8", "llama70b")
    choice = resolve(h200, job)
    first, second = (c.layout for c in choice.ranked(job)[:2])
    assert choice.layout == first
    played = choice.played(job, {first: 10.0, second: 11.0})
    assert played.layout == second
    rates = {c.layout: c.played_requests_per_s for c in played.candidates}
    assert (rates[first], rates[second]) == (10.0, 11.0)
    assert rates[next(c.layout for c in choice.ranked(job)[2:])] is None
