"""Laws of drafts by a model's own MTP layers: closed forms, limits, conservation, both paths."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.errors import SpecError
from cluster_sim.kernels import counts
from cluster_sim.kernels.attention import decode_attention
from cluster_sim.kernels.layout import Layout, Recipe, recipe
from cluster_sim.kernels.model_ops import draft_projections, weight_bytes_per_device
from cluster_sim.perf.drafts import with_mtp_layers
from cluster_sim.perf.families import operator_families
from cluster_sim.perf.family import Family
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.steady import steady_state
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.serving.pace import SHORT, Pace
from cluster_sim.serving.plan import resolve
from cluster_sim.serving.records import Status
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.serving.tape import RankSteps, moves_of, steps_of
from cluster_sim.simulation import Result, simulate
from cluster_sim.specs.find import names
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.load import load_spec, load_topology, load_workload
from cluster_sim.specs.model import Model
from cluster_sim.testing import check_scheduler, facts, random_case, random_drafts, synthetic_price

SLOW = pytest.mark.slow
DEFAULT_CASES, ALL_CASES = 40, 400
MACHINE = load_topology("h200_nvl8")
MODELS = {name: load_spec("model", name, Model)[1] for name in names("model")}
DRAFTING = {name: model for name, model in MODELS.items() if model.mtp_layers}
BF16 = Recipe("bf16", *["bf16"] * 4)


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=SLOW if seed >= DEFAULT_CASES else ()) for seed in range(ALL_CASES)],
)
def test_fast_path_equals_step_by_step(seed: int) -> None:
    service, requests = random_drafts(seed)
    reference = facts(serve(service, requests, step_by_step=True))
    fast = facts(serve(service, requests))
    for name, value in reference.items():
        assert fast[name] == value, name


@pytest.mark.parametrize("seed", range(12))
def test_both_paths_write_the_same_tape(seed: int) -> None:
    service, requests = random_drafts(seed)
    reference = serve(service, requests, step_by_step=True, record=True)
    fast = serve(service, requests, record=True)
    for one, other in zip(reference.tapes, fast.tapes, strict=True):
        for rank in range(service.spec.ranks):
            steps = [steps_of(tape, rank) for tape in (one, other)]
            for name in RankSteps.__slots__:
                np.testing.assert_array_equal(*(getattr(each, name) for each in steps))
        for values in zip(moves_of(one), moves_of(other), strict=True):
            np.testing.assert_array_equal(*values)


def test_the_cases_reach_what_drafts_touch() -> None:
    reached: Counter[str] = Counter()
    for seed in range(ALL_CASES // 2):
        service, requests = random_drafts(seed)
        run, spec = serve(service, requests), service.spec
        together = sum(sum(log.together) for log in run.logs)
        reached["several tokens a step"] += together > 0
        reached["no draft accepted"] += spec.pace is None
        for name, there in (
            ("preempted", sum(run.outcomes.preemptions) > 0),
            ("several ranks", spec.ranks > 1),
            ("shared operators", spec.price.shared_s is not None),
            ("local attention", spec.price.local is not None),
            ("prefix hits", run.hit_tokens > 0),
        ):
            reached[name] += there and together > 0
    assert min(reached.values()) >= 10, reached
    assert len(reached) == 7


@pytest.mark.parametrize("name", sorted(SCHEDULERS))
def test_the_schedulers_keep_the_contract(name: str) -> None:
    check_scheduler(SCHEDULERS[name], 8, cases_of=random_drafts)


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 100_000))
def test_every_answer_has_its_tokens_and_every_token_its_gap(seed: int) -> None:
    service, requests = random_drafts(seed)
    run = serve(service, requests)
    finished = np.array(run.outcomes.status) == Status.FINISHED
    tokens = int(requests.osl[finished].sum())
    assert tokens == sum(counts.output_tokens for counts in run.counts)
    assert tokens == sum(sum(log.emitted) for log in run.logs)
    gaps = sum(sum(log.chained) + len(log.lone_gaps) + sum(log.together) for log in run.logs)
    assert gaps == tokens - int(finished.sum())
    gap_s = sum(
        float(np.dot(np.diff(log.end_s, prepend=0.0), log.chained))
        + sum(gap for _, gap in log.lone_gaps)
        for log in run.logs
    )
    spans = np.array(run.outcomes.finish_s) - np.array(run.outcomes.first_s)
    assert gap_s == pytest.approx(float(spans[finished].sum()), rel=1e-9, abs=1e-9)
    for counts_ in run.counts:
        assert counts_.blocks_peak <= service.spec.blocks


@settings(max_examples=200, deadline=None)
@given(st.floats(1, 17), st.integers(0, 10**6), st.integers(1, 3 * SHORT))
def test_a_pace_keeps_its_mean_and_finds_its_steps(mean: float, done: int, steps: int) -> None:
    pace = Pace.of(mean)
    if pace is None:
        assert mean < 1 + 2**-24
        return
    each = [pace.gained(done + i) for i in range(steps)]
    assert pace.each(done, steps) == each
    assert set(each) <= {int(mean), int(mean) + 1, round(mean)}
    before = list(itertools.accumulate(each, initial=0))
    assert pace.before(done, steps).tolist() == before[:-1]
    assert pace.total_before(done, steps) == sum(before[:-1])
    assert pace.gained(done, steps) == before[-1]
    assert abs(before[-1] - steps * mean) < 1 + 1e-3
    for tokens in (1, before[-1], before[-1] + 1):
        needed = pace.steps_for(done, tokens)
        assert pace.gained(done, needed) >= tokens > pace.gained(done, needed - 1)


@pytest.mark.parametrize(("drafts", "acceptance"), [(1, 0.0), (1, 0.6), (3, 0.7), (4, 1.0)])
def test_tokens_of_a_step(drafts: int, acceptance: float) -> None:
    software = dataclasses.replace(
        load_workload("llama70b").software, draft_tokens=drafts, draft_acceptance=acceptance
    )
    a, k = acceptance, drafts
    closed = k + 1 if a == 1 else (1 - a ** (k + 1)) / (1 - a)
    assert software.tokens_per_step == pytest.approx(closed, rel=1e-12)


def lone(pace: float, drafts: int, osl: int) -> Run:
    """One request alone."""
    service, requests = random_case(0)
    price = dataclasses.replace(synthetic_price(0.01, 0.0), decode_tokens=1 + drafts)
    spec = dataclasses.replace(
        service.spec,
        price=price,
        pace=Pace.of(pace),
        blocks=1000,
        ranks=1,
        prefixes=None,
        max_num_seqs=4,
        max_num_batched_tokens=512,
        scheduler=SCHEDULERS["vllm_v1"],
    )
    alone = Service(spec=spec, replicas=1, router="round_robin", max_context=10**6)
    one = dataclasses.replace(
        requests.first(1),
        isl=np.array([5]),
        osl=np.array([osl]),
        arrival_s=np.zeros(1),
        after=None,
        prefixes=None,
        priority=None,
        think_s=None,
    )
    return serve(alone, one)


@pytest.mark.parametrize(("pace", "drafts"), [(1.0, 1), (1.5, 1), (1.6, 2), (3.0, 2), (3.3, 7)])
def test_steps_of_one_answer(pace: float, drafts: int) -> None:
    """n tokens after the first one take the steps in which floor(d e) reaches n."""
    run = lone(pace, drafts, 100)
    steps = next(d for d in itertools.count(1) if int(d * pace + 1e-9) >= 99)
    assert sum(run.counts[0].pure.values()) == steps
    assert run.counts[0].output_tokens == 100
    assert len(run.logs[0].end_s) == steps + 1


def drafting(k: int, acceptance: float = 0.7) -> WorkloadInput:
    wanted = [f"engine.draft_tokens={k}"]
    wanted += [f"engine.draft_acceptance={acceptance}"] if k else []
    plan = ["plan.tp=8", "plan.ep=8", "plan.attn_dp=1", "plan.replicas=1"]
    replacements: dict[str, Any] = {
        "arrivals": {"kind": "closed", "concurrency": 16},
        "requests": 320,
        "isl": {"fixed": 60},
        "osl": {"quantiles": {"0": 300, "1": 500}},
    }
    return load_workload("deepseek_r1_8chips", [*wanted, *plan], replacements)


@cache
def ran(k: int, acceptance: float = 0.7) -> Result:
    return simulate(MACHINE, drafting(k, acceptance))


def test_an_acceptance_without_drafts_is_refused() -> None:
    with pytest.raises(SpecError, match=r"draft_acceptance: has no effect"):
        load_workload("deepseek_r1_8chips", ["engine.draft_acceptance=0.1"])


def test_a_run_says_what_it_assumes_of_drafts() -> None:
    assert any("1.6 tokens a sequence" in note for note in ran(1, 0.6).manifest["notes"])
    assert not any("draft" in note for note in ran(0).manifest["notes"])


def test_more_acceptance_is_faster_and_none_slower_than_no_drafts() -> None:
    runs = [ran(1, a) for a in (0.0, 0.3, 0.6, 0.9, 1.0)]
    tpot = [run.summary["tpot_mean_ms"] for run in runs]
    rate = [run.summary["output_tokens_per_s"] for run in runs]
    assert tpot == sorted(tpot, reverse=True)
    assert rate == sorted(rate)
    plain = ran(0)
    assert runs[0].summary["tpot_mean_ms"] > plain.summary["tpot_mean_ms"]
    assert runs[0].manifest["engine_steps"] == plain.manifest["engine_steps"]
    assert 0.5 < runs[-1].manifest["engine_steps"] / plain.manifest["engine_steps"] < 0.6


def test_the_closed_form_agrees_with_the_run() -> None:
    for k, acceptance in ((0, 0.7), (1, 0.6), (3, 0.7)):
        job = drafting(k, acceptance).on(MACHINE.chip)
        result = ran(k, acceptance)
        choice = resolve(MACHINE, job)
        parts = (job.model, job.software, choice.layout, choice.recipe)
        price = compile_step_price(MACHINE, *parts)
        steady = steady_state(price, job, 1)
        simulated = result.summary["tpot_mean_ms"]
        assert steady.tpot_s(16) * 1e3 == pytest.approx(simulated, rel=0.06), (k, simulated)


def named(model: Model, drafts: int, layout: Layout) -> dict[str, Family]:
    job = load_workload("llama70b", ["engine.max_num_seqs=64", "engine.max_num_batched_tokens=512"])
    software = dataclasses.replace(job.software, draft_tokens=drafts)
    wanted = recipe(MACHINE.chip, model, "bf16", "bf16")
    families = operator_families(MACHINE, model, software, layout, wanted)
    return {family.name: family for family in families}


@pytest.mark.parametrize("name", ["deepseek-v3", "qwen3.5-397b-a17b", "glm-4.5-air"])
@pytest.mark.parametrize("layout", [Layout(8), Layout(1, ep=8, attn_dp=8)], ids=str)
def test_one_draft_is_one_more_layer_over_all_tokens(name: str, layout: Layout) -> None:
    deep = with_mtp_layers(DRAFTING[name], 1)
    plain, drafted = named(deep, 0, layout), named(deep, 1, layout)
    assert plain.keys() == drafted.keys()
    for kind in ("glue", "all_reduce", "expert_math", "expert_weights"):
        for table in ("tokens_s", "shared_s"):
            one, other = getattr(plain[kind], table), getattr(drafted[kind], table)
            assert (one is None) == (other is None)
            if one is not None and not kind.startswith("expert"):
                np.testing.assert_array_equal(one, other[: len(one)])
            elif one is not None:  # sampled at other counts of tokens
                np.testing.assert_allclose(one[1:], other[1 : len(one)], rtol=0.05)
    for kind in ("gemm_math", "gemm_weights"):
        assert (drafted[kind].tokens_s[1:257] >= plain[kind].tokens_s[1:257]).all()
    assert all(family.decode_tokens == 2 for family in drafted.values())


def test_further_drafts_run_the_layer_again() -> None:
    model = DRAFTING["deepseek-v3"]
    deep, parts = (
        with_mtp_layers(model, 3),
        (Layout(8), recipe(MACHINE.chip, model, "bf16", "bf16")),
    )
    drafted = named(deep, 3, Layout(8))["attention_decode"]
    wide, narrow = (decode_attention(MACHINE, deep.kinds[0], *parts, queries=q) for q in (4, 1))
    expected = deep.layers * wide.token_s + 2 * narrow.token_s
    assert deep.layers == model.layers + 1
    assert drafted.context_s == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", DRAFTING)
def test_the_layers_that_draft_weigh_what_the_model_says(name: str) -> None:
    model = DRAFTING[name]
    deep = with_mtp_layers(model, 9)
    more = weight_bytes_per_device(deep, Layout(), BF16)
    more -= weight_bytes_per_device(model, Layout(), BF16)
    projection = draft_projections(model, 9)
    more += 2 * projection.layers * projection.n * projection.k
    assert more == pytest.approx(2 * counts.mtp_parameters(model), rel=2e-3)
    assert with_mtp_layers(model, 0) is model


def test_drafts_take_memory_from_the_cache() -> None:
    for name in ("deepseek-v3", "qwen3.5-397b-a17b"):
        job = load_workload("llama70b", ["workload.precision=fp8"])
        layout, model = Layout(8, ep=8), DRAFTING[name]
        dtypes = recipe(MACHINE.chip, model, "fp8", "fp8")
        caches = [
            kv_cache(
                MACHINE.chip,
                model,
                dataclasses.replace(job.software, draft_tokens=drafts),
                layout,
                dtypes,
            )
            for drafts in (0, 1, 2)
        ]
        plain, one, two = caches
        assert plain.blocks > one.blocks == two.blocks
        assert plain.weights_bytes < one.weights_bytes == two.weights_bytes
        assert plain.bytes_per_token < one.bytes_per_token == two.bytes_per_token
        if model.linear is not None:
            assert plain.state_blocks < one.state_blocks < two.state_blocks


def test_the_flags_of_the_frameworks() -> None:
    for framework, flag in (
        ("trtllm", "--num_nextn_predict_layers 2"),
        ("sglang", "--speculative-num-steps 2"),
    ):
        changes = [f"workload.software={framework}", f"workload.engine_args={flag}"]
        job = load_workload("deepseek_r1_8chips", changes)
        assert job.software.draft_tokens == 2
