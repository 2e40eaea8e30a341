"""Ctrl-C keeps what is finished, marked partial; before that nothing is written."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from cluster_sim.cli import cli
from cluster_sim.serving import replica

LINE = "run --topo h200_nvl8 --workload llama70b --requests 2000"


def interrupt_after(monkeypatch: pytest.MonkeyPatch, segments: int) -> None:
    """Raise KeyboardInterrupt inside the given segment of the run."""
    original, seen = replica.FastReplica.begin, []

    def begin(self: replica.FastReplica, horizon_s: float) -> None:
        seen.append(1)
        if len(seen) == segments:
            raise KeyboardInterrupt
        original(self, horizon_s)

    monkeypatch.setattr(replica.FastReplica, "begin", begin)


def test_finished_requests_are_written(runner: CliRunner, monkeypatch: pytest.MonkeyPatch) -> None:
    interrupt_after(monkeypatch, 3000)
    result = runner.invoke(cli, [*LINE.split(), "--rate", "10"])
    assert result.exit_code == 130
    assert "partial" in result.stdout
    folder = next(Path("results").iterdir())
    row = next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert row["partial"] == "true"
    assert 0 < int(row["finished"]) < 2000
    assert json.loads((folder / "manifest.json").read_text())["run_id"] == row["run_id"]


def test_turns_that_have_not_come_are_no_requests_of_the_window(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    interrupt_after(monkeypatch, 1500)
    line = "run --topo h200_nvl8 --workload mixed --requests 1500 --rate 4"
    result = runner.invoke(cli, line.split())
    assert result.exit_code == 130, result.output
    folder = next(Path("results").iterdir())
    rows = list(csv.DictReader((folder / "requests.csv").read_text().splitlines()))
    waiting = [row for row in rows if not row["arrival_s"]]
    assert waiting
    assert all(row["status"] == "running" and int(row["after"]) >= 0 for row in waiting)
    row = next(csv.DictReader((folder / "summary.csv").read_text().splitlines()))
    assert 0 < float(row["slo_attainment"]) <= 1


@pytest.mark.parametrize("segments", [100, 3000])
def test_an_interrupted_search_writes_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    interrupt_after(monkeypatch, segments)
    result = runner.invoke(cli, LINE.replace(" --requests 2000", "").split())
    assert result.exit_code == 130
    assert "nothing to write" in result.stderr
    assert not list(Path.cwd().rglob("summary.csv"))


def test_an_interrupted_run_does_not_replace_a_complete_one(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch
) -> None:
    line = "run --topo h200_nvl8 --workload llama70b --rate 8 --requests 300"
    assert runner.invoke(cli, line.split()).exit_code == 0
    (whole,) = Path("results").iterdir()
    before = (whole / "summary.csv").read_bytes()
    interrupt_after(monkeypatch, 300)
    assert runner.invoke(cli, line.split()).exit_code == 130
    assert (whole / "summary.csv").read_bytes() == before
    names = {path.name for path in Path("results").iterdir()}
    assert names == {whole.name, f"{whole.name}-partial"}
