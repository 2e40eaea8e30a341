"""Machines on the command line: inline, in part, incomplete."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.errors import ClusterSimError

TAIL = "--workload llama70b --rate 2 --requests 20"


def output(runner: CliRunner, line: str) -> str:
    result = runner.invoke(cli, shlex.split(line))
    assert result.exit_code == 0, result.output
    return result.stdout


def row(runner: CliRunner, line: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(output(runner, f"run {line} {TAIL} --quiet --format json"))
    return found


def fail(runner: CliRunner, line: str) -> str:
    result = runner.invoke(cli, shlex.split(line))
    assert not list(Path.cwd().rglob("summary.csv"))
    if isinstance(result.exception, ClusterSimError):
        return str(result.exception)
    assert result.exit_code == 2, result.output
    return result.output


def test_an_inline_topology_runs_under_a_name_that_reads_back(runner: CliRunner) -> None:
    page = output(runner, f"run --topo '4 x H200-SXM' {TAIL}")
    assert "--topo '4 x H200-SXM' " in page
    (folder,) = Path("results").iterdir()
    assert folder.name.startswith("llama70b@4xh200_sxm-")
    assert "TPOT" in output(runner, "explain --topo 4xh200_sxm --workload llama70b")


def test_eight_inline_are_the_packaged_host(runner: CliRunner) -> None:
    inline, packaged = (row(runner, f"--topo {t}") for t in ("8xh200_sxm", "h200_nvl8"))
    own = {"run_id", "topology", "config_hash"}
    assert {k: v for k, v in inline.items() if k not in own} == {
        k: v for k, v in packaged.items() if k not in own
    }


def test_a_package_of_two_devices_counts_once(runner: CliRunner) -> None:
    found = row(runner, "--topo cloudmatrix384 --chips 8 --plan tp8x2")
    assert (found["n_chips"], found["chips_used"], found["devices"]) == (8, 8, 16)


def test_a_part_of_a_machine_pays_for_the_hosts_that_it_fills(runner: CliRunner) -> None:
    part, node = (
        row(runner, f"--topo {name} --plan tp8x1")
        for name in ("cloudmatrix384 --chips 8", "ascend_910c_8")
    )
    assert part["power_w"] == pytest.approx(node["power_w"])


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (f"run --topo 4xascend_960 {TAIL}", "ascend_960: no bf16 peak is published"),
        (f"run --topo 2xrtx_pro_6000d {TAIL}", "it has no peak at all"),
        (f"run --topo 16xh100_sxm {TAIL} --tp 16", "those of 16xh100_sxm have 8; lower --tp"),
        (f"run --topo 12xh100_sxm-6perhost {TAIL} --plan tp4x3", "has room for 2 x tp=4, since no"),
        (f"run --topo h200_nvl {TAIL} --tp 8", "those of h200_nvl have 4"),
        (f"run --topo cloudmatrix384 {TAIL} --chips 385", "has 384 chips"),
        (f"run --topo '4 x h300' {TAIL}", "no chip named 'h300'"),
        (f"explain --topo '0 x h200_sxm' {TAIL}", "whole number from 1"),
        ("check 4xh100_sxm-0perhost", "chips per host must be a whole number"),
        ("show topology 'four x h200_sxm'", "write '4 x h200_sxm'"),
        (f"run --topo h200_nvl8 {TAIL} --set chip.tpd=5W", "did you mean 'tdp'"),
    ],
)
def test_what_cannot_run_says_why(runner: CliRunner, line: str, says: str) -> None:
    assert says in " ".join(fail(runner, line).split())


def test_a_missing_figure_can_be_given(runner: CliRunner) -> None:
    peak = "--set 'chip.peak.bf16=1000 TFLOP/s'"
    found = row(runner, f"--topo 4xascend_960 {peak}")
    assert found["finished"] == 20
    assert found["power_w"] is None
    assert found["j_per_output_token"] is None
    powers = "--set 'chip.tdp=900 W' --set 'chip.idle_power=150 W'"
    host = "--set 'topology.host_power=2 kW'"
    assert row(runner, f"--topo 4xascend_960 {peak} {powers} {host}")["power_w"] > 2000


def test_empty_power_is_explained(runner: CliRunner) -> None:
    page = " ".join(output(runner, f"run --topo 4xascend_950pr {TAIL}").split())
    assert "power and energy are empty: no TDP of Ascend 950PR" in page


def test_the_list_begins_with_names_and_marks_what_is_not_for_sale(runner: CliRunner) -> None:
    lines = output(runner, "list chips").splitlines()
    assert "h200_sxm" in lines
    marks = dict(line.split(None, 1) for line in lines if " " in line)
    assert marks["ascend_960"] == "roadmap, incomplete: no bf16 peak; no TDP"
    assert marks["b30a"] == "rumoured"


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("show chip h100_sxm", "# TPP 15,832"),
        ("show chip ascend_910c", "# 2 devices, each 64.00 GiB"),
        ("show chip ascend_910b", "# performance density 7.69"),
        ("show topology h200_nvl", "# a device of 2 sends the others 150 GB/s"),
        ("show topology '8 x h100_pcie'", "4 domains of 2 chips"),
    ],
)
def test_show_adds_what_follows(runner: CliRunner, line: str, says: str) -> None:
    assert says in output(runner, line)
