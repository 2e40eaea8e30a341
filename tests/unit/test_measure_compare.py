"""Predicted beside measured steps: laws of the prediction, and files that are wrong."""

from __future__ import annotations

from dataclasses import replace

import pytest

from cluster_sim.errors import SpecError
from cluster_sim.output.measured import compared_text
from cluster_sim.specs.load import load_topology
from cluster_sim.studies.measure_cases import STEP_COLUMNS, Figure, StepCase, step_row
from cluster_sim.studies.measure_compare import compare_steps, parse_steps

CASE = StepCase(model="llama3.1-8b", layers=32, dtype="bf16", phase="decode", batch=8, seq_len=4096)


def text_of(*cases: StepCase, chip: str = "h100_sxm", kernels: int = 11, **cells: str) -> str:
    figure = Figure(seconds=10e-3, flags=("plain_torch",), note="")
    rows = [step_row(chip, case, kernels, figure, "me", "2025-01-31") for case in cases]
    lines = [",".join(STEP_COLUMNS)]
    lines += [",".join(str({**row, **cells}[name]) for name in STEP_COLUMNS) for row in rows]
    return "\n".join(lines)


def predicted(case: StepCase, **words: object) -> float:
    steps = parse_steps(text_of(case, **words), "mine.csv")  # type: ignore[arg-type]
    return compare_steps(steps)[0].predicted_s


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_errors_are_of_the_measured_time(phase: str) -> None:
    case = replace(CASE, phase=phase)
    seconds = predicted(case)
    steps = parse_steps(text_of(case, value=repr(seconds * 1e6)), "mine.csv")
    (row,) = compare_steps(steps)
    assert row.error == pytest.approx(0, abs=1e-9)
    steps = parse_steps(text_of(case, value=repr(seconds * 2e6)), "mine.csv")
    assert compare_steps(steps)[0].error == pytest.approx(-0.5)


def test_every_layer_costs_the_same() -> None:
    times = [predicted(replace(CASE, layers=layers)) for layers in (4, 8, 12)]
    assert times[2] - times[1] == pytest.approx(times[1] - times[0], rel=1e-9)
    assert times[0] < times[1]


def test_a_kernel_more_costs_its_floor_in_every_layer() -> None:
    floor = load_topology("1 x h100_sxm").fits.glue.floor
    more = predicted(CASE, kernels=12) - predicted(CASE, kernels=11)
    assert more == pytest.approx(32 * floor)


def test_a_step_takes_at_least_what_it_reads() -> None:
    chip = load_topology("1 x h100_sxm").chip
    weights = 2 * (8.03e9 - 128256 * 4096)  # the embedding is looked up
    read = weights + 8 * 4096 * 2**17
    bound_s = read / chip.device_bandwidth
    assert bound_s < predicted(CASE) < 1.5 * bound_s


def test_a_prompt_takes_at_least_its_products() -> None:
    case = replace(CASE, phase="prefill", batch=1, seq_len=8192)
    flop = 2 * 6.98e9 * 8192  # 32 layers, without LM head and attention
    assert predicted(case) > flop / load_topology("1 x h100_sxm").chip.device_peak("bf16")


def test_fewer_kernels_and_more_chips_change_only_their_part() -> None:
    steps = parse_steps(text_of(CASE), "mine.csv")
    (other,) = compare_steps(steps, "h200_sxm")
    assert other.chip == "h200_sxm"
    assert other.predicted_s < predicted(CASE)


def test_the_table() -> None:
    cases = [CASE, replace(CASE, batch=1), replace(CASE, phase="prefill", batch=1)]
    text = compared_text(compare_steps(parse_steps(text_of(*cases), "mine.csv")))
    lines = text.splitlines()
    assert lines[1].startswith("decode llama3.1-8b x 32 bf16")
    assert any(line.startswith("decode: median error") for line in lines)
    assert "2 steps" in text
    assert lines[-1] == "Curves of h100_sxm: extrapolated"  # timed in another framework
    assert max(map(len, lines)) <= 100


BAD = [
    ("a,b\n1,2\n", "not a file of measured steps (no column chip"),
    (",".join(STEP_COLUMNS), "holds no step"),
    (text_of(CASE, metric="time_us"), "mine.csv:2: metric: must be step_us"),
    (text_of(CASE, phase="train"), "phase: must be decode or prefill (got 'train')"),
    (text_of(CASE, batch="0"), "batch: must be a whole number"),
    (text_of(CASE, layers="x"), "layers: must be a whole number"),
    (text_of(CASE, value="-1"), "value: must be a number > 0 (got '-1')"),
    (text_of(CASE, value="nan"), "value: must be a number > 0"),
    (text_of(CASE, value="fast"), "value: must be a number > 0"),
    (text_of(CASE, chip="cpu"), "mine.csv:2: chip: there are no curves of a CPU"),
    (text_of(CASE, chip="h100_sx"), "did you mean 'h100_sxm'"),
    (text_of(replace(CASE, model="llama3.1-9b")), "did you mean 'llama3.1-8b'"),
    (text_of(replace(CASE, model="deepseek-v3")), "not dense"),
    (text_of(replace(CASE, dtype="fp8"), chip="a100_80g_sxm"), "has no fp8 peak"),
    (text_of(CASE, dtype="fp9"), "mine.csv:2: dtype: must be one of bf16, fp8"),
    (text_of(CASE, kv_dtype="fp9"), "mine.csv:2: kv_dtype: must be one of bf16, fp8"),
]


@pytest.mark.parametrize(("text", "says"), BAD, ids=[says for _, says in BAD])
def test_bad_files(text: str, says: str) -> None:
    with pytest.raises(SpecError) as error:
        compare_steps(parse_steps(text, "mine.csv"))
    assert says in str(error.value)
    assert str(error.value).startswith("mine.csv")
