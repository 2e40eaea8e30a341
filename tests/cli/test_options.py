"""What options mean: changes of the workload, and an error for those without effect."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli

RUN = "run --topo h200_nvl8 --workload llama70b --rate 5 --requests 20 --quiet"
PROGRAM = [sys.executable, "-c", "from cluster_sim.cli import main; main()"]


def row(runner: CliRunner, line: str) -> dict[str, object]:
    result = runner.invoke(cli, [*line.split(), "--format", "json"])
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(result.stdout)
    return found


@pytest.mark.parametrize(
    ("options", "column", "value"),
    [
        ("--plan tp4x2", "plan", "tp4x2"),
        ("--plan tp4", "plan", "tp4x2"),
        ("--tp 8", "plan", "tp8x1"),
        ("--set plan.tp=8", "plan", "tp8x1"),
        ("--chips 4 --tp 2", "n_chips", 4),
        ("--precision bf16", "weights_dtype", "bf16"),
        ("--seed 7", "seed", 7),
        ("--slo ttft_p90=3s", "slo", "ttft=3000ms,tpot=50ms,attainment=90%"),
        ("--slo ttft_p95=2s,tpot_p95=40ms", "slo", "ttft=2000ms,tpot=40ms,attainment=95%"),
        ("--model llama3.1-8b", "model", "llama3.1-8b"),
    ],
)
def test_an_option_changes_its_column(
    runner: CliRunner, options: str, column: str, value: object
) -> None:
    assert row(runner, f"{RUN} {options}")[column] == value


def test_rate_takes_its_unit(runner: CliRunner) -> None:
    line = RUN.replace("--rate 5", "").split()
    texts = [
        runner.invoke(cli, [*line, "--rate", rate, "--format", "csv"]).stdout
        for rate in ("5", "5 requests/s", "5 req/s")
    ]
    assert texts[0]
    assert len(set(texts)) == 1


def test_plan_auto_takes_back_the_plan_of_the_workload(runner: CliRunner) -> None:
    Path("mine.yaml").write_text("extends: llama70b\nplan: {tp: 8, replicas: 1}\n")
    line = RUN.replace("--workload llama70b", "--workload ./mine.yaml")
    assert row(runner, line)["plan"] == "tp8x1"
    assert row(runner, f"{line} --plan auto")["plan"] != "tp8x1"


def test_a_duration_is_not_cut_by_the_number_of_requests_of_the_file(runner: CliRunner) -> None:
    line = "run --topo h200_nvl8 --workload llama8b --rate 100 --quiet --duration 200s"
    requests = row(runner, line)["requests"]
    assert isinstance(requests, int)
    assert 19_000 < requests < 21_000


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"{RUN} --chips 9", "h200_nvl8 has 8 chips"),
        (f"{RUN} --slo ttft=2s,attainment=99%,attainment=95%", "'attainment' is given twice"),
        (f"{RUN} --slo attainment_p9=2s,ttft=1s", "unknown limit 'attainment_p9'"),
        (f"{RUN} --slo ttft=0s", "'--slo': ttft: must be > 0"),
        (f"{RUN} --slo ttft=infs", "'--slo': ttft:"),
        (f"{RUN} --slo ttft_p99=2s,tpot_p90=50ms", "two different attainments"),
        (f"{RUN} --slo ttft_p0=2s", "a percentile from p1 to p99"),
        (f"{RUN} --slo ttft_p100=2s", "a percentile from p1 to p99"),
        (f"{RUN} --out file/below", "cannot write"),
        (f"{RUN} --out file", "cannot write"),
        (
            "run --topo h200_nvl8 --workload llama70b_offline --duration 20s",
            "llama70b_offline has offline arrivals",
        ),
        (
            "run --topo h200_nvl8 --workload llama70b_closed --duration 20s",
            "llama70b_closed has closed arrivals",
        ),
        ("explain --topo h200_nvl8 --workload llama70b --chips 9", "has 8 chips"),
        ("compare file file", "not a summary.csv"),
        ("compare binary binary", "not a text file"),
        ("compare . .", "no summary.csv here or below"),
        ("compare bad.csv bad.csv", "bad.csv: no column"),
        ("check binary", "binary: not a text file, and no Chakra trace"),
        ("check ./binary", "not a text file"),
        ("check", "Missing argument"),
        ("schema planet", "'planet' is not one of"),
        ("frobnicate", "No such command"),
    ],
)
def test_one_message_and_nothing_written(tmp_path: Path, line: str, says: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "binary").write_bytes(b"\x89PNG\x00\xff")
    (tmp_path / "bad.csv").write_text("run_id,workload,topology,schema\na,b,c,1\n")
    before = sorted(tmp_path.rglob("*"))
    done = subprocess.run([*PROGRAM, *line.split()], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2, done.stderr
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_that_does_not_fit_leaves_no_empty_folder(runner: CliRunner) -> None:
    runner.invoke(cli, ["run", "--topo", "h200_nvl8", "--workload", "llama405b", "--tp", "1"])
    assert not list(Path.cwd().iterdir())


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    line = [*PROGRAM, *RUN.split(), "--tp", "3", "--debug"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=tmp_path)
    assert "Traceback" in done.stderr


def test_names_are_completed_in_the_shell(tmp_path: Path) -> None:
    asked = {"COMP_WORDS": "cluster-sim run --topo h200", "COMP_CWORD": "3"}
    code = "import sys; sys.argv = ['cluster-sim']; from cluster_sim.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | asked | {"_CLUSTER_SIM_COMPLETE": "bash_complete"},
    )
    assert done.stdout.split() == ["plain,h200_nvl", "plain,h200_nvl8", "plain,h200_superpod"]


def test_a_closed_pipe_is_quiet(tmp_path: Path) -> None:
    program = subprocess.Popen(
        [*PROGRAM, "list"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert program.stdout
    assert program.stderr
    program.stdout.close()
    with program.stderr as errors:
        assert errors.read() == b""
    program.wait()


def test_show_resolves_what_a_file_extends(runner: CliRunner) -> None:
    Path("workloads").mkdir()
    Path("workloads/mine.yaml").write_text("extends: llama70b\nrequests: 12\n")
    shown = runner.invoke(cli, ["show", "workload", "mine"]).stdout
    assert "requests: 12" in shown
    assert "model: llama3.3-70b" in shown


def test_explain_keeps_to_the_page_and_gives_reasons(runner: CliRunner) -> None:
    for topo, workload in (("a100_nvl8", "llama405b"), ("h200_nvl8", "llama70b")):
        line = f"explain --topo {topo} --workload {workload}"
        shown = runner.invoke(cli, line.split()).stdout.splitlines()
        assert max(map(len, shown)) <= 90
        assert any("J/token" in text for text in shown)
        assert any("weights need" in text for text in shown) == (topo == "a100_nvl8")


def test_an_old_name_is_told_on_stderr_and_works(tmp_path: Path) -> None:
    line = "run --topo h100_nvl8 --workload llama8b --rate 2 --requests 20 --format json"
    old = [*PROGRAM, *line.split(), "--set", "engine.first_token_steps=0"]
    done = subprocess.run(old, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr.startswith("Warning: engine.first_token_steps: is old")
    assert "write engine.client_loaded_steps" in done.stderr
    assert json.loads(done.stdout)
