"""What the README says of adding things of one's own, done word by word in an empty folder."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from conftest import ROOT

from cluster_sim import load_topology, load_workload, simulate
from cluster_sim.cli import cli
from cluster_sim.errors import SpecError
from cluster_sim.serving.router import ROUTERS
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.specs.collective_fits import load_collective_fits
from cluster_sim.testing import check_scheduler

SECTION = (ROOT / "README.md").read_text().split("\n## Add your own\n")[1].split("\n## ")[0]
RECIPES = dict(part.split("\n", 1) for part in SECTION.split("\n### ")[1:])
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
CHIPS, FITS = "topologies/chips", "topologies/chips/fits"
SHORT = ["workload.requests=60", "workload.arrivals={kind: open, rate: 8 requests/s}"]
TABLES = (SCHEDULERS, ROUTERS)


def follow(title: str) -> list[str]:
    """Write the files of a recipe, run its lines, and give what they print."""
    printed = []
    for language, text in BLOCK.findall(RECIPES[title]):
        if language != "sh":
            path = Path(text.split("\n", 1)[0].removeprefix("# "))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
            continue
        for line in text.splitlines():
            program, *words = shlex.split(line)
            assert program in ("cluster-sim", "python")
            own = ["-m", "cluster_sim"] if program == "cluster-sim" else []
            done = subprocess.run(
                [sys.executable, *own, *words],
                capture_output=True,
                text=True,
                check=False,
                env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
            )
            assert done.returncode == 0, done.stderr
            printed.append(done.stdout)
    return printed


@pytest.fixture
def plugged() -> Iterator[Callable[[str], dict[str, Any]]]:
    """Runs the Python file of a recipe and gives its names; what it entered is forgotten."""
    kept = [dict(table) for table in TABLES]

    def run(title: str) -> dict[str, Any]:
        code = next(text for kind, text in BLOCK.findall(RECIPES[title]) if kind == "python")
        names: dict[str, Any] = {"__name__": "mine"}
        exec(compile(code, "mine.py", "exec"), names)
        return names

    yield run
    for table, before in zip(TABLES, kept, strict=True):
        table.clear()
        table.update(before)  # type: ignore[arg-type]


def test_every_recipe_is_followed_here() -> None:
    assert list(RECIPES) == re.findall(r'= follow\("(.*)"\)', Path(__file__).read_text())


def test_a_chip_is_added(runner: CliRunner) -> None:
    checked, page = follow("A chip")
    assert checked == f"{CHIPS}/my_chip.yaml: ok (chip)\n"
    assert "8 x My chip" in page
    assert "transferred from a relative" in " ".join(page.split())
    line = [
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
    train = ["--workload", "llama3_8b_train", "--global-batch", "8", "--quiet"]
    exchange = ["--bytes", "1GiB..1GiB", "--format", "csv"]

    def said(*words: str) -> str:
        done = runner.invoke(cli, list(words))
        assert done.exit_code == 0, done.exception
        return done.stdout

    def tpot(topo: str) -> float:
        return _column(said("run", "--topo", topo, *line), "tpot_mean_ms")

    def reduced(topo: str) -> float:
        return _column(said("collective", "--topo", topo, *exchange), "time_us")

    borrowed = tpot("8 x my_chip")
    assert borrowed < 0.8 * tpot("h200_nvl8")  # twice the bandwidth
    for own in ("", FITS, f"{FITS}/collectives"):  # files of its own, copied one by one
        if own:
            Path(own).mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / own / "h200_sxm.yaml", f"{own}/my_chip.yaml")
            said("check", f"{own}/my_chip.yaml")
        assert tpot("8 x my_chip") == borrowed
        assert reduced("8 x my_chip") == pytest.approx(reduced("h200_nvl8"))
        said("run", "--topo", "8 x my_chip", *train)


@pytest.mark.parametrize("how", ["borrows", "copied", "copied, and borrows"])
def test_a_chip_that_stands_alone_has_curves(runner: CliRunner, how: str) -> None:
    Path(FITS).mkdir(parents=True)
    shutil.copy(ROOT / CHIPS / "h200_sxm.yaml", f"{CHIPS}/my_chip.yaml")
    line = [
        "run",
        "--topo",
        "8xmy_chip",
        "--workload",
        "llama8b",
        "--requests",
        "60",
        "--rate",
        "8",
        "--tp",
        "1",
    ]
    refused = runner.invoke(cli, line)
    assert f"write {FITS}/my_chip.yaml, for example with 'borrows:" in str(refused.exception)
    whole = (ROOT / FITS / "h200_sxm.yaml").read_text() if "copied" in how else ""
    more = "borrows: h200_sxm\n" if "borrows" in how else ""
    Path(f"{FITS}/my_chip.yaml").write_text(f"{whole}\n{more}")
    for words in (["check", f"{FITS}/my_chip.yaml"], line):
        done = runner.invoke(cli, words)
        assert done.exit_code == 0, done.exception


def _column(text: str, name: str) -> float:
    header, row = (line.split(",") for line in text.splitlines()[:2])
    return float(row[header.index(name)])


def test_a_chip_with_curves_alone_says_how_to_get_collectives(runner: CliRunner) -> None:
    Path(FITS, "collectives").mkdir(parents=True)
    shutil.copy(ROOT / CHIPS / "h200_sxm.yaml", f"{CHIPS}/my_chip.yaml")
    shutil.copy(ROOT / FITS / "h200_sxm.yaml", f"{FITS}/my_chip.yaml")
    line = ["collective", "--topo", "8xmy_chip", "--bytes", "1GiB..1GiB", "--format", "csv"]
    refused = runner.invoke(cli, line)
    own = Path(FITS, "collectives", "my_chip.yaml")
    assert f"write {own} with 'borrows: h10" in str(refused.exception)
    own.write_text("borrows: h200_sxm\n")
    assert runner.invoke(cli, ["check", str(own)]).exit_code == 0
    mine, its = load_collective_fits("my_chip"), load_collective_fits("h200_sxm")
    assert (mine.chip, mine.link) == ("my_chip", its.link)
    theirs = runner.invoke(cli, [word.replace("8xmy_chip", "h200_nvl8") for word in line])
    times = [_column(done.stdout, "time_us") for done in (runner.invoke(cli, line), theirs)]
    assert times[0] == pytest.approx(times[1])


@pytest.mark.usefixtures("runner")
def test_a_model_is_added() -> None:
    shown, page = follow("A model")
    assert "computed: 9.78B parameters" in shown
    assert "llama8b on h200_nvl8: My model" in page
    given = load_workload("llama8b", ["workload.model=my_model"])
    assert (given.model.title, given.model.layers) == ("My model", 40)


@pytest.mark.usefixtures("runner")
def test_a_scheduler_is_added(plugged: Callable[[str], dict[str, Any]]) -> None:
    with pytest.raises(SpecError, match=r"engine: scheduler: must be one of 'vllm_v1', .*got few"):
        load_workload("llama70b", ["engine.scheduler=few"])
    (page,) = follow("A scheduler")
    assert "llama70b on h200_nvl8" in page
    check_scheduler(plugged("A scheduler")["few"], 4)
    machine = load_topology("h200_nvl8")
    row = simulate(machine, load_workload("llama70b", ["engine.scheduler=few", *SHORT])).summary
    other = simulate(machine, load_workload("llama70b", SHORT)).summary
    assert (row["scheduler"], row["finished"]) == ("few", 60)
    assert row["ttft_mean_ms"] != other["ttft_mean_ms"]
    Path("mine.yaml").write_text("extends: llama70b\nengine: {scheduler: few}\n")
    assert load_workload("./mine.yaml").software.scheduler == "few"
    Path("soft.yaml").write_text("extends: vllm-0.19\ntitle: mine\nscheduler: few\n")
    given = load_workload("llama70b", ["workload.software=./soft.yaml"])
    assert given.software.scheduler == "few"
    # What only some schedulers read is left to the user's own.
    assert load_workload("llama70b", ["engine.scheduler=few", "engine.new_token_ratio=0.5"])


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
