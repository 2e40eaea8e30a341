"""Laws of the steady state in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from scipy import stats

from cluster_sim.kernels.layout import Layout, recipe
from cluster_sim.perf.steady import (
    compound,
    gamma_shares,
    mean_context,
    most_of,
    steady_state,
    typical,
)
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_workload
from cluster_sim.specs.workload import Lengths

TAIL = Lengths(mean=1500.0, cv=1.2, max=16_000)


@pytest.mark.parametrize("ranks", [1, 2, 8, 64])
@pytest.mark.parametrize("mean", [0.02, 0.7, 9.0, 60.0])
def test_the_largest_of_poisson_numbers(ranks: int, mean: float) -> None:
    drawn = np.random.default_rng(0).poisson(mean, (20_000, ranks)).max(axis=1)
    error = 4 * float(drawn.std()) / math.sqrt(len(drawn)) + 1e-3
    assert most_of(ranks, mean) == pytest.approx(float(drawn.mean()), abs=error)


@pytest.mark.parametrize("shape", [0.8, 3.0, 40.0, 1e6])
def test_the_tail_is_that_of_a_gamma_variable(shape: float) -> None:
    gamma = stats.gamma(shape)
    skew = 2 / math.sqrt(shape)
    for share in (0.3, 0.7, 0.9, 0.99, 0.999):
        most = float(gamma.ppf(share))
        found = gamma_shares(most, (shape, shape, skew * shape**1.5), [1])
        assert found == pytest.approx(share, abs=0.006)
        mirrored = gamma_shares(-most, (-shape, shape, -skew * shape**1.5), [1])
        assert mirrored == pytest.approx(1 - share, abs=0.006)
        four = gamma_shares(most / 4, (shape / 4, shape / 4, skew * shape**1.5 / 4), [4])
        assert four == pytest.approx(found, rel=1e-9)


@pytest.mark.parametrize("gaps", [0.25, 1.0, 2.0])
def test_the_moments_of_a_compound_sum(gaps: float) -> None:
    """A long window of renewals with Gamma gaps, each with a short part or, seldom, a long one."""
    parts, window, rng = [*[0.1] * 19, 6.0], 400.0, np.random.default_rng(0)
    sums = []
    for _ in range(12_000):
        at = np.cumsum(rng.gamma(1 / gaps, gaps, 700)) - rng.random() * 20
        sums.append(rng.choice(parts, int(((at > 0) & (at < window)).sum())).sum())
    mean, variance, third = (window * moment for moment in compound(parts, gaps))
    assert np.mean(sums) == pytest.approx(mean, rel=0.01)
    assert np.var(sums) == pytest.approx(variance, rel=0.05)
    noise = 3 * math.sqrt(15 / len(sums)) * variance**1.5  # three sigma of a third moment
    assert noise < 0.6 * third
    assert stats.moment(sums, 3) == pytest.approx(third, abs=noise)


def test_a_decoding_sequence_is_in_a_long_answer() -> None:
    """Steps meet answers in proportion to their lengths, so the mean context exceeds half the mean
    answer when lengths vary.
    """
    prompts = Lengths(fixed=100)
    assert mean_context(prompts, Lengths(fixed=400)) == 300
    answers = np.array(typical(TAIL))
    contexts = np.concatenate([100 + np.arange(n) + 0.5 for n in answers])
    assert mean_context(prompts, TAIL) == pytest.approx(contexts.mean(), rel=1e-9)
    assert mean_context(prompts, TAIL) > 100 + 1.4 * TAIL.average / 2


@pytest.mark.parametrize("rate", [3, 5, 6, 6.8])
def test_the_closed_form_keeps_what_a_run_keeps(h200: TopologyInput, rate: float) -> None:
    """One replica of TP2 under a quarter of a router's stream."""
    changes = ["plan.tp=2", "plan.replicas=1", f"workload.arrivals.rate={rate} requests/s"]
    job = load_workload(
        "llama70b", [*changes, "workload.arrivals.load=~", "workload.requests=4000"]
    )
    arrivals = dataclasses.replace(job.workload.arrivals, cv=0.5)
    job = dataclasses.replace(job, workload=dataclasses.replace(job.workload, arrivals=arrivals))
    row = simulate(h200, job).summary
    dtypes = recipe(h200.chip, job.model, "fp8", "fp8")
    price = compile_step_price(h200, job.model, job.software, Layout(2), dtypes)
    steady = steady_state(price, job, 1)
    batch = rate * steady.osl * row["tpot_mean_ms"] * 1e-3
    assert steady.tpot_s(batch) * 1e3 == pytest.approx(row["tpot_mean_ms"], rel=0.05)
    kept = steady.kept(round(batch), 50e-3)
    assert 1 - kept == pytest.approx(1 - row["slo_attainment"], rel=0.25, abs=0.005)
