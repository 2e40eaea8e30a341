"""What is scored against measurements is what a run shows."""

from __future__ import annotations

import pytest

from cluster_sim.specs.find import packaged_root
from cluster_sim.studies import validate_training
from cluster_sim.studies.validate_cases import read_cases
from cluster_sim.studies.validate_jobs import SkippedError
from cluster_sim.train import train

FEW = 6


def test_a_scored_step_is_the_step_of_the_run() -> None:
    runs = {}
    for case in read_cases([packaged_root() / "cases" / "training.csv.gz"]):
        try:
            run = validate_training.run_of(case)
        except SkippedError:
            continue
        if run.plan.pp > 1 and run.n_chips <= 1024:
            runs.setdefault((run.model, run.chip), run)
    shown = 0
    for run in list(runs.values())[:FEW]:
        try:
            scored = validate_training.step(run).seconds
        except SkippedError:
            continue
        machine, _ = validate_training.machine_of(run.chip, run.n_chips)
        result, _ = train(machine, validate_training.input_of(run))
        assert result.summary["step_time_s"] == pytest.approx(scored, rel=1e-12)
        shown += 1
    assert shown >= 3
