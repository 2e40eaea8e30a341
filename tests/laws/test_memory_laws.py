"""Laws of what fits: of the rules of the engines, of what starts, and of the ways out."""

from __future__ import annotations

import contextlib
import csv
import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError, DoesNotFitError, SpecError
from cluster_sim.kernels.layout import Layout, Recipe, check_layout, recipe
from cluster_sim.perf.memory import DeviceMemory, device_memory
from cluster_sim.perf.startup import why_not
from cluster_sim.perf.ways_to_start import Setup, smallest_change
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.engine_settings import apply_settings
from cluster_sim.specs.load import load_spec, read
from cluster_sim.specs.load_fit import load_fit
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.studies.validate_cases import Case, read_cases
from cluster_sim.studies.validate_jobs import SkippedError
from cluster_sim.studies.validate_memory import predicted
from cluster_sim.studies.validate_scores import half_of

ONE = Layout()
ENGINES = ("vllm-0.19", "vllm-0.10", "sglang-0.5.10", "trtllm-1.0")


def chip_of(name: str) -> Chip:
    return load_spec("chip", name, Chip)[1]


def model_of(name: str) -> Model:
    return load_spec("model", name, Model)[1]


def engine(name: str, chip: Chip, **flags: object) -> Software:
    base, data = load_spec("software", name, Software)[1], read("software", name)[1]
    return apply_settings(base, data, flags).on_device(chip.device_memory, chip.name)


def of(
    name: str, chip: Chip, model: Model, software: Software, layout: Layout = ONE
) -> tuple[Recipe, DeviceMemory]:
    dtypes = recipe(chip, model, name, software.cache_dtype(model, name))
    return dtypes, device_memory(chip, model, software, layout, dtypes)


@pytest.mark.parametrize("name", ENGINES)
@given(fractions=st.tuples(st.floats(0.3, 1), st.floats(0.3, 1)))
@settings(max_examples=15, deadline=None)
def test_a_larger_share_of_the_memory_holds_no_less(
    name: str, fractions: tuple[float, float]
) -> None:
    chip, model = chip_of("h100_sxm"), model_of("llama3.1-8b")
    less, more = (engine(name, chip, memory_fraction=share) for share in sorted(fractions))
    assert of("bf16", chip, model, less)[1].room <= of("bf16", chip, model, more)[1].room


@pytest.mark.parametrize("name", ENGINES)
def test_larger_batches_take_no_less(name: str) -> None:
    chip, model = chip_of("h100_sxm"), model_of("qwen3-30b-a3b")
    taken = []
    for size in (64, 256, 1024):
        software = engine(name, chip, max_num_seqs=size, max_num_batched_tokens=8 * size)
        memory = of("bf16", chip, model, software)[1]
        taken.append(memory.counted + memory.outside)
    assert taken == sorted(taken)
    assert taken[0] < taken[-1]


@pytest.mark.parametrize("name", ENGINES)
@pytest.mark.parametrize("tp", [1, 2, 4, 8])
def test_bytes_add_up(name: str, tp: int) -> None:
    chip, model = chip_of("h200_sxm"), model_of("llama3.1-70b")
    memory = of("fp8", chip, model, engine(name, chip), Layout(tp))[1]
    assert memory.weights + memory.counted + memory.room == pytest.approx(memory.usable)
    assert 0 <= memory.usable <= memory.capacity <= chip.device_memory
    assert memory.blocks * memory.block_bytes <= max(memory.room, 0)


def test_vllm_starts_with_what_it_says_is_the_longest_and_not_with_more() -> None:
    chip, model = chip_of("rtx4090"), model_of("llama3.1-8b")
    software = engine("vllm-0.19", chip)
    dtypes, memory = of("bf16", chip, model, software)
    reason = why_not(chip, model, software, Layout(), dtypes, memory)
    longest = int(re.findall(r"has ([\d,]+) tokens", reason)[0].replace(",", ""))
    for length, starts in ((longest, True), (longest + 1, False)):
        limited = replace(software, max_model_len=length)
        assert (not why_not(chip, model, limited, Layout(), dtypes, memory)) == starts
    for name in ("sglang-0.5.10", "trtllm-1.0"):
        other = engine(name, chip)
        dtypes, memory = of("bf16", chip, model, other)
        assert not why_not(chip, model, other, Layout(), dtypes, memory)


def test_no_engine_takes_more_than_the_model_was_made_for() -> None:
    chip, model = chip_of("h200_sxm"), model_of("llama3.1-8b")
    for name, flag in (("vllm-0.19", "max_model_len"), ("sglang", "context_length")):
        software = engine(name, chip, **{flag: 131_073})
        dtypes, memory = of("bf16", chip, model, software)
        reason = why_not(chip, model, software, Layout(), dtypes, memory)
        assert f"{flag} 131,073 is greater than the 131,072 tokens" in reason


