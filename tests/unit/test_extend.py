"""What the README says of adding a chip and a scheduler, done word by word."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cluster_sim import load_topology, load_workload, simulate
from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.serving.router import ROUTERS
from cluster_sim.serving.scheduler import SCHEDULERS, Chunk, Decision, View
from cluster_sim.specs.collective_fits import load_collective_fits
from cluster_sim.testing import check_scheduler

README = " ".join((ROOT / "README.md").read_text().split())
CHIPS, FITS = "topologies/chips", "topologies/chips/fits"
SHORT = ["workload.requests=60", "workload.arrivals={kind: open, rate: 8 requests/s}"]


def test_the_readme_says_what_is_done_here() -> None:
    for words in (
        "copy `topologies/chips/h200_sxm.yaml` and `topologies/chips/fits/h200_sxm.yaml`",
        "write `borrows: h200_sxm` into the latter",
        "run `--topo '8 x my_chip'`",
        "`cluster-sim check FILE` lists all problems",
        "write a function `decide(view) -> Decision`",
        "enter it in `SCHEDULERS`",
        "`cluster_sim.testing.check_scheduler` holds it to the contract",
    ):
        assert words in README, words


@pytest.mark.parametrize("how", ["copies both files", "borrows"])
def test_a_chip_is_added(runner: CliRunner, tmp_path: Path, how: str) -> None:
    (tmp_path / FITS).mkdir(parents=True)
    chip, fits = tmp_path / CHIPS / "my_chip.yaml", tmp_path / FITS / "my_chip.yaml"
    text = (ROOT / CHIPS / "h200_sxm.yaml").read_text()
    changed = re.sub(r"bandwidth: 4.8 TB/s", "bandwidth: 9.6 TB/s", text)
    assert changed != text
    chip.write_text(changed)
    if how == "borrows":
        fits.write_text("borrows: h200_sxm\n")
    else:
        shutil.copy(ROOT / FITS / "h200_sxm.yaml", fits)
    for file in (chip, fits):
        done = runner.invoke(cli, ["check", str(file)])
        assert done.exit_code == 0, done.output
    words = [
        "--workload",
        "llama70b",
        "--rate",
        "8",
        "--requests",
        "60",
        "--tp",
        "1",
        "--format",
        "csv",
    ]
    rows = [
        runner.invoke(cli, ["run", "--topo", topo, *words]) for topo in ("8 x my_chip", "h200_nvl8")
    ]
    assert [done.exit_code for done in rows] == [0, 0], rows[0].output
    tpot = [_column(done.stdout, "tpot_mean_ms") for done in rows]
    assert tpot[0] < 0.8 * tpot[1]  # twice the bandwidth


def _column(text: str, name: str) -> float:
    header, row = (line.split(",") for line in text.splitlines()[:2])
    return float(row[header.index(name)])


def test_a_chip_that_borrows_has_collectives_too(runner: CliRunner, tmp_path: Path) -> None:
    (tmp_path / FITS / "collectives").mkdir(parents=True)
    shutil.copy(ROOT / CHIPS / "h200_sxm.yaml", tmp_path / CHIPS / "my_chip.yaml")
    shutil.copy(ROOT / FITS / "h200_sxm.yaml", tmp_path / FITS / "my_chip.yaml")
    line = ["collective", "--topo", "8xmy_chip", "--bytes", "1GiB..1GiB", "--format", "csv"]
    refused = runner.invoke(cli, line)
    assert "write topologies/chips/fits/collectives/my_chip.yaml with 'borrows: h10" in str(
        refused.exception
    )
    own = tmp_path / FITS / "collectives" / "my_chip.yaml"
    own.write_text("borrows: h200_sxm\n")
    assert runner.invoke(cli, ["check", str(own)]).exit_code == 0
    mine, its = load_collective_fits("my_chip"), load_collective_fits("h200_sxm")
    assert (mine.chip, mine.link) == ("my_chip", its.link)
    theirs = runner.invoke(cli, [word.replace("8xmy_chip", "h200_nvl8") for word in line])
    times = [_column(done.stdout, "time_us") for done in (runner.invoke(cli, line), theirs)]
    assert times[0] == pytest.approx(times[1])


def decide(view: View) -> Decision:
    """One whole prompt a step while its answer fits, nothing ever evicted."""
    for prompt in view.prefilling:
        tokens = min(prompt.left, view.max_num_batched_tokens)
        return Decision((Chunk(prompt.request, tokens),), decode=False)
    for prompt in view.waiting():
        longest = prompt.left + prompt.computed + view.max_output_tokens
        room = view.total_blocks - view.reserved_blocks
        if view.running < view.max_num_seqs and view.blocks_for(longest) <= room:
            tokens = min(prompt.left, view.max_num_batched_tokens)
            return Decision((Chunk(prompt.request, tokens),), decode=False)
        break
    return Decision()


def test_a_scheduler_is_added(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"engine: scheduler: must be one of 'vllm_v1', .*got mine"):
        load_workload("llama70b", ["engine.scheduler=mine"])
    monkeypatch.setitem(SCHEDULERS, "mine", decide)
    check_scheduler(decide, 4)
    machine = load_topology("h200_nvl8")
    row = simulate(machine, load_workload("llama70b", ["engine.scheduler=mine", *SHORT])).summary
    other = simulate(machine, load_workload("llama70b", SHORT)).summary
    assert (row["scheduler"], row["finished"]) == ("mine", 60)
    assert row["ttft_mean_ms"] != other["ttft_mean_ms"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("extends: llama70b\nengine: {scheduler: mine}\n")
    assert load_workload("./mine.yaml").software.scheduler == "mine"
    (tmp_path / "soft.yaml").write_text("extends: vllm-0.19\ntitle: mine\nscheduler: mine\n")
    given = load_workload("llama70b", ["workload.software=./soft.yaml"])
    assert given.software.scheduler == "mine"
    # What only some schedulers read is left to the user's own.
    assert load_workload("llama70b", ["engine.scheduler=mine", "engine.new_token_ratio=0.5"])


def test_a_router_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    def busiest(_: int, outstanding: object) -> int:
        loads = list(outstanding)  # type: ignore[call-overload]
        return loads.index(max(loads))

    with pytest.raises(SpecError, match="plan.router: must be one of 'round_robin'"):
        load_workload("llama70b", ["plan.router=busiest"])
    monkeypatch.setitem(ROUTERS, "busiest", busiest)
    machine = load_topology("h200_nvl8")
    rows = [
        simulate(machine, load_workload("llama70b", [*SHORT, f"plan.router={name}"])).summary
        for name in ("busiest", "least_outstanding")
    ]
    assert rows[0]["tpot_mean_ms"] > rows[1]["tpot_mean_ms"]
