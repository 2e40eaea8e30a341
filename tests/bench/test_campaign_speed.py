"""Speed of a whole training run, in CPU seconds: run with ``pytest -m bench -s tests/bench``."""

from __future__ import annotations

import time

import numpy as np
import pytest

from cluster_sim.specs.campaign import Campaign, Evaluation, Failures, FleetName, LearningPhase
from cluster_sim.training.campaign import Site, close, prepare_campaign
from cluster_sim.training.campaign_play import play
from cluster_sim.training.campaign_schedule import StepFacts

pytestmark = pytest.mark.bench


@pytest.mark.parametrize("fleet", ["llama3_h100", "rsc1"])
def test_256_days_on_16384_chips(fleet: FleetName) -> None:
    site = Site(chip="h100_sxm", hosts=2048, chips_per_host=8, replicas=128, parameters=405e9)
    campaign = Campaign(
        tokens=256 * 86400 / 5.0,
        failures=Failures(fleet=fleet),
        evaluation=Evaluation(every_steps=500, time=60.0),
    )
    phase = LearningPhase(global_batch=1, seq_len=1)
    made = prepare_campaign(campaign, site, lambda *_: StepFacts(step_s=5.0), phase)
    best = 1e9
    for seed in range(5):
        started = time.process_time()
        one = close(made, play(made.schedule, made.rules, np.random.default_rng(seed)))
        best = min(best, time.process_time() - started)
    print(f"{fleet}: {one.days:.0f} days, {one.interruptions} failures: {best * 1e3:.0f} ms")
    assert best < 0.1
