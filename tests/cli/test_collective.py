"""The collective command: tables, other formats, traffic beside, comparison, messages."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cluster_sim.cli import cli
from cluster_sim.perf.background import parse_ranks, parse_sizes
from cluster_sim.studies.nccl_tests import parse_nccl_tests

POD = ["--topo", "h100_superpod", "--chips", "64"]


def run(runner: CliRunner, *arguments: str) -> Result:
    return runner.invoke(cli, ["collective", *arguments])


def test_prints_a_row_a_size(runner: CliRunner) -> None:
    result = run(runner, *POD, "--bytes", "1MiB..8MiB", "--algo", "ring", "--proto", "simple")
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[0].startswith("all_reduce on 64 ranks of h100_superpod, nccl: 8 domains")
    head = next(number for number, line in enumerate(lines) if line.startswith("size"))
    assert lines[head].split()[:3] == ["size", "time", "us"]
    rows = lines[head + 1 : head + 5]
    assert [line.split()[0] for line in rows] == ["1", "2", "4", "8"]
    assert all("Ring    Simple" in line for line in rows)


def test_csv_and_json_agree(runner: CliRunner) -> None:
    text = run(runner, *POD, "--bytes", "1KiB,1GiB", "--format", "csv").output
    rows = list(csv.DictReader(text.splitlines()))
    listed = json.loads(run(runner, *POD, "--bytes", "1KiB,1GiB", "--format", "json").output)
    assert [int(row["size_bytes"]) for row in rows] == [1024, 2**30]
    for row, entry in zip(rows, listed, strict=True):
        assert float(row["time_us"]) == entry["time_us"]
        busbw = entry["size_bytes"] / entry["time_us"] / 1e3 * 2 * 63 / 64
        assert entry["busbw_gb_per_s"] == pytest.approx(busbw)


@pytest.mark.parametrize(
    "spec",
    [
        "all_reduce:1GiB:ranks=0-511:8",
        "flows:200:seed=1:bytes=64MiB",
        "all_to_all:1GiB:ranks=0-127",
    ],
)
def test_traffic_beside_slows(runner: CliRunner, spec: str) -> None:
    text = run(runner, *POD, "--bytes", "1GiB", "--background", spec, "--format", "json").output
    (row,) = json.loads(text)
    assert row["slowdown"] > 1.1
    assert row["shared_us"] == pytest.approx(row["time_us"] * row["slowdown"])


def test_traffic_elsewhere_does_not(runner: CliRunner) -> None:
    spec = "all_reduce:1GiB:ranks=512-575"
    text = run(runner, *POD, "--bytes", "1GiB", "--background", spec, "--format", "json").output
    assert json.loads(text)[0]["slowdown"] == pytest.approx(1.0)


NCCL_TESTS = """# nThread 1 nGpus 8
#  size  count  type redop root  time  algbw busbw #wrong  time algbw busbw #wrong
#   (B)                          (us) (GB/s) (GB/s)        (us)
1048576 262144 float sum -1 25.40 41.28 72.24 0 25.10 41.8 73.1 0
536870912 134217728 float sum -1 2111.1 254.31 445.04 0 2110.0 254.4 445.3 0
# Avg bus bandwidth    : 258.6
"""


def test_against_nccl_tests(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    file.write_text(NCCL_TESTS)
    result = run(runner, "--topo", "h100_nvl8", "--against", str(file))
    assert result.exit_code == 0, result.output
    assert "1 MiB" in result.output
    assert "512 MiB" in result.output
    assert "median error" in result.output


def test_against_runs_of_several_operations(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    ranks = "#  Rank  0 Group  0 Pid 1 on a\n#  Rank  3 Group  0 Pid 4 on a\n"
    gather = NCCL_TESTS.replace("25.40", "31.40").replace("sum", "none")
    file.write_text(f"./all_reduce_perf\n{NCCL_TESTS}./all_gather_perf -g 4\n{ranks}{gather}")
    against = ("--topo", "h100_nvl8", "--against", str(file))
    result = run(runner, *against)
    assert ("25.40" in result.stdout, "31.40" in result.stdout) == (True, False)
    assert not result.stderr
    result = run(runner, *against, "--op", "all_gather")
    assert ("25.40" in result.stdout, "31.40" in result.stdout) == (False, True)
    assert "is of 4 ranks, simulated are 8; choose them with --chips" in result.stderr
    result = run(runner, *against, "--op", "all_to_all")
    assert result.exit_code == 2
    assert "holds all_reduce, all_gather, not all_to_all; add --op all_reduce" in result.output


@pytest.mark.parametrize(
    "line",
    [
        "1024 256 float sum -1 12.34 0.08 0.15 0 12.1 0.08 0.15 0",
        "1024 256 float sum 12.34 0.08 0.15 0e+00 12.1 0.08 0.15 0e+00",
        "1024 32 float none -1 12.34 0.08 0.15 0 12.1 0.08 0.15 N/A",
        "1024 32 float 12.34 0.08 0.15 0 12.1 0.08 0.15 0",
        "1024 256 float sum 0 12.34 0.08 0.15 N/A 12.1 0.08 0.15 N/A",
    ],
)
def test_rows_of_all_versions_of_nccl_tests(line: str) -> None:
    (row,) = parse_nccl_tests(line, "file")
    assert (row.size_bytes, row.time_us) == (1024, 12.34)


def test_draws_a_curve(runner: CliRunner) -> None:
    result = run(runner, *POD, "--bytes", "1MiB..1GiB", "--plot", "curve.svg")
    assert result.exit_code == 0, result.output
    text = Path("curve.svg").read_text()
    assert text.startswith("<svg")
    assert text.count("<title>") == 1 + 11


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--op", "allreduce"], "did you mean 'all_reduce'?"),
        (["--algo", "rign"], "did you mean 'Ring'?"),
        (["--proto", "LL12"], "did you mean 'LL128'?"),
        (["--library", "ncl"], "did you mean 'nccl'?"),
        (["--algo", "nvls", "--topo", "a100_nvl8"], "needs switches that reduce"),
        (["--algo", "nvlstree"], "needs more than one domain"),
        (["--algo", "tree", "--op", "all_gather"], "Tree with any protocol does not do all_gather"),
        (["--algo", "ring", "--op", "all_to_all"], "all_to_all can use Direct"),
        (["--library", "trtllm_custom", "--op", "all_gather"], "does all_reduce"),
        (["--library", "trtllm_custom", "--algo", "ring"], "chooses its algorithm itself"),
        (["--library", "hccl"], "no constants of HCCL"),
        (["--library", "hccl", "--topo", "ascend_910c_8", "--algo", "hdd"], "did you mean 'HD'?"),
        (["--topo", "ascend_910c_8", "--proto", "LL"], "has no protocols"),
        (["--chips", "9"], "h100_nvl8 has 8 chips"),
        (["--ranks", "0-8"], "the machine has devices 0 to 7"),
        (["--ranks", "7-0"], "runs backwards"),
        (["--ranks", "0,0"], "two ranks on one device"),
        (["--ranks", "0-3", "--chips", "4"], "exclude each other"),
        (["--bytes", "1Gb"], "in bits"),
        (["--bytes", "400 Mbit"], "in bits"),
        (["--bytes", "1024"], "not a size"),
        (["--bytes", "1GiB..1MiB"], "from the smaller to the larger"),
        (["--bytes", "2 B"], "smaller than one element"),
        (["--bytes", "1 B..64 PB,1 B..64 PB", "--dtype", "int8"], "more than 64 sizes"),
        (["--top-k", "8"], "--top-k has no effect on all_reduce"),
        (["--op", "moe_dispatch", "--top-k", "300"], "there are 256 experts"),
        (["--background", "flows"], "write all_reduce:1GiB"),
        (["--background", "flows:x"], "write flows:200"),
        (["--background", "all_reduce:1GiB:rank=0-3"], "did you mean 'ranks'?"),
        (["--background", "allreduce:1GiB"], "did you mean 'all_reduce'?"),
        (["--plot", "curve.gif"], "the ending must be"),
        (["--against", "absent.txt"], "cannot be read"),
    ],
)
def test_mistakes_are_explained(runner: CliRunner, arguments: list[str], words: str) -> None:
    topo = [] if "--topo" in arguments else ["--topo", "h100_nvl8"]
    result = run(runner, *topo, *arguments)
    text = result.output + str(result.exception or "")
    assert result.exit_code != 0
    assert words in text
    assert "Traceback" not in text


def test_an_empty_file_of_nccl_tests(runner: CliRunner, tmp_path: Path) -> None:
    file = tmp_path / "out.txt"
    file.write_text("nothing here\n")
    result = run(runner, "--topo", "h100_nvl8", "--against", str(file))
    assert "no rows of measured collectives; tried: nccl-tests" in str(result.exception)


def test_sizes_and_ranks() -> None:
    assert parse_sizes("1KiB..4KiB,1 MB") == [1024, 2048, 4096, 1_000_000]
    assert parse_sizes("10 B", 4) == [8]
    assert parse_ranks("0-16:8,3", 17) == [0, 8, 16, 3]


def test_a_pod_grows_to_the_chips_asked_for(runner: CliRunner) -> None:
    line = "collective --topo h100_superpod --chips 2048 --bytes 1GiB..1GiB"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 0, result.output
    assert "on 2,048 ranks of h100_superpod" in result.output


def test_bytes_for_bits_are_noticed(runner: CliRunner) -> None:
    Path("pod.yaml").write_text(
        "title: mine\nhost: h100_nvl8\nhosts: 4\nboard: {nic_bandwidth: 400 GB/s}\n"
        "fabric: {kind: rail_tree, technology: IB, ports: 64, hosts_per_leaf: 32}\n"
        "sources: {all: test}\n"
    )
    result = runner.invoke(cli, ["collective", "--topo", "./pod.yaml", "--bytes", "1MiB..1MiB"])
    assert result.exit_code == 0, result.output
    assert "3200 Gb/s a port" in result.stderr
    assert "if 400 Gb/s was meant (= 50 GB/s)" in result.stderr
