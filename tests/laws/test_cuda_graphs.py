"""Laws of captured decode graphs: closed form, limits, the ledger, both paths, the flags' names."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.ledger import close_ledger
from cluster_sim.perf.cuda_graphs import UNTOUCHED, filled
from cluster_sim.perf.family import Batch, family_s
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.simulation import play
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

MACHINE = load_topology("h200_nvl8")
BF16 = Recipe("bf16", *["bf16"] * 4)
SIZES, MOST = (1, 2, 4, 8, 16), 24
MODELS = {"llama3.1-8b": 0, "deepseek-r1": 0, "glm-4.5-air": 2}  # drafts


def price_of(model: str, sizes: tuple[int, ...], attn_dp: int = 1) -> StepPrice:
    software = dataclasses.replace(
        load_workload("llama70b").software,
        max_num_seqs=MOST,
        max_num_batched_tokens=256,
        draft_tokens=MODELS[model],
        cuda_graph_sizes=sizes,
    )
    ep = 1 if model == "llama3.1-8b" else 8
    layout = Layout(tp=8 // attn_dp, ep=ep, attn_dp=attn_dp)
    return compile_step_price(MACHINE, load_spec("model", model, Model)[1], software, layout, BF16)


def alone(decodes: int) -> Batch:
    return Batch(decodes, 100 * decodes, 0, 0, 0, 0.0, 0)


@pytest.mark.parametrize(
    ("model", "attn_dp"), [*((name, 1) for name in MODELS), ("deepseek-r1", 4)]
)
def test_a_batch_costs_the_products_of_the_next_captured_one(model: str, attn_dp: int) -> None:
    plain, graphs = price_of(model, (), attn_dp), price_of(model, SIZES, attn_dp)
    width = plain.decode_tokens
    for decodes in range(1, MOST + 1):
        batch = filled(SIZES, decodes, MOST)
        assert batch == min((size for size in SIZES if size >= decodes), default=decodes)
        more = sum(
            family.tokens_s[batch * width] - family.tokens_s[decodes * width]
            for family in plain.families
            if family.tokens_s is not None and family.name not in UNTOUCHED
        )
        step_s = [each.step_s(decodes, 100 * decodes, 0, 0, 0, 0.0) for each in (plain, graphs)]
        assert step_s[1] == pytest.approx(step_s[0] + more, rel=1e-12)
        assert step_s[1] >= step_s[0] * (1 - 1e-12)
        if batch == decodes:
            assert step_s[1] == step_s[0]
        together = decodes * width * attn_dp
        families = sum(family_s(family, alone(decodes), together) for family in graphs.families)
        assert families == pytest.approx(graphs.round_s([step_s[1]], together), rel=1e-12)
        mixed = [each.step_s(decodes - 1, 100, 0, 9, 1, 1e-4) for each in (plain, graphs)]
        assert mixed[0] == mixed[1]


def test_every_size_captured_is_no_filling() -> None:
    plain, graphs = price_of("deepseek-r1", ()), price_of("deepseek-r1", tuple(range(1, MOST + 1)))
    assert plain.decode_base_s == graphs.decode_base_s


def test_filled_batches_send_the_bytes_of_their_size() -> None:
    plain, graphs = price_of("llama3.1-8b", ()), price_of("llama3.1-8b", SIZES)
    sent = []
    for price in (plain, graphs):
        use = next(family.use for family in price.families if family.name == "all_reduce")
        assert use is not None
        sent.append([float(family_s(use, alone(decodes), 0)) for decodes in (9, 16, 17)])
    assert sent[1] == pytest.approx([sent[0][1], sent[0][1], sent[0][2]])
    assert sent[0][0] < sent[0][1]


@pytest.mark.parametrize("drafts", [0, 2])
def test_runs_add_up_and_both_paths_agree(drafts: int) -> None:
    sets = ("engine.cuda_graph_sizes=[4,32]", f"engine.draft_tokens={drafts}")
    changed = (
        "workload.model=glm-4.5-air",
        "workload.isl={fixed: 200}",
        "workload.osl={fixed: 40}",
    )
    arrivals = "workload.arrivals={kind: closed, concurrency: 24}"
    job = load_workload("llama70b", [*sets, *changed, arrivals, "workload.requests=80"])
    fast, reference = play(MACHINE, job), play(MACHINE, job, step_by_step=True)
    assert fast.run.outcomes.finish_s == reference.run.outcomes.finish_s
    ledgers = [close_ledger(each.price, each.run) for each in (fast, reference)]
    assert ledgers[0] == ledgers[1]
    software = dataclasses.replace(job.software, cuda_graph_sizes=())
    without = play(MACHINE, dataclasses.replace(job, software=software))
    assert fast.run.end_s > without.run.end_s


@pytest.mark.parametrize(
    ("software", "flag"),
    [
        ("vllm-0.19", "cudagraph_capture_sizes"),
        ("sglang-0.5.10", "cuda_graph_bs"),
        ("trtllm-1.0", "cuda_graph_batch_sizes"),
    ],
)
def test_sizes_under_the_names_of_the_frameworks(software: str, flag: str) -> None:
    named = f"workload.software={software}"
    job = load_workload("llama70b", [named, f"engine.{flag}=[1,8,64]"])
    assert job.software.cuda_graph_sizes == (1, 8, 64)
    default = load_spec("software", software, Software)[1].cuda_graph_sizes
    assert (default[-1] if default else None) == (None if software.startswith("trt") else 512)
    with pytest.raises(SpecError, match="cuda_graph_sizes must rise"):
        load_workload("llama70b", [named, f"engine.{flag}=[8,4]"])
    assert np.all(np.diff(default) > 0)


def test_mixed_steps_under_the_flag_of_sglang() -> None:
    named = "workload.software=sglang"
    mixed = load_workload("llama70b", [named, "engine.enable_mixed_chunk=true"]).software
    assert (mixed.scheduler, load_workload("llama70b", [named]).software.scheduler) == (
        "sglang_mixed",
        "sglang",
    )
