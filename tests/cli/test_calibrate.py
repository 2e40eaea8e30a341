"""The calibrate command: comparison first, --write on request, one message for every mistake."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from calibrate_cases import csv_text, timings
from click.testing import CliRunner, Result
from conftest import ROOT

from cluster_sim.cli import cli
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.load_curves import load_fits
from cluster_sim.studies import calibrate as study

DECODE = {"floor": 10e-6, "memory": 0.5}
GEMM = {"floor": 3e-6, "per_k": 0.4e-6, "compute": 0.7, "memory": 0.8}
FILE = Path("topologies/chips/fits/h200_sxm.yaml")
BLOCK = """\
attention_decode:
  bf16:
    floor: 10 us
    memory: 0.5
    provenance: measured
    fit: {points: 24, median: 0.1 %, p90: 0.1 %, date: "2026-01", framework: lab}
    source: >-
      synthetic (lab 1.0), 24 points of 6 shapes; errors of shapes that the fit did not see;
      written by calibrate
  fp8:
"""


def run(runner: CliRunner, *arguments: str) -> Result:
    return runner.invoke(cli, ["calibrate", "--ops", "ops.csv", *arguments])


def rows_of(op: str = "attention_decode", values: dict[str, float] = DECODE) -> str:
    chip = load_spec("chip", "h200_sxm", Chip)[1]
    return csv_text(timings(chip, op, "bf16", values), "h200_sxm")


def test_shows_old_against_new_and_writes_nothing(runner: CliRunner) -> None:
    Path("ops.csv").write_text(rows_of())
    result = run(runner, "--chip", "h200_sxm")
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("h200_sxm, timings of lab")
    assert lines[1] == "attention_decode bf16: 24 points of 6 shapes"
    assert lines[2].startswith("  old  floor ")
    assert " ".join(lines[3].split()) == "new floor 10 us, memory 0.5 0.0 % 0.0 %"
    assert "Nothing written; --write" in result.stderr
    assert [path.name for path in Path.cwd().iterdir()] == ["ops.csv"]


def test_written_curves_are_used_and_nothing_else_changes(runner: CliRunner) -> None:
    Path("ops.csv").write_text(rows_of())
    before = load_topology("h200_nvl8").fits
    result = run(runner, "--chip", "h200_sxm", "--write")
    assert result.exit_code == 0, result.output
    text, packaged = FILE.read_text(), (ROOT / FILE).read_text()
    assert BLOCK in text
    start, end = packaged.index("attention_decode:\n"), packaged.index("  fp8:\n    floor: 8.")
    assert text == packaged[:start] + BLOCK + packaged[end + len("  fp8:\n") :]
    after = load_topology("h200_nvl8").fits
    assert after.attention_decode["bf16"].memory == 0.5
    assert after.attention_decode["bf16"].fit.points == 24
    assert (after.gemm, after.mla_decode) == (before.gemm, before.mla_decode)
    again = run(runner, "--chip", "h200_sxm", "--write")
    assert "holds these curves already" in again.stderr
    assert FILE.read_text() == text
    assert not list(FILE.parent.glob(".*"))


def test_what_engines_change_survives(runner: CliRunner) -> None:
    """The fp8 floor in engines and the hidden term in k, whatever the timings say."""
    chip = load_spec("chip", "h200_sxm", Chip)[1]
    values = {**GEMM, "floor": 20e-6, "quantise": 0.4}
    Path("ops.csv").write_text(csv_text(timings(chip, "gemm", "fp8", values), "h200_sxm"))
    assert run(runner, "--chip", "h200_sxm", "--write").exit_code == 0
    assert "    floor: 20 us\n    per_k: 0.4 us\n" in FILE.read_text()
    curve = load_fits(chip)[0].gemm["fp8"]
    assert (curve.floor, curve.per_k, curve.compute) == (pytest.approx(3.2e-6), 0.0, 0.7)
    assert "in engines floor 3.2 us" in curve.source


def test_small_kernels_keep_their_floor_in_engines(runner: CliRunner) -> None:
    chip = load_spec("chip", "h200_sxm", Chip)[1]
    rows = timings(chip, "glue", "bf16", {"floor": 4e-6, "memory": 0.7})
    Path("ops.csv").write_text(csv_text(rows, "h200_sxm"))
    assert run(runner, "--chip", "h200_sxm", "--write").exit_code == 0
    assert "\nglue:\n  floor: 4 us\n  memory: 0.7\n  provenance: measured\n" in FILE.read_text()
    curve = load_fits(chip)[0].glue
    assert (curve.floor, curve.memory) == (pytest.approx(1.2e-6), 0.7)


def test_a_chip_that_borrows_gets_a_section(runner: CliRunner) -> None:
    chip = load_spec("chip", "h20_96g", Chip)[1]
    Path("ops.csv").write_text(csv_text(timings(chip, "gemm", "bf16", GEMM), "h20_96g"))
    result = run(runner, "--chip", "h20_96g", "--write")
    assert result.exit_code == 0, result.output
    text = Path("topologies/chips/fits/h20_96g.yaml").read_text()
    assert text.startswith((ROOT / "topologies/chips/fits/h20_96g.yaml").read_text())
    assert text.count("gemm:\n  bf16:\n    floor: 3 us\n") == 1
    fits = load_fits(chip)[0]
    assert (fits.gemm["bf16"].provenance, fits.gemm["fp8"].provenance) == (
        "measured",
        "transferred",
    )


@pytest.mark.parametrize("chip", ["a100_80g_sxm"])
def test_the_packaged_curves_follow_from_the_measured_cases(
    runner: CliRunner, shared: Path, chip: str
) -> None:
    cases = shared / "ground_truth" / "op_cases.csv"
    result = runner.invoke(cli, ["calibrate", "--ops", str(cases), "--chip", chip, "--write"])
    assert result.exit_code == 0, result.output
    file = f"topologies/chips/fits/{chip}.yaml"
    assert Path(file).read_text() == (ROOT / file).read_text()
    assert "42 of 142 points are impossible" in result.stdout.replace("\n    ", " ")


def edited(change: object, line: int = 3) -> str:
    lines = rows_of("gemm", GEMM).splitlines()
    lines[line - 1] = change(lines[line - 1])  # type: ignore[operator]
    return "\n".join(lines) + "\n"


HEADER = rows_of("gemm", GEMM).splitlines()[0]
BAD = [
    ("", "ops.csv: empty file; it needs the columns case_id, chip, op"),
    (HEADER + "\n", "ops.csv: no rows below the header"),
    (
        edited(lambda x: x.replace(",dtype", ",dtyp"), 1),
        "ops.csv:1: unknown column 'dtyp'; did you",
    ),
    (edited(lambda x: x.replace(",value", ""), 1), "ops.csv:1: no column value"),
    (edited(lambda x: x + ",chip", 1), "ops.csv:1: column 'chip' twice"),
    (edited(lambda x: x + ",1"), "ops.csv:3: more cells than the header has columns"),
    (edited(lambda x: x.rsplit(",", 1)[0]), "ops.csv:3: fewer cells"),
    (edited(lambda x: x.replace("h200_sxm", "h200_sx")), "ops.csv:3: chip: unknown 'h200_sx'; did"),
    (edited(lambda x: x.replace(",gemm,", ",gem,")), "ops.csv:3: op: unknown 'gem'; did you mean"),
    (edited(lambda x: x.replace(",bf16,bf16", ",bf61,")), "ops.csv:3: dtype: unknown 'bf61'; did"),
    (edited(lambda x: x.replace(",bf16,", ",fp4,", 1)), "dtype: h200_sxm has no fp4 peak (it has"),
    (edited(lambda x: x.replace("time_us", "time_ms")), "ops.csv:3: metric: must be time_us, a"),
    (edited(lambda x: x.replace(",4096,4096,", ",0,4096,")), "n: gemm needs a whole number > 0"),
    (edited(lambda x: x.replace(",4096,4096,", ",4.5,4096,")), "n: gemm needs a whole number > 0"),
    (
        edited(lambda x: x.replace("gemm-bf16-3", "gemm-bf16-2")),
        "'gemm-bf16-2' again (first on line",
    ),
    (edited(lambda x: x.replace("gemm-bf16-3", "")), "ops.csv:3: case_id: missing"),
    (
        "\n".join(rows_of("gemm", GEMM).splitlines()[:8]),
        "7 points of 5 shapes; a fit needs 12 of 4",
    ),
    (
        rows_of().replace("h200_sxm", "b200"),
        "ops.csv: no timings of h200_sxm; the file has those of",
    ),
    (
        rows_of().replace("attention_decode,bf16", "kv_transfer,bf16"),
        "no curve is fitted to kv_tra",
    ),
    (
        rows_of("gemm", {**GEMM, "memory": 2, "floor": 1e-9, "per_k": 0}),
        "points are impossible, so",
    ),
    ('case_id,"chip\n', "not valid CSV"),
]


@pytest.mark.parametrize(("text", "says"), BAD)
def test_one_message_and_no_file(runner: CliRunner, text: str, says: str) -> None:
    Path("ops.csv").write_text(text)
    result = run(runner, "--chip", "h200_sxm", "--write")
    assert result.exit_code != 0
    assert says in f"{result.exception}{result.stderr}"
    assert [path.name for path in Path.cwd().iterdir()] == ["ops.csv"]


@pytest.mark.parametrize(
    ("op", "cells", "says"),
    [
        ("moe_ffn", {"experts": "7", "ep": "2"}, "experts: must be a multiple of ep (got 7)"),
        ("moe_ffn", {"top_k": "9"}, "top_k: 9 of 8 experts"),
        ("moe_ffn", {"tokens": "inf"}, "tokens: moe_ffn needs a whole number > 0 (got 'inf')"),
        ("moe_ffn", {"tokens": "nan"}, "tokens: moe_ffn needs a whole number > 0 (got 'nan')"),
        ("attention_decode", {"heads": "9", "kv_heads": "8"}, "heads: must be a multiple of kv_h"),
        ("attention_decode", {"kv_dtype": "fp4"}, "kv_dtype: unknown 'fp4'"),
    ],
)
def test_shapes_that_cannot_be(
    runner: CliRunner, op: str, cells: dict[str, str], says: str
) -> None:
    values = {**GEMM, "activations": 0.5}
    lines, header = rows_of(op, values).splitlines(), HEADER.split(",")
    row = dict(zip(header, lines[1].split(","), strict=True)) | cells
    Path("ops.csv").write_text("\n".join([lines[0], ",".join(row.values()), *lines[2:]]))
    result = run(runner, "--chip", "h200_sxm")
    assert f"ops.csv:2: {says}" in str(result.exception)


def test_attention_needs_a_bf16_peak(runner: CliRunner) -> None:
    Path("ops.csv").write_text(rows_of().replace("h200_sxm", "ascend_960"))
    result = run(runner, "--chip", "ascend_960")
    assert "ops.csv:2: dtype: ascend_960 has no bf16 peak (it has" in str(result.exception)


@pytest.mark.parametrize("value", ["0", "-3.5", "nan", "inf", "fast", ""])
def test_times_are_positive_numbers(runner: CliRunner, value: str) -> None:
    cells = rows_of("gemm", GEMM).splitlines()
    row = cells[2].split(",")
    row[HEADER.split(",").index("value")] = value
    Path("ops.csv").write_text("\n".join([*cells[:2], ",".join(row), *cells[3:]]))
    result = run(runner, "--chip", "h200_sxm")
    assert "ops.csv:3: value: " in str(result.exception)


def test_all_problems_at_once_up_to_a_limit(runner: CliRunner) -> None:
    Path("ops.csv").write_text(rows_of("gemm", GEMM).replace("time_us", "ms"))
    problems = str(run(runner, "--chip", "h200_sxm").exception).splitlines()
    assert len(problems) == 21
    assert problems[-1] == "ops.csv: and 5 more problems"


def test_the_command_line_says_it_in_one_block(tmp_path: Path) -> None:
    (tmp_path / "ops.csv").write_bytes(b"\xff\xfe\x00")
    for arguments, says in (
        (["--ops", "ops.csv", "--chip", "h200_sxm"], "Error: ops.csv: not a text file (not UTF-8)"),
        (["--ops", "none.csv", "--chip", "h200_sxm"], "Error: none.csv: cannot be read: No such"),
    ):
        done = subprocess.run(
            [
                sys.executable,
                "-c",
                "from cluster_sim.cli import main; main()",
                "calibrate",
                *arguments,
            ],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
            env={"PYTHONPATH": str(ROOT)},
        )
        assert done.returncode == 2
        assert done.stderr.startswith(says)
        assert "Traceback" not in done.stderr


def test_unknown_names(runner: CliRunner) -> None:
    Path("ops.csv").write_text(rows_of())
    assert "did you mean 'h200_sxm'" in run(runner, "--chip", "h200_sx").stderr
    other = run(runner, "--chip", "h200_sxm", "--framework", "vllm")
    assert "no timings of it on h200_sxm (there are lab)" in str(other.exception)


@pytest.mark.parametrize("where", ["fitted", "written"])
def test_an_interrupted_calibration_writes_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    if where == "fitted":
        monkeypatch.setattr(study, "fit", stop)
    else:
        monkeypatch.setattr("os.replace", stop)
    Path("ops.csv").write_text(rows_of())
    result = run(runner, "--chip", "h200_sxm", "--write")
    assert result.exit_code != 0
    assert not [path for path in Path.cwd().rglob("*") if path.is_file() and path.name != "ops.csv"]
