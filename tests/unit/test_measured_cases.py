"""Scores, halves, samples and jobs of measured cases."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from cluster_sim.specs.load import load_workload
from cluster_sim.studies.validate import NOT_SAMPLED, play, prepare
from cluster_sim.studies.validate_cases import LEFT_OUT, Case
from cluster_sim.studies.validate_jobs import (
    EXACT,
    NEWEST,
    OLDER,
    OLDEST,
    SkippedError,
    job_of,
    profile_of,
)
from cluster_sim.studies.validate_recipes import captured
from cluster_sim.studies.validate_scores import (
    HALF_KEY,
    Replayed,
    half_of,
    score,
    scorecard,
    spearman,
)
from cluster_sim.studies.validate_serving import predicted, replay

CLOSED = {
    "mode": "closed_loop",
    "chip": "h200_sxm",
    "n_chips": "2",
    "framework": "vllm",
    "model": "llama3.1-8b",
    "weights_dtype": "fp8",
    "tp": "2",
    "isl": "256",
    "osl": "64",
    "isl_dist": "uniform_0.8_1.0",
    "concurrency": "4",
    "metric": "tpot_ms_p50",
}


def case(value: float = 1.0, flags: tuple[str, ...] = (), **cells: str) -> Case:
    row = {"case_id": f"c{value}", **CLOSED, **cells}
    return Case(kind="serving", file="f.csv", line=2, value=value, flags=flags, row=row)


def test_score_of_hand_made_errors() -> None:
    pairs = [(1.0, 1.0), (2.2, 2.0), (2.4, 3.0), (6.0, 4.0)]
    cases = [Replayed(case=case(measured), predicted=p) for p, measured in pairs]
    found = score([*cases, Replayed(case=case(), reason="why not")])
    assert (found.n, found.skipped) == (4, 1)
    assert found.median_ape == pytest.approx(0.15)
    assert found.mean_ape == pytest.approx(0.2)
    assert found.p90_ape == pytest.approx(np.percentile([0, 0.1, 0.2, 0.5], 90))
    assert found.median_error == pytest.approx(0.05)
    assert found.spearman == pytest.approx(1.0)


def test_rank_correlation() -> None:
    up, ties = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 2.0, 3.0])
    assert spearman(up, up**3) == pytest.approx(1.0)
    assert spearman(up, -up) == pytest.approx(-1.0)
    assert spearman(up, ties) == pytest.approx(np.corrcoef(up, [1, 2.5, 2.5, 4])[0, 1])
    assert spearman(up, np.ones(4)) is None


def test_repeats_of_a_configuration_share_a_half() -> None:
    cases = [case(isl=str(isl), tp=str(tp)) for isl in range(100, 300) for tp in (1, 2, 4, 8)]
    halves = [half_of(one) for one in cases]
    assert 0.4 < halves.count("fit") / len(halves) < 0.6
    other = case(3.0, concurrency="64", metric="ttft_ms_p50", framework_version="0.1")
    assert half_of(other) == half_of(case())
    assert {half_of(case(**{column: "x"})) for column in HALF_KEY} == {"fit", "score"}


@pytest.mark.parametrize(
    ("framework", "version", "profile", "how"),
    [
        ("vllm", "0.19.0", "vllm-0.19", EXACT),
        ("vllm", "0.10.0", "vllm-0.10", EXACT),
        ("vllm", "0.17", "vllm-0.17", EXACT),
        ("vllm", "0.17.1", "vllm-0.17", OLDER),
        ("vllm", "0.14.1 (llm-d 0.5.0)", "vllm-0.10", OLDER),
        ("vllm", "0.9.2", "vllm-0.8", OLDER),
        ("vllm", "0.2.5", "vllm-0.6", OLDEST),
        ("vllm", "1.0", "vllm-0.19", OLDER),
        ("vllm", "nightly-5b8c30d62b754b57", "vllm-0.19", NEWEST),
        ("vllm_ascend", "", "vllm-ascend-0.18", NEWEST),
        ("sglang", "0.5.6.post2", "sglang-0.5", OLDER),
        ("sglang", "0.5.10.post1", "sglang-0.5.10", EXACT),
        ("trtllm", "1.0.0rc3", "trtllm-1.0", EXACT),
        ("trtllm", "tensorrt-10.11", "trtllm-1.0", NEWEST),
    ],
)
def test_profiles_follow_the_version(framework: str, version: str, profile: str, how: str) -> None:
    assert profile_of(framework, version) == (profile, how)
    one = case(framework=framework, framework_version=version)
    assert job_of(one).software == profile
    assert list(scorecard([Replayed(case=one, predicted=1.0)]).breakdown["profile"]) == [how]


REASONS: list[tuple[dict[str, str], str]] = [
    ({"mode": "disagg_closed_loop"}, "pools are not simulated"),
    ({"mode": "decode_only"}, "a stage alone is not simulated"),
    ({"framework": ""}, "framework not stated"),
    ({"framework": "tgi"}, "no software profile"),
    ({"weights_dtype": ""}, "precision not stated"),
    ({"isl": ""}, "lengths not stated"),
    ({"tp": ""}, "parallelism not stated"),
    ({"concurrency": ""}, "load not stated"),
    ({"mode": "static_batch"}, "load not stated"),
    ({"mode": "open_loop"}, "load not stated"),
    ({"mode": "open_loop", "tp": "", "metric": "requests_per_s"}, "load not stated"),
    ({"n_chips": ""}, "number of chips not stated"),
]


@pytest.mark.parametrize(("cells", "reason"), REASONS)
def test_why_a_case_is_not_replayed(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(SkippedError) as stopped:
        job_of(case(**cells))
    assert stopped.value.reason == reason


RUN_REASONS: list[tuple[dict[str, str], str]] = [
    ({"n_chips": "4"}, "parallelism and chips disagree"),
    ({"model": "llama3.1-405b", "weights_dtype": "bf16"}, "does not fit"),
    ({"weights_dtype": "fp4"}, "inputs refused"),
]


@pytest.mark.parametrize(("cells", "reason"), RUN_REASONS)
def test_why_a_run_gives_nothing(cells: dict[str, str], reason: str) -> None:
    with pytest.raises(SkippedError) as stopped:
        replay(job_of(case(**cells)))
    assert stopped.value.reason == reason
    assert stopped.value.detail


def test_limits_are_read_from_columns_and_from_notes() -> None:
    cells = {"mode": "open_loop", "tp": "", "metric": "output_tokens_per_s"}
    note = "server; p99 limits TTFT / TPOT 0.45 s / 40 ms"
    by_note = job_of(case(**cells, note=note))
    by_column = job_of(case(**cells, ttft_limit_ms="450", tpot_limit_ms="40"))
    assert by_note == by_column
    assert (by_note.ttft_limit_ms, by_note.tpot_limit_ms, by_note.best_plan) == (450, 40, True)


def test_rows_that_do_not_name_their_statistic_are_means() -> None:
    metrics = {"tpot_ms_mean": 1.0, "tpot_ms_p50": 2.0}
    assert predicted(case(flags=("stat_unknown",)), metrics) == 1.0
    assert predicted(case(), metrics) == 2.0
    with pytest.raises(SkippedError):
        predicted(case(metric="e2e_ms_p99"), metrics)


def test_derived_throughput_follows_its_formula() -> None:
    one = case(flags=("derived",), metric="output_tokens_per_s_per_chip")
    metrics = {"ttft_ms_mean": 100.0, "tpot_ms_mean": 10.0, "output_tokens_per_s_per_chip": 7.0}
    tokens = 0.9 * 64
    assert predicted(one, metrics) == pytest.approx(4 * tokens / (0.1 + (tokens - 1) * 0.01) / 2)


def test_throughput_and_latencies_of_a_closed_loop_agree() -> None:
    """Little's law: clients = requests/s x mean time of a request, but for the end of the run. Of
    the time until the first token the part for which it was held back is not in E2E.
    """
    found = replay(job_of(case(isl_dist="fixed", concurrency="8")))
    assert found["requests_per_s"] * found["e2e_ms_mean"] / 1e3 == pytest.approx(8, rel=0.1)
    assert found["output_tokens_per_s"] == pytest.approx(64 * found["requests_per_s"])
    assert found["output_tokens_per_s_per_chip"] == found["output_tokens_per_s"] / 2
    held = found["ttft_ms_mean"] + 63 * found["tpot_ms_mean"] - found["e2e_ms_mean"]
    steps = load_workload("llama8b", ["workload.software=vllm"]).software.client.loaded_steps
    assert 0.5 * steps < held / found["tpot_ms_mean"] <= steps


def test_replicas_of_a_best_plan_add_up() -> None:
    """Twice the chips for a model that fits one: twice the throughput, same latencies."""
    cells = {"mode": "offline", "tp": "", "isl_dist": "fixed", "osl": "16"}
    one, two = (replay(job_of(case(n_chips=chips, **cells))) for chips in ("1", "2"))
    assert two["output_tokens_per_s"] == pytest.approx(2 * one["output_tokens_per_s"], rel=1e-9)
    assert two["ttft_ms_p99"] == one["ttft_ms_p99"]


def test_equal_runs_are_simulated_once_and_every_case_comes_once() -> None:
    cases = [case(1.0), case(2.0, metric="ttft_ms_mean"), case(3.0, flags=("suspect",))]
    cases.append(case(4.0, mode="decode_only"))
    prepared = prepare(cases)
    assert len(prepared.tasks) == 1
    found = [*prepared.refused, *(one for group in play(prepared) for one in group)]
    assert sorted(one.case.value for one in found) == [1, 2, 3, 4]
    card = scorecard(found)
    assert card.skipped == {"a stage alone is not simulated": 1, "flag suspect": 1}
    assert sum(found.n + found.skipped for found in card.metrics.values()) == 4


@pytest.mark.parametrize("flag", LEFT_OUT)
def test_flags_are_left_out_unless_included(flag: str) -> None:
    assert not prepare([case(flags=(flag,))]).tasks
    assert prepare([case(flags=(flag,))], include=[flag]).tasks


def test_a_sample_is_spread_over_chips_and_models_and_stays_the_same() -> None:
    chips, models = ("h100_sxm", "h200_sxm"), ("llama3.1-8b", "qwen3-32b")
    cases = [
        case(chip=chip, model=model, run_id=f"{chip}{model}{n}", concurrency=str(n + 1))
        for chip in chips
        for model in models
        for n in range(20 if chip == "h100_sxm" else 3)
    ]
    first, again = prepare(cases, limit=8), prepare(cases, limit=8)
    strata = [(job.chip, job.model) for job in first.tasks]  # type: ignore[union-attr]
    assert {pair: strata.count(pair) for pair in strata} == {
        (chip, model): 2 for chip in chips for model in models
    }
    assert list(first.tasks) == list(again.tasks)
    assert {one.reason for one in first.refused} == {NOT_SAMPLED}
    assert len(first.refused) + len(first.tasks) == len(cases)


def test_a_recipe_delays_the_first_token_of_a_busy_engine_and_nothing_else() -> None:
    cells: dict[str, Any] = {"framework": "trtllm", "model": "llama3.1-70b", "isl": "1024"}
    cells |= {"osl": "1024", "source": "a silicon_sample.csv"}
    for clients, least, most in (("1", 0, 0), ("8", 14, 20)):
        cells["concurrency"] = clients
        held, free = job_of(case(**cells)), job_of(case(**{**cells, "source": "elsewhere"}))
        assert (held.held_steps, free.held_steps) == (20, 0)
        with_wait, without = replay(held), replay(free)
        later = with_wait["ttft_ms_mean"] - without["ttft_ms_mean"]
        assert least <= later / without["tpot_ms_mean"] <= most
        for other in ("tpot_ms_mean", "e2e_ms_mean", "output_tokens_per_s"):
            assert with_wait[other] == pytest.approx(without[other], rel=1e-3)


SILICON = "ai-dynamo/aiconfigurator silicon_sample.csv"


@pytest.mark.parametrize(
    ("cells", "wanted"),
    [
        ({"model": "qwen3-32b"}, {"max_num_batched_tokens": 256 + 1500 + 4, "lengths": "fixed"}),
        (
            {"framework": "sglang", "framework_version": "0.5.6.post2"},
            {"max_num_batched_tokens": 1760, "scheduler": "sglang_mixed"},
        ),
        ({"framework": "sglang", "framework_version": "0.5.1.post1"}, {"scheduler": ""}),
        (
            {"framework": "sglang", "model": "qwen3.5-397b-a17b", "source_detail": "q.csv"},
            {"held_steps": 20, "kv_dtype": "fp8", "lengths": "uniform_0.8_1.0"},
        ),
        (
            {"framework": "sglang", "model": "deepseek-r1", "source_detail": "", "tp": "8"},
            {"kv_dtype": "fp8", "memory_fraction": 0.82, "max_num_batched_tokens": 32_768},
        ),
        (
            {"framework": "trtllm", "model": "deepseek-r1", "source_detail": "", "attn_dp": "8"},
            {"held_steps": 60, "kv_dtype": "fp8", "cuda_graph_sizes": (1, 2, 4)},
        ),
        (
            {"model": "minimax-m2.5", "source_detail": "", "chip": "b300"},
            {"kv_dtype": "fp8", "max_num_batched_tokens": 512},
        ),
        (
            {
                **{"model": "minimax-m2.5", "source_detail": "", "chip": "b200"},
                "framework_version": "0.17.0",
            },
            {"kv_dtype": "", "max_num_batched_tokens": None},
        ),
        (
            {"model": "llama3.1-70b", "source_detail": "", "weights_dtype": "fp4"},
            {"kv_dtype": "fp8"},
        ),
        ({"source": "elsewhere"}, {"max_num_batched_tokens": None, "lengths": "fixed"}),
    ],
)
def test_settings_of_published_scripts(cells: dict[str, Any], wanted: dict[str, Any]) -> None:
    unstated = {"source": SILICON, "source_detail": "aic-gap-analysis: a.csv", "isl_dist": ""}
    job = job_of(case(**{**unstated, **cells}))
    assert {name: getattr(job, name) for name in wanted} == wanted


def test_batches_that_are_captured() -> None:
    assert captured(4) == (1, 2, 4)
    assert captured(20) == (1, 2, 4, 8, 16, 20)
    assert captured(512)[-4:] == (120, 128, 256, 512)


MTP = {"model": "glm-4.5-air", "osl": "200", "n_chips": "8", "tp": "8", "ep": "8"}


def test_runs_that_do_not_state_drafts_are_replayed_with_the_models_own_too() -> None:
    flagged = [
        case(1.0, flags=("mtp_unknown",), **MTP),
        case(2.0, flags=("mtp_unknown", "mtp_likely"), case_id="b", **MTP),
        case(3.0, flags=("mtp_unknown",), case_id="c"),  # a model without MTP layers
        case(4.0, case_id="d", **MTP),
        case(5.0, flags=("mtp_unknown",), case_id="e", mtp_draft_tokens="0", **MTP),
        case(6.0, flags=("mtp_unknown",), case_id="f", mtp_draft_tokens="1", **MTP),
    ]
    found = {one.case.case_id: one for group in play(prepare(flagged)) for one in group}
    unknown, likely, dense, complete, none, stated = (found[one.case_id] for one in flagged)
    assert [one.drafted for one in (dense, complete, none, stated)] == [None] * 4
    assert unknown.drafted is not None
    assert likely.drafted is not None
    assert unknown.predicted == complete.predicted == none.predicted
    assert unknown.drafted.predicted == likely.drafted.predicted == stated.predicted
    assert stated.predicted is not None
    assert complete.predicted is not None
    assert 0.55 < stated.predicted / complete.predicted < 0.9
    card = scorecard(list(found.values()))
    slices = {value: metrics["tpot_ms_p50"].n for value, metrics in card.breakdown["mtp"].items()}
    each = ("likely, with drafts", "likely, without", "none stated, with drafts")
    each = (*each, "none stated, without", "stated")
    assert slices == {f"{before}{one}": 1 for one in each for before in ("", "glm-4.5-air, ")}
    assert card.metrics["tpot_ms_p50"].n == 6
    with_drafts = card.breakdown["mtp"]["none stated, with drafts"]["tpot_ms_p50"]
    assert with_drafts.median_error == unknown.drafted.predicted - 1  # type: ignore[operator]