@pytest.mark.parametrize(
    ("model", "precision", "tp", "starts"),
    [
        ("qwen3-30b-a3b", "fp8_block", 2, True),  # 768 / 2 = 3 x 128
        ("qwen3-30b-a3b", "fp8_block", 4, False),
        ("qwen3-30b-a3b", "bf16", 4, True),
        ("qwen2.5-72b", "w4a16", 8, False),  # 29,568 / 8 = 28.9 x 128
        ("gpt-oss-120b", "mxfp4", 2, True),  # padded
    ],
)
def test_a_shard_does_not_cut_what_shares_a_scale(
    model: str, precision: str, tp: int, starts: bool
) -> None:
    chip, one = chip_of("h200_sxm"), model_of(model)
    software = engine("vllm-0.19", chip)
    dtypes, memory = of(precision, chip, one, software, Layout(tp))
    reason = why_not(chip, one, software, Layout(tp), dtypes, memory)
    assert (reason == "") == starts, reason


@pytest.mark.parametrize(
    ("group", "zero", "starts"), [(128, True, False), (128, False, False), (32, False, True)]
)
def test_groups_of_a_checkpoint_are_its_own(group: int, zero: bool, starts: bool) -> None:
    """11,008 / 8 = 10.75 x 128 = 43 x 32."""
    chip, width = chip_of("h200_sxm"), 0.5 + (2 + zero / 2) / group
    one = replace(
        model_of("codellama-7b"), native_dtype="w4a16", bytes_per_element={"w4a16": width}
    )
    software = engine("vllm-0.19", chip)
    dtypes, memory = of("w4a16", chip, one, software, Layout(8))
    assert (why_not(chip, one, software, Layout(8), dtypes, memory) == "") == starts


@pytest.mark.parametrize(("tp", "starts"), [(8, True), (16, False)])
def test_groups_of_experts_are_halved_down_to_32(tp: int, starts: bool) -> None:
    """768 / 8 = 3 x 32, 768 / 16 = 1.5 x 32."""
    chip, one = chip_of("h200_sxm"), model_of("qwen3-30b-a3b")
    software = engine("vllm-0.19", chip)
    dtypes, memory = of("w4a16", chip, one, software, Layout(tp))
    assert (why_not(chip, one, software, Layout(tp), dtypes, memory) == "") == starts


@pytest.mark.parametrize(
    ("name", "card", "precision", "starts"),
    [
        ("trtllm-1.0", "h100_sxm", "fp4", False),
        ("trtllm-1.0", "b200", "fp4", True),
        ("trtllm-1.0", "a100_80g_sxm", "fp8", False),
        ("trtllm-1.0", "a100_80g_sxm", "w4a16", True),
        ("vllm-0.19", "a100_80g_sxm", "fp8", True),  # as weights alone
    ],
)
def test_dtypes_that_an_engine_has_no_kernels_for(
    name: str, card: str, precision: str, starts: bool
) -> None:
    chip, one = chip_of(card), model_of("llama3.1-8b")
    software = engine(name, chip)
    dtypes, memory = of(precision, chip, one, software)
    reason = why_not(chip, one, software, ONE, dtypes, memory)
    assert (reason == "") == starts
    assert starts or f"no kernels for {precision} weights" in reason


WAYS = [
    ("trtllm-1.0", "h100_sxm", "llama3.1-70b", "fp8", 3),
    ("vllm-0.19", "h100_sxm", "codellama-34b", "w4a16", 8),
    ("vllm-0.19", "rtx4090", "llama3.1-8b", "bf16", 1),
    ("vllm-0.10", "h100_sxm", "gpt-oss-120b", "mxfp4", 1),
    ("sglang-0.5.10", "h100_sxm", "llama3.1-70b", "bf16", 2),
    ("trtllm-1.0", "h100_sxm", "llama3.1-70b", "bf16", 1),
]


@pytest.mark.parametrize(("name", "chip", "model", "precision", "tp"), WAYS)
def test_the_way_out_is_one(name: str, chip: str, model: str, precision: str, tp: int) -> None:
    """Whoever does what the change says has an engine that starts."""
    card, one = chip_of(chip), model_of(model)
    software, layout = engine(name, card), Layout(tp)
    dtypes, memory = of(precision, card, one, software, layout)
    with contextlib.suppress(DoesNotFitError):
        check_layout(one, layout)
        if not why_not(card, one, software, layout, dtypes, memory):
            pytest.skip("starts as it is")
    setup = Setup(software=software, layout=layout, recipe=dtypes)
    found = smallest_change(card, one, setup, devices=8, precisions=("fp8",))
    assert found is not None
    flags, degrees = {}, {"tp": tp}
    for key, value in found.changes:
        if key in ("tp", "ep", "attn_dp"):
            degrees[key] = int(value)
        elif key == "precision":
            precision = value
        else:
            flags[key] = value if key == "kv_cache_dtype" else json.loads(value)
    changed, layout = engine(name, card, **flags), Layout(**degrees)
    dtypes, memory = of(precision, card, one, changed, layout)
    assert not why_not(card, one, changed, layout, dtypes, memory)


