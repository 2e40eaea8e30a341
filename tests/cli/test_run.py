from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.columns import SUMMARY_COLUMNS
from cluster_sim.output.results import read_summary

FAST = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 200"


def test_run_prints_a_page_and_leaves_a_folder(runner: CliRunner) -> None:
    result = runner.invoke(cli, FAST.split())
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith("llama70b on h200_nvl8: Llama-3.3-70B, FP8 weights and KV")
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    folder = next(Path("results").iterdir())
    names = {path.name for path in folder.iterdir()}
    assert names == {"summary.csv", "requests.csv", "manifest.json", "run.log"}
    row = next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert tuple(row) == SUMMARY_COLUMNS
    assert row["finished"] == "200"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert all(manifest["invariants"].values())
    assert sum(manifest["provenance"].values()) == pytest.approx(1.0)


def test_the_full_page_has_capacity(runner: CliRunner) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --requests 3000"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    for words in ("within the SLO", "flat out, no SLO", "breaks first", "70 % of capacity"):
        assert words in result.stdout


def test_same_seed_same_bytes_in_any_folder(
    runner: CliRunner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = []
    for name in ("one", "two"):
        folder = tmp_path / name
        folder.mkdir()
        monkeypatch.chdir(folder)
        step = ["--step-by-step"] if name == "two" else []
        assert runner.invoke(cli, [*FAST.split(), *step]).exit_code == 0
        run = next((folder / "results").iterdir())
        files = ("summary.csv", "requests.csv", "manifest.json")
        texts.append([(run / file).read_bytes() for file in files])
    assert texts[0] == texts[1]


def test_formats(runner: CliRunner) -> None:
    row = json.loads(runner.invoke(cli, [*FAST.split(), "--format", "json"]).stdout)
    lines = runner.invoke(cli, [*FAST.split(), "--format", "csv"]).stdout.splitlines()
    assert lines[0].split(",") == list(row)
    assert len(lines) == 2


@pytest.mark.parametrize("what", [["--band"], ["--band", "run"]])
def test_band_runs_again_with_other_constants(what: list[str], runner: CliRunner) -> None:
    line = FAST.replace("--rate 8", "--concurrency 16")
    result = runner.invoke(cli, [*line.split(), *what])
    assert result.exit_code == 0, result.output
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    assert "again: low" in result.stdout
    assert "with 8 in 10 chance" in result.stdout
    folder = next(Path("results").iterdir())
    again = json.loads((folder / "manifest.json").read_text())["bands"]["again"]
    assert again["replications"] == 16
    assert again["headlines"]["tpot_mean_ms"]["low"] < again["headlines"]["tpot_mean_ms"]["high"]
    assert "output_tokens_per_s" in again["headlines"]


def test_band_of_a_capacity_searches_again(runner: CliRunner) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --band capacity --format json"
    line += " --requests 4000 --set workload.sampling_error=10%"
    assert runner.invoke(cli, line.split()).exit_code == 0
    folder = next(Path("results").iterdir())
    bands = json.loads((folder / "manifest.json").read_text())["bands"]
    name = "capacity_output_tokens_per_s_per_chip"
    assert bands["again"]["headlines"][name]["low"] < bands["headlines"][name]["high"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ("--band --seeds 2", "--band and --seeds exclude each other"),
        ("--band --background flows:4", "--band and --background exclude each other"),
        ("--band capacity", "--band capacity needs traffic at a share of the capacity"),
    ],
)
def test_bands_that_cannot_be(options: str, says: str, runner: CliRunner) -> None:
    result = runner.invoke(cli, [*FAST.split(), *options.split()])
    assert result.exit_code == 2
    assert says in result.stderr


def test_explain_names_the_source_of_each_price(runner: CliRunner) -> None:
    result = runner.invoke(cli, ["explain", "--topo", "b300_nvl8", "--workload", "llama70b"])
    assert all(len(line) <= 80 for line in result.stdout.splitlines())
    text = " ".join(result.stdout.split())
    assert "gemm fp8 of b200 (measured, " in text
    assert "gemm fp8 of b200 as gemm fp8 of b300 (transferred, 7 %)" in text
    assert "host time of trtllm-1.0 (measured, 50 %)" in text


def test_seeds_give_a_spread(runner: CliRunner) -> None:
    result = runner.invoke(cli, [*FAST.split(), "--seeds", "3"])
    assert "seeds 0, 1, 2" in result.stdout
    assert len(list(Path("results").iterdir())) == 3


def test_a_trace_is_replayed(runner: CliRunner, shared: Path) -> None:
    trace = shared / "traces" / "azure_llm_2023_conv_first_window.csv"
    line = "run --topo h200_nvl8 --workload llama70b --requests 500 --trace"
    result = runner.invoke(cli, [*line.split(), str(trace)])
    assert result.exit_code == 0, result.output
    assert "as in the trace" in result.stdout


