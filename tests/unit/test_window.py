"""The steady window: where it begins, what is counted in it, and how sure a mean over it is."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from cluster_sim.serving.records import StepLog
from cluster_sim.window import (
    BATCHES,
    Window,
    prompt_tokens_in,
    relative_error,
    student_t,
    tokens_in,
    usual_stay_s,
    warm_up_s,
)


def log_of(ends: list[float], tokens: list[int]) -> StepLog:
    log = StepLog()
    log.end_s.extend(ends)
    log.emitted.extend(tokens)
    return log


@pytest.mark.parametrize("freedom", [4, 5, 8, 19, 100])
def test_students_t(freedom: int) -> None:
    assert student_t(freedom) == pytest.approx(stats.t.ppf(0.975, freedom), rel=0.005)


def test_tokens_are_counted_after_the_one_edge_up_to_the_other() -> None:
    log = log_of([1.0, 2.0, 3.0, 4.0], [1, 10, 100, 1000])
    log.prompt_s.extend([2.0, 4.0])
    log.prompt_tokens.extend([5, 7])
    assert tokens_in([log, log], np.array([1.0, 3.0, 4.0])).tolist() == [220.0, 2000.0]
    assert prompt_tokens_in([log], np.array([0.0, 2.0, 3.9])).tolist() == [5.0, 0.0]
    assert tokens_in([StepLog()], np.array([0.0, 1.0])).tolist() == [0.0]


@pytest.mark.parametrize("warm", [0.0, 10.0, 30.0])
def test_the_warm_up_ends_where_the_load_is_level(warm: float) -> None:
    rng = np.random.default_rng(4)
    ends = np.arange(1, 4001) * 0.05
    level = np.minimum(1.0, (ends + 1e-9) / warm) if warm else np.ones(len(ends))
    tokens = rng.poisson(40 * level)
    found = warm_up_s([log_of(ends.tolist(), tokens.tolist())], Window(0.0, 200.0))
    assert 0.6 * warm <= found <= 1.3 * warm + 20


def test_half_widths_cover_the_mean_in_nineteen_of_twenty() -> None:
    rng = np.random.default_rng(2)
    # What further neighbours have in common is not counted, so that memory costs some cover.
    for memory, least in ((0.0, 0.93), (0.3, 0.85)):
        covered = 0
        for _ in range(400):
            y = np.empty(BATCHES)
            last = rng.standard_normal()
            for i in range(BATCHES):
                last = memory * last + math.sqrt(1 - memory**2) * rng.standard_normal()
                y[i] = 10 + last
            error = relative_error(y)
            assert error is not None
            covered += abs(y.mean() - 10) <= error * y.mean()
        assert covered / 400 >= least


def test_no_error_without_anything_to_tell() -> None:
    assert relative_error(np.array([3.0])) is None
    assert relative_error(np.array([np.nan, np.nan])) is None
    assert relative_error(np.zeros(8)) is None
    assert relative_error(np.full(8, 2.0)) == 0.0


def test_who_is_found_in_service_stays_longer_than_the_mean() -> None:
    stays = np.random.default_rng(1).exponential(2.0, 100_000)
    assert usual_stay_s(stays) == pytest.approx(4.0, rel=0.03)
    assert usual_stay_s(np.array([np.nan])) == 0.0
