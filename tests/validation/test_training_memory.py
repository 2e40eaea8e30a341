"""Memory against measured peaks: nothing in it was fitted."""

from __future__ import annotations

import numpy as np

from cluster_sim.specs.find import packaged_root
from cluster_sim.studies import validate_training
from cluster_sim.studies.validate_cases import Case, read_cases
from cluster_sim.studies.validate_jobs import SkippedError
from cluster_sim.training.job import make_job
from cluster_sim.training.memory import Memory, memory_of
from cluster_sim.training.priced import price

CASES = read_cases([packaged_root() / "cases" / "training.csv.gz"])


def memory(case: Case) -> Memory:
    run = validate_training.run_of(case)
    machine, network = validate_training.machine_of(run.chip, run.n_chips)
    job = make_job(machine, validate_training.input_of(run), network=network)
    return memory_of(price(job))


def test_measured_peaks() -> None:
    """43 peaks of a B200 as its allocator reports them: without context and fragmentation."""
    errors = []
    for case in CASES:
        peak = case.number("peak_memory_gib")
        if peak:
            full = memory(case).fullest
            errors.append((full.total - full.reserve) / 2**30 / peak - 1)
    assert len(errors) == 43
    assert np.median(np.abs(errors)) < 0.03
    assert np.max(np.abs(errors)) < 0.12


def test_runs_that_state_their_recomputation_fit() -> None:
    """Runs that were measured fit, and the largest that do are close to full."""
    shares = []
    for case in CASES:
        if "primary" not in case.flags or not case.text("recompute"):
            continue
        try:
            held = memory(case)
        except SkippedError:
            continue
        shares.append(held.fullest.total / held.capacity)
    assert len(shares) > 150
    assert max(shares) < 1.005
    assert np.quantile(shares, 0.9) > 0.8
