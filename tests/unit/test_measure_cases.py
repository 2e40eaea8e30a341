"""Cases, their names, the grid, and files of shapes."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.specs.find import names
from cluster_sim.studies.measure_cases import (
    CHIPS,
    DTYPES,
    OP_COLUMNS,
    SHAPES,
    Figure,
    OpCase,
    case_id,
    chip_id,
    in_hash_order,
    op_row,
    parse_shapes,
)
from cluster_sim.studies.measure_decoder import needed_bytes
from cluster_sim.studies.measure_grid import STEP_MODELS, cpu_grid, grid, step_grid, with_peaks

FIGURE = Figure(seconds=12.5e-6, flags=("a", "b"), note="torch, mm; p10 12 us")


def test_every_chip_of_the_table_is_known() -> None:
    assert set(CHIPS.values()) <= set(names("chip"))


def test_chips_by_the_name_of_the_device() -> None:
    assert chip_id(None, "NVIDIA H100 80GB HBM3") == "h100_sxm"
    assert chip_id("H200-SXM", "NVIDIA H100 80GB HBM3") == "h200_sxm"
    assert chip_id(None, None) == chip_id("cpu", None) == "cpu"
    with pytest.raises(SpecError, match="which chip is 'NVIDIA H150'.*--chip NAME"):
        chip_id(None, "NVIDIA H150")
    with pytest.raises(SpecError, match="--chip NAME"):
        chip_id(None, "NVIDIA H100 80GB HBM3 MIG 1g.10gb")
    with pytest.raises(UnknownNameError, match="did you mean 'h100_sxm'"):
        chip_id("h100_sx", "NVIDIA H100 80GB HBM3")
    with pytest.raises(SpecError, match="this is the CPU"):
        chip_id("h100_sxm", None)


@pytest.mark.parametrize("quick", [True, False])
def test_the_grid_has_every_operator_and_dtype_once(quick: bool) -> None:
    cases = grid(list(SHAPES), DTYPES, quick=quick)
    assert {case.op for case in cases} == set(SHAPES)
    assert {case.dtype for case in cases if case.op == "gemm"} == set(DTYPES)
    ids = [case_id("h100_sxm", case) for case in cases]
    assert len(set(ids)) == len(ids)
    assert all(getattr(case, name) > 0 for case in cases for name in SHAPES[case.op])
    assert {case.op for case in cpu_grid(list(SHAPES), DTYPES)} == set(SHAPES)


def test_the_grid_has_the_matrices_of_the_models() -> None:
    shapes = {(case.n, case.k) for case in grid(["gemm"], ["bf16"], quick=False)}
    llama8b = {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)}
    llama70b_tp8 = {(1280, 8192), (8192, 1024), (7168, 8192), (8192, 3584)}
    assert llama8b | llama70b_tp8 <= shapes


def test_a_beginning_of_the_order_is_a_sample() -> None:
    cases = in_hash_order("h100_sxm", grid(list(SHAPES), DTYPES, quick=False))
    beginning = cases[: len(cases) // 4]
    share = sum(case.op == "gemm" for case in beginning) / len(beginning)
    assert share == pytest.approx(sum(c.op == "gemm" for c in cases) / len(cases), abs=0.1)
    assert cases == in_hash_order("h100_sxm", reversed(cases))


def test_rows_have_the_columns_of_measured_cases(shared: Path) -> None:
    text = (shared / "ground_truth" / "op_cases.csv").read_text()
    assert tuple(text.splitlines()[0].split(",")) == OP_COLUMNS


def test_a_row() -> None:
    case = OpCase(op="moe_ffn", dtype="bf16", tokens=4, n=8, k=16, experts=4, top_k=2, ep=1, tp=1)
    row = op_row("h100_sxm", case, FIGURE, "me", "2025-01-31")
    assert tuple(row) == OP_COLUMNS
    assert (row["metric"], row["value"], row["flags"]) == ("time_us", 12.5, "a;b")
    assert (row["m"], row["tokens"], row["batch"], row["kv_dtype"]) == (4, 4, "", "")
    assert row["case_id"] == case_id("h100_sxm", case) != case_id("h200_sxm", case)


def test_kernels_between_products_are_filed_by_what_they_move() -> None:
    norm = OpCase(op="glue_norm", dtype="bf16", m=16, n=4096)
    gate = OpCase(op="glue_activation", dtype="bf16", m=16, n=4096)
    add = OpCase(op="glue_add", dtype="bf16", message_bytes=3 * 2**20)
    rows = [op_row("h100_sxm", case, FIGURE, "me", "2025-01-31") for case in (norm, gate, add)]
    assert {row["op"] for row in rows} == {"glue"}
    assert [row["message_bytes"] for row in rows] == [2**18, 3 * 2**17, 3 * 2**20]
    assert len({row["case_id"] for row in rows}) == 3


def test_dtypes_without_a_peak_are_told() -> None:
    assert with_peaks("a100_80g_sxm", DTYPES) == (("bf16", "int8"), ("fp8",))
    assert with_peaks("h100_sxm", DTYPES) == (DTYPES, ())


def test_a_file_of_measurements_is_a_file_of_shapes() -> None:
    everything = grid(list(SHAPES), DTYPES, quick=True)
    cases = [case for case in everything if case.op not in ("glue_norm", "glue_activation")]
    rows = [op_row("h100_sxm", case, FIGURE, "me", "2025-01-31") for case in cases]
    lines = [",".join(OP_COLUMNS)]
    lines += [",".join(str(cell).replace(",", " ") for cell in row.values()) for row in rows]
    assert parse_shapes("\n".join(lines), "mine.csv", None, None) == cases
    assert len(list(csv.DictReader(lines))) == len(cases)


def test_shapes_of_measured_cases_can_be_measured(shared: Path) -> None:
    text = (shared / "ground_truth" / "op_cases.csv").read_text()
    cases = parse_shapes(text, "op_cases.csv", ["gemm", "mla_decode", "moe_ffn"], ["bf16"])
    assert {case.op for case in cases} == {"gemm", "mla_decode", "moe_ffn"}


HEAD = "op,dtype,m,n,k,batch,seq_len,heads,kv_heads,head_dim,experts,top_k,ep,tp,tokens\n"
SHAPE_FILES = [
    ("m,n,k\n1,2,3\n", "mine.csv: no column op"),
    (HEAD, "no row of the operators"),
    (HEAD + "gem,bf16,1,2,3\n", "mine.csv:2: op: cannot be measured (got 'gem')"),
    (HEAD + "gemm,fp4,1,2,3\n", "dtype: gemm cannot be measured in 'fp4'"),
    (HEAD + "attention_decode,fp8,,,,1,9,8,1,64\n", "cannot be measured in 'fp8'"),
    (HEAD + "gemm,bf16,1,2,3\ngemm,bf16,0,2,3\n", "mine.csv:3: m: must be a whole number"),
    (HEAD + "gemm,bf16,1,2,\n", "k: must be a whole number of at least 1 (got '')"),
    (HEAD + "gemm,bf16,1\n", "n: must be a whole number"),
    (HEAD + "attention_decode,bf16,,,,1,9,8,3,64\n", "heads: must be a multiple of kv_heads"),
    (HEAD + "mla_decode,bf16,,,,1,9,8,1,64\n", "head_dim 576"),
    (HEAD + "moe_ffn,bf16,,8,8,,,,,,8,2,3,1,4\n", "ep: must divide experts"),
    (HEAD + "moe_ffn,bf16,,8,8,,,,,,8,9,1,1,4\n", "top_k: exceeds experts"),
    (HEAD + "gemm,fp4,1,2,3\n" * 12, "... and 2 more"),
]


@pytest.mark.parametrize(("text", "says"), SHAPE_FILES, ids=[says for _, says in SHAPE_FILES])
def test_bad_shapes(text: str, says: str) -> None:
    with pytest.raises(SpecError) as error:
        parse_shapes(text, "mine.csv", None, None)
    assert says in str(error.value)


def test_steps_of_the_grid_need_what_the_models_hold() -> None:
    models = [(name, layers or 32) for name, layers in STEP_MODELS]
    cases = step_grid(models, ["bf16"], quick=True, cpu=False)
    first = next(case for case in cases if (case.phase, case.batch) == ("decode", 1))
    # 8.03 billion parameters, and 128 KiB of cache a token.
    held = needed_bytes(first, weights=True) - needed_bytes(first, weights=False)
    assert held == pytest.approx(2 * 8.03e9, rel=0.01)
    assert needed_bytes(first, weights=False) == pytest.approx(1024 * 2**17, rel=0.02)
