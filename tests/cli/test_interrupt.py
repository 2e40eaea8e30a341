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


@pytest.mark.parametrize("segments", [100, 5000])
def test_an_interrupted_search_writes_nothing(
    runner: CliRunner, monkeypatch: pytest.MonkeyPatch, segments: int
) -> None:
    interrupt_after(monkeypatch, segments)
    result = runner.invoke(cli, LINE.split())
    assert result.exit_code == 130
    assert "nothing to write" in result.stderr
    assert not list(Path.cwd().rglob("summary.csv"))
