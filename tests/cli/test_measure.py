"""The measure command: files, resume, Ctrl-C, mistakes; and with torch the operators themselves."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError
from cluster_sim.studies import measure_run, measure_torch
from cluster_sim.studies.measure_cases import OP_COLUMNS, SHAPES, STEP_COLUMNS, Figure, OpCase
from cluster_sim.studies.measure_torch import Device

TINY = """title: Tiny
layers: 3
hidden: 128
ffn_hidden: 256
heads: 8
kv_heads: 2
head_dim: 16
vocab: 512
max_context: 1024
"""


def run(runner: CliRunner, line: str) -> Result:
    return runner.invoke(cli, ["measure", *line.split()])


def rows(name: str = "measured_ops.csv") -> list[dict[str, str]]:
    return list(csv.DictReader(Path(name).read_text().splitlines()))


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> list[OpCase]:
    """A device that needs no torch: every operator takes 5 us; what was measured, in order."""
    seen: list[OpCase] = []

    def measure_op(device: Device, case: OpCase) -> Figure:
        seen.append(case)
        return Figure(seconds=5e-6, flags=("cpu",), note="pretended, and with a comma")

    monkeypatch.setattr(measure_torch, "open_device", lambda kind: Device(None, "cpu", "", ""))
    monkeypatch.setattr(measure_run, "measure_op", measure_op)
    return seen


@pytest.fixture
def torch() -> Any:
    """The torch module; its tests are skipped without."""
    return pytest.importorskip("torch", reason="needs torch: pip install 'cluster-sim[measure]'")


def test_rows_are_those_of_the_cases(runner: CliRunner, pretended: list[OpCase]) -> None:
    result = run(runner, "")
    assert result.exit_code == 0, result.output
    found = rows()
    assert tuple(found[0]) == OP_COLUMNS
    filed = [case.op.split("_")[0] if "glue" in case.op else case.op for case in pretended]
    assert [row["op"] for row in found] == filed
    assert {case.op for case in pretended} == set(SHAPES)
    assert {row["value"] for row in found} == {"5.0"}
    assert result.stdout == f"{len(found)} measured, 0 there before: measured_ops.csv\n"


def test_what_is_there_is_not_measured_again(runner: CliRunner, pretended: list[OpCase]) -> None:
    run(runner, "--ops gemm --dtypes bf16")
    before = Path("measured_ops.csv").read_bytes()
    first = len(pretended)
    again = run(runner, "--ops gemm --dtypes bf16")
    assert f"0 measured, {first} there before" in again.stdout
    assert Path("measured_ops.csv").read_bytes() == before
    run(runner, "--ops gemm,glue_add --dtypes bf16")
    assert [case.op for case in pretended[first:]] == ["glue_add"]
    assert Path("measured_ops.csv").read_bytes().startswith(before)


def test_ctrl_c_keeps_what_is_measured(
    runner: CliRunner, pretended: list[OpCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend = measure_run.measure_op

    def interrupted(device: Device, case: OpCase) -> Figure:
        if len(pretended) == 3:
            raise KeyboardInterrupt
        return pretend(device, case)

    monkeypatch.setattr(measure_run, "measure_op", interrupted)
    result = run(runner, "--ops gemm")
    assert result.exit_code == 130
    assert "Interrupted: what was measured is kept." in result.stderr
    assert "left: the same command goes on" in result.stdout
    assert len(rows()) == 3
    monkeypatch.setattr(measure_run, "measure_op", pretend)
    assert run(runner, "--ops gemm").exit_code == 0
    ids = [row["case_id"] for row in rows()]
    assert len(set(ids)) == len(ids) == len(pretended)


def test_a_line_that_was_cut_off_is_measured_again(
    runner: CliRunner, pretended: list[OpCase]
) -> None:
    run(runner, "--ops gemm")
    whole = Path("measured_ops.csv").read_bytes()
    Path("measured_ops.csv").write_bytes(whole[:-40])
    count = len(pretended)
    run(runner, "--ops gemm")
    assert len(pretended) == count + 1
    assert Path("measured_ops.csv").read_bytes() == whole


def test_what_cannot_be_measured_is_left_out_and_said(
    runner: CliRunner, pretended: list[OpCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(device: Device, case: OpCase) -> Figure:
        raise RuntimeError("no kernel for this\nand a long story")

    monkeypatch.setattr(measure_run, "measure_op", refuse)
    result = run(runner, "--ops glue_add")
    assert result.exit_code == 0
    assert "glue_add bf16 message_bytes=4194304: no kernel for this\n" in result.stderr
    assert "1 cannot be measured here" in result.stdout
    assert rows() == []


def test_the_budget_ends_it(
    runner: CliRunner, pretended: list[OpCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    clock = iter(range(10_000))
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    result = run(runner, "--seconds 4.5")
    assert len(pretended) == 4
    assert "left: the same command goes on" in result.stdout


def test_a_gpu_is_known_by_its_name_and_measured_in_what_it_has(
    runner: CliRunner, pretended: list[OpCase], monkeypatch: pytest.MonkeyPatch
) -> None:
    device = Device(None, "cuda", "NVIDIA A100-SXM4-80GB", "")
    monkeypatch.setattr(measure_torch, "open_device", lambda kind: device)
    result = run(runner, "--quick --quiet")
    assert result.exit_code == 0, result.output
    assert result.stderr == "Left out: a100_80g_sxm has no peak in fp8\n"
    assert {row["chip"] for row in rows()} == {"a100_80g_sxm"}
    assert {row["dtype"] for row in rows()} == {"bf16", "int8"}
    assert run(runner, "--dtypes fp8").exit_code == 2
    named = run(runner, "--quick --quiet --chip h100_pcie --ops glue_add")
    assert "4 measured, 0 there before" in named.stdout
    monkeypatch.setattr(measure_torch, "open_device", lambda kind: Device(None, "cuda", "X", ""))
    assert "which chip is 'X'? Say so with --chip" in str(run(runner, "").exception)


def test_quiet(runner: CliRunner, pretended: list[OpCase]) -> None:
    assert run(runner, "--ops gemm --quiet").stderr == ""


OPTIONS = [
    ("--ops gem", "--ops: no 'gem'; did you mean 'gemm'?"),
    ("--dtypes fp4", "--dtypes: no 'fp4'"),
    ("--ops glue_add --dtypes fp8", "no case of glue_add in fp8"),
    ("--chip h100_sxm", "this is the CPU"),
    ("--layers 3", "--layers has no effect without --steps"),
    ("--model llama3.1-8b", "--model has no effect without --steps"),
    ("--steps --ops gemm", "--ops has no effect with --steps"),
    ("--steps --shapes x.csv", "--shapes has no effect with --steps"),
    ("--steps", "on the CPU name a tiny model with --model"),
    ("--steps --dtypes int8", "--dtypes: no 'int8'"),
    ("--steps --model lama3.1-8b", "did you mean 'llama3.1-8b'"),
    ("--steps --model mixtral-8x7b", "steps are measured of dense models"),
    ("--steps --model qwen3-32b", "steps are measured of dense models"),
    ("--steps --model llama3.1-8b --layers 33", "--layers 33: llama3.1-8b has 32"),
    ("--shapes none.csv", "none.csv: cannot be read: No such file"),
    ("--shapes binary.csv", "binary.csv: not a text file"),
    ("--shapes mine.yaml", "mine.yaml: no column op"),
    ("--quick --shapes mine.yaml", "--quick and --shapes exclude each other"),
    ("--seconds 0", "0.0 is not in the range"),
    ("--device gpu", "'gpu' is not one of"),
    ("--out mine.yaml", "mine.yaml: holds something else"),
    ("--out binary.csv", "binary.csv: not a text file"),
    ("--out .", ".: cannot be read: is a folder"),
    ("--out mine.yaml/x.csv", "mine.yaml/x.csv: cannot be read: Not a directory"),
    ("--compare none.csv", "none.csv: cannot be read"),
    ("--compare mine.yaml", "not a file of measured steps"),
    ("--compare mine.yaml --quick", "--quick has no effect with --compare"),
    ("--compare mine.yaml --steps", "--steps has no effect with --compare"),
]


@pytest.mark.parametrize(("line", "says"), OPTIONS)
def test_mistakes(runner: CliRunner, pretended: list[OpCase], line: str, says: str) -> None:
    Path("mine.yaml").write_text(TINY)
    Path("binary.csv").write_bytes(b"\x89PNG\x00\xff")
    result = run(runner, line)
    assert result.exit_code != 0
    text = str(result.exception) if isinstance(result.exception, ClusterSimError) else ""
    assert says in text + result.output
    assert not pretended
    assert not list(Path.cwd().glob("measured*"))


def test_without_torch_it_says_how_to_install_it(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    monkeypatch.setattr(sys, "argv", ["cluster-sim", "measure"])
    from cluster_sim.cli import main

    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 2
    assert not list(Path.cwd().iterdir())
    result = run(runner, "")
    assert str(result.exception) == (
        "measuring needs torch; install it with: pip install 'cluster-sim[measure]'"
    )


def test_comparing_needs_no_torch(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    cells = dict.fromkeys(STEP_COLUMNS, "")
    cells |= {"chip": "h100_sxm", "model": "llama3.1-8b", "layers": "32", "dtype": "bf16"}
    cells |= {"kv_dtype": "bf16", "phase": "decode", "batch": "1", "seq_len": "1024"}
    cells |= {"glue_kernels_per_layer": "11", "metric": "step_us", "value": "6500"}
    Path("steps.csv").write_text(f"{','.join(cells)}\n{','.join(cells.values())}\n")
    result = run(runner, "--compare steps.csv")
    assert result.exit_code == 0, result.output
    assert "decode llama3.1-8b x 32 bf16" in result.stdout


@pytest.mark.parametrize("op", SHAPES)
def test_every_operator_runs(runner: CliRunner, torch: Any, op: str) -> None:
    result = run(runner, f"--device cpu --ops {op} --dtypes bf16")
    assert result.exit_code == 0, result.output
    assert all(float(row["value"]) > 0 and row["chip"] == "cpu" for row in rows())
    assert {row["op"] for row in rows()} == {"glue" if op.startswith("glue") else op}
    assert "cannot be measured" not in result.output


def test_a_larger_product_takes_longer(runner: CliRunner, torch: Any) -> None:
    Path("shapes.csv").write_text("op,m,n,k\ngemm,1,64,64\ngemm,256,512,512\n")
    assert run(runner, "--device cpu --shapes shapes.csv").exit_code == 0
    small, large = sorted(rows(), key=lambda row: int(row["m"]))
    assert float(large["value"]) > 5 * float(small["value"])
    assert "torch" in large["note"]
    assert "p90" in large["note"]


def test_steps_of_a_tiny_model_are_measured_and_compared(runner: CliRunner, torch: Any) -> None:
    Path("tiny.yaml").write_text(TINY)
    result = run(runner, "--device cpu --steps --model ./tiny.yaml --layers 2 --dtypes bf16")
    assert result.exit_code == 0, result.output
    found = rows("measured_steps.csv")
    assert tuple(found[0]) == STEP_COLUMNS
    assert {(row["model"], row["layers"]) for row in found} == {("./tiny.yaml", "2")}
    assert {row["phase"] for row in found} == {"decode", "prefill"}
    assert all(float(row["value"]) > 0 for row in found)
    assert all(int(row["glue_kernels_per_layer"]) >= 11 for row in found)
    says = str(run(runner, "--compare measured_steps.csv").exception)
    assert "there are no curves of a CPU; price it as another chip with --chip" in says
    compared = run(runner, "--compare measured_steps.csv --chip h100_sxm")
    assert compared.exit_code == 0, compared.output
    assert "decode: median error" in compared.stdout