def test_run_says_what_starts(tmp_path: Path) -> None:
    command = "run --topo 1xrtx4090 --workload llama8b --software vllm --precision bf16 --rate 1"
    done = CliRunner().invoke(cli, command.split())
    assert isinstance(done.exception, ClusterSimError)
    text = str(done.exception)
    assert "vLLM 0.19 does not start: to serve one request of max_model_len 131,072" in text
    found = re.search(r"--set engine.max_model_len=(\d+)", text)
    assert found, text
    again = [*command.split(), "--requests", "20", "--set", f"engine.max_model_len={found[1]}"]
    assert CliRunner().invoke(cli, [*again, "--out", str(tmp_path)]).exit_code == 0


def test_fit_prints_what_csv_and_json_hold() -> None:
    options = "fit --model llama3.1-70b --chip h100_sxm --chips 2 --software vllm --tp 2"
    text, same = (
        CliRunner().invoke(cli, [*options.split(), "--format", form]).output
        for form in ("csv", "json")
    )
    rows, same = list(csv.DictReader(text.splitlines())), json.loads(same)
    assert [row["precision"] for row in rows] == ["bf16", "fp8", "w4a16"]
    page = CliRunner().invoke(cli, options.split()).output
    for row, other in zip(rows, same, strict=True):
        assert float(row["cache_gib"]) == other["cache_gib"]
        assert f"{float(row['weights_gib']):.2f}" in page
        assert f"{int(row['kv_tokens']):,}" in page
        assert (row["starts"] == "true") == other["starts"]


def test_start_up_logs_that_nothing_was_fitted_to() -> None:
    """Medians of the unfitted third: 2 % of the weights, 15 % of the cache."""
    cases = read_cases([ROOT / "cases" / "memory.csv"])
    cases = [case for case in cases if half_of(case) == "score"]
    for metric, most in (("weights_gib_per_gpu", 0.02), ("kv_gib_per_gpu", 0.15)):
        errors = sorted(abs(value / case.value - 1) for case, value in played(cases, metric))
        assert len(errors) >= 9
        assert errors[len(errors) // 2] < most


def played(cases: list[Case], metric: str) -> list[tuple[Case, float]]:
    found = []
    for case in cases:
        if case.metric == metric and case.unknown is None:
            with contextlib.suppress(SkippedError):
                found.append((case, predicted(case)))
    return found


def test_the_reports_of_others(shared: Path) -> None:
    cases = read_cases([shared / "public_cases" / "memory_cases.csv"])
    weights = [(case, value) for case, value in played(cases, "weights_gib_per_gpu")]
    assert weights
    assert all(abs(value / case.value - 1) < 0.025 for case, value in weights)


def test_another_capacity_is_another_memory() -> None:
    """What a process sees goes with the capacity, and is no more than that."""
    plain, large = (
        load_fit("llama3.1-8b", "h100_sxm", ["vllm"], changes).chip
        for changes in ([], ["chip.memory.capacity=160 GiB"])
    )
    assert large.visible_memory > 1.9 * plain.visible_memory
    assert large.visible_memory < large.device_memory == 160 * 2**30
    with pytest.raises(SpecError, match="visible is a part of capacity"):
        load_fit("llama3.1-8b", "h100_sxm", ["vllm"], ["chip.memory.visible=100 GiB"])
    with pytest.raises(SpecError, match="no figure follows"):
        load_fit("llama3.1-8b", "h100_sxm", ["vllm"], ["chip.year=2030"])


def test_stages_of_a_pipeline_give_one_sequence_their_whole_cache() -> None:
    """Two stages of equal halves: the longest sequence is that of twice the room a layer."""
    chip, model = chip_of("rtx4090"), model_of("llama3.1-8b")
    software = engine("vllm-0.19", chip)
    alone, halves = (of("bf16", chip, model, software, Layout(pp=pp))[1] for pp in (1, 2))
    assert halves.room > alone.room
    assert halves.longest == halves.tokens * 2
    per_token = halves.bytes_per_token / 2  # of one stage: half of the layers
    assert halves.longest == pytest.approx(halves.room / per_token, rel=1e-3)