def test_a_mix_shows_its_classes_on_both_paths(runner: CliRunner) -> None:
    line = "run --topo h200_nvl8 --workload mixed --requests 300 --rate 4"
    shown = [
        runner.invoke(cli, [*line.split(), *extra]).stdout for extra in ([], ["--step-by-step"])
    ]
    for words in ("Class ", "  retrieval ", " sessions", "from the prefix cache"):
        assert words in shown[0]
    assert all(len(text) <= 80 for text in shown[0].splitlines())
    folder = next(Path("results").iterdir())
    manifest = json.loads((folder / "manifest.json").read_text())
    assert [entry["name"] for entry in manifest["classes"]] == ["chat", "retrieval", "batch"]
    assert sum(entry["requests"] for entry in manifest["classes"]) == 300
    header = (folder / "requests.csv").read_text().splitlines()[0]
    assert header.endswith("within_slo,class,after")
    rest = [text.split("simulated")[0] + text[-400:] for text in shown]
    assert rest[0] == rest[1]


def test_a_replay_can_be_faster_and_shorter(runner: CliRunner) -> None:
    rows = "".join(f"{i},200,9,s{i % 3},p,96\n" for i in range(100))
    Path("mine.csv").write_text("arrival_s,isl,osl,session_id,prefix_id,prefix_tokens\n" + rows)
    line = "run --topo h200_nvl8 --workload llama8b --trace mine.csv --plan tp1x1 --format json"
    found = {}
    for name, extra in {
        "whole": "",
        "fast": "--time-scale 2",
        "short": "--duration 20s",
        "both": "--duration 20s --time-scale 2 --trace-format neutral",
    }.items():
        found[name] = json.loads(runner.invoke(cli, [*line.split(), *extra.split()]).stdout)
    # The window begins after a usual service, which is no shorter when requests come faster.
    assert found["whole"]["window_s"] == pytest.approx(2 * found["fast"]["window_s"], rel=0.01)
    counts = [found[name]["requests"] for name in found]
    assert counts == [100, 100, 21, 41]
    assert found["whole"]["prefix_hit_share"] == pytest.approx(99 * 96 / 20_000)
    before = {row["config_hash"] for row in found.values()}
    Path("mine.csv").write_text(Path("mine.csv").read_text().replace(",200,9,", ",201,9,"))
    again = json.loads(runner.invoke(cli, line.split()).stdout)
    assert again["config_hash"] not in before


@pytest.mark.parametrize(
    "line",
    [
        "list",
        "list chips",
        "show topology h200_nvl8",
        "show workload llama70b",
        "show chip b200",
        "show model qwen3-32b",
        "show software vllm",
        "check h200_nvl8 llama70b vllm-0.10",
        "explain --topo b200_nvl8 --workload llama405b",
        "explain --topo a100_nvl8 --workload llama8b",
        "schema workload",
        "--version",
        "run --topo a100_nvl8 --workload llama8b --concurrency 8 --requests 40",
        "run --topo h20_nvl8 --workload llama70b_offline --requests 100",
        "run --topo b200_nvl8 --workload reasoning --rate 1 --requests 20",
        "run --topo h200_nvl8 --workload llama70b --rate 5 --duration 10s",
        "run --topo h200_nvl8 --workload llama70b_offline --requests 50"
        " --set engine.scheduler=static",
        "run --topo h200_nvl8 --workload llama70b --rate 9 --requests 99 --chips 4 --tp 2",
    ],
)
def test_commands_work(runner: CliRunner, line: str) -> None:
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    assert result.stdout


BESIDE = ["--background", "flows:40:seed=1:bytes=1GiB"]
SMALL = "run --topo h200_nvl8 --workload llama8b --tp 2 --rate 5 --requests 4"


def test_traffic_beside_a_run(runner: CliRunner) -> None:
    alone = runner.invoke(cli, [*SMALL.split(), "--quiet"])
    rows, files = [], []
    for extra in ([], ["--step-by-step"]):
        result = runner.invoke(cli, [*SMALL.split(), *BESIDE, "--timeline", "--quiet", *extra])
        assert result.exit_code == 0, result.output
        assert "flows:40:seed=1:bytes=1GiB: beside them replicas lost" in " ".join(
            result.output.split()
        )
        folder = next(p for p in Path("results").iterdir() if (p / "timeline.json.gz").exists())
        names = ("summary.csv", "requests.csv", "manifest.json", "timeline.json.gz")
        files.append([(folder / name).read_bytes() for name in names])
        rows.append(read_summary(folder)[0])
    assert files[0] == files[1]
    assert float(rows[0]["share_lost"]) > 0
    assert "lost" not in alone.output
    manifest = json.loads(files[0][2])
    used = manifest["machine"]["resources"]
    assert used["host0/gpu7>host0/nvswitch0"]["busy_s"] == pytest.approx(manifest["service_s"])
    assert "host0/gpu7/hbm" in used
    assert manifest["machine"]["others"] == BESIDE[1:]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("flows", "write all_reduce:1GiB"),
        ("all_reduce:1GiB:ranks=0-8", "the machine has devices 0 to 7"),
        ("all_reduc:1GiB", "did you mean 'all_reduce'?"),
    ],
)
def test_bad_traffic_beside_a_run(runner: CliRunner, spec: str, words: str) -> None:
    result = runner.invoke(cli, [*SMALL.split(), "--background", spec])
    assert result.exit_code != 0
    assert words in result.output + str(result.exception or "")
    assert not Path("results").exists() or not any(Path("results").iterdir())
