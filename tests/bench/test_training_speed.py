"""Speed of training steps; run with
``pytest -m bench --benchmark-enable -s tests/bench/test_training_speed.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pytest
from training_steps import random_work

from cluster_sim.training.events import play as play_events
from cluster_sim.training.pipeline import Times, play, player
from cluster_sim.training.schedule import schedule

pytestmark = pytest.mark.bench


def cpu_s(run: Callable[[], object], times: int = 5) -> float:
    """The least CPU time of a run."""
    taken = []
    for _ in range(times):
        begun = time.process_time()
        run()
        taken.append(time.process_time() - begun)
    return min(taken)


def test_a_step_of_405b_as_events() -> None:
    """PP16, 128 micro-batches, with sends, gradients, gathers and optimizers: 4,096 operations."""
    work = random_work(schedule("1f1b", 16, 128), 1)
    taken_s = cpu_s(lambda: play_events(work))
    print(f"\nPP16 x 128 as events: {taken_s * 1e3:.0f} ms")
    assert taken_s < 0.1


def test_a_small_pipeline_in_closed_form() -> None:
    laid_out = player(schedule("1f1b", 8, 32))
    draw = np.random.default_rng(0).uniform(1, 2, (5, 8))
    times = Times(
        forward_s=draw[0],
        backward_s=draw[1],
        weight_s=draw[2],
        send_forward_s=draw[3, 1:] / 10,
        send_backward_s=draw[4, 1:] / 10,
    )

    def run() -> None:
        for _ in range(100):
            play(laid_out, times)

    taken_s = cpu_s(run) / 100
    print(f"\nPP8 x 32 in closed form: {taken_s * 1e6:.0f} us")
    assert taken_s < 1e-3


def test_jitter_of_128_ranks() -> None:
    laid_out = player(schedule("1f1b", 16, 128))
    draw = np.random.default_rng(0).uniform(1, 2, (3, 16, 128, 128))
    times = Times(forward_s=draw[0], backward_s=draw[1], weight_s=draw[2], send_forward_s=0.1)
    taken_s = cpu_s(lambda: play(laid_out, times), 3)
    print(f"\nPP16 x 128 on 128 ranks: {taken_s:.2f} s")
    assert taken_s < 3


def test_a_schedule_is_laid_out() -> None:
    taken_s = cpu_s(lambda: player(schedule("1f1b", 16, 128)))
    small_s = cpu_s(lambda: player(schedule("1f1b", 8, 32)))
    print(f"\nlaying out PP16 x 128: {taken_s * 1e3:.0f} ms, PP8 x 32: {small_s * 1e3:.1f} ms")
    assert taken_s < 0.1
