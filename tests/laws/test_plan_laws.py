"""Laws of plans: what pipelines and attention groups do to a run."""

from __future__ import annotations

import dataclasses

import pytest

from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.result import Result
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_workload


def closed(machine: TopologyInput, clients: int, *plan: str) -> Result:
    job = load_workload(
        "llama70b_closed",
        [
            *(f"plan.{degree}" for degree in plan),
            "plan.replicas=1",
            f"workload.arrivals.concurrency={clients}",
            f"workload.requests={12 * clients}",
            "workload.isl={fixed: 256}",
            "workload.osl={fixed: 64}",
        ],
    )
    return simulate(machine, job)


@pytest.mark.parametrize("stages", [2, 4])
def test_one_sequence_leaves_all_stages_but_one_waiting(h200: TopologyInput, stages: int) -> None:
    """Of the time in which the engine has work: between two requests its client is looking."""
    summary = closed(h200, 1, "tp=2", f"pp={stages}").summary
    assert 0 < summary["share_idle"] < 0.02
    busy = 1 - summary["share_idle"]
    assert summary["share_bubble"] / busy == pytest.approx((stages - 1) / stages, rel=1e-9)


@pytest.mark.parametrize("stages", [2, 4])
def test_full_pipelines_have_no_bubble(h200: TopologyInput, stages: int) -> None:
    """As many equal sequences as micro-batches, in step with each other."""
    summary = closed(h200, stages, "tp=1", f"pp={stages}").summary
    assert summary["share_bubble"] == pytest.approx(0, abs=1e-9)


def test_a_stage_costs_a_handoff_and_nothing_else(h200: TopologyInput, chat: WorkloadInput) -> None:
    """A step of one micro-batch passes the same operators however many stages hold them."""
    dtypes = recipe(h200.chip, chat.model, "fp8", "fp8")
    alone, staged = (
        compile_step_price(h200, chat.model, chat.software, Layout(2, pp), dtypes) for pp in (1, 4)
    )
    handoff = next(family for family in staged.families if family.name == "handoff")
    assert handoff.tokens_s is not None
    for decodes in (1, 7, 64):
        step = (decodes, 1000 * decodes, 0, 0, 0, 0.0)
        extra = staged.step_s(*step) - alone.step_s(*step)
        assert extra == pytest.approx(float(handoff.tokens_s[decodes]), rel=1e-9)


def test_pipelines_hold_more_cache_a_device_and_are_slower_for_one(h200: TopologyInput) -> None:
    flat, staged = (closed(h200, 1, "tp=2", f"pp={pp}").summary for pp in (1, 4))
    assert staged["kv_tokens"] > 3 * flat["kv_tokens"]
    assert staged["tpot_mean_ms"] > flat["tpot_mean_ms"]


def test_more_clients_fill_the_stages(h200: TopologyInput) -> None:
    few, many = (closed(h200, clients, "tp=1", "pp=4").summary for clients in (1, 16))
    assert many["share_bubble"] < 0.1 < few["share_bubble"]
    gain = many["output_tokens_per_s"] / few["output_tokens_per_s"]
    assert gain > 4


def test_layouts_of_one_stage_are_the_same_as_none(
    h200: TopologyInput, chat: WorkloadInput
) -> None:
    job = dataclasses.replace(chat, workload=dataclasses.replace(chat.workload, requests=50))
    plain = dataclasses.replace(job.workload.plan, tp=4)
    staged = dataclasses.replace(plain, pp=1)
    results = [
        simulate(h200, dataclasses.replace(job, workload=dataclasses.replace(job.workload, plan=p)))
        for p in (plain, staged)
    ]
    first, second = (
        {k: v for k, v in r.summary.items() if k not in ("run_id", "config_hash")} for r in results
    )
    assert first == second
