"""The fast path gives the bytes of the step-by-step reference: every time, every count, every order."""

from __future__ import annotations

import math

import pytest
from synthetic import random_case

from cluster_sim.serving.records import StepCounts, StepLog
from cluster_sim.serving.service import Run, serve

SLOW = pytest.mark.slow
DEFAULT_CASES, ALL_CASES = 40, 400


def facts(run: Run) -> dict[str, object]:
    """Everything a result is made of, in comparable form; NaN becomes None."""

    def plain(values: list[float]) -> list[float | None]:
        return [None if math.isnan(value) else value for value in values]

    def of_log(log: StepLog) -> tuple[object, ...]:
        return (
            log.end_s.tolist(),
            log.emitted.tolist(),
            log.chained.tolist(),
            sorted(log.lone_gaps),
        )

    def of_counts(counts: StepCounts) -> dict[str, object]:
        names = [name for name in StepCounts.__slots__ if name != "busy_s"]  # type: ignore[attr-defined]
        return {name: getattr(counts, name) for name in names}

    outcomes = run.outcomes
    return {
        "arrival": outcomes.arrival_s,
        "first": plain(outcomes.first_s),
        "finish": plain(outcomes.finish_s),
        "replica": outcomes.replica,
        "preemptions": outcomes.preemptions,
        "status": outcomes.status,
        "logs": [of_log(log) for log in run.logs],
        "counts": [of_counts(counts) for counts in run.counts],
        "end": run.end_s,
    }


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(seed, marks=SLOW if seed >= DEFAULT_CASES else ())
        for seed in range(ALL_CASES)
    ],
)
def test_fast_path_equals_step_by_step(seed: int) -> None:
    service, requests = random_case(seed)
    reference = facts(serve(service, requests, step_by_step=True))
    fast = facts(serve(service, requests))
    for name, value in reference.items():
        assert fast[name] == value, name


def test_the_cases_reach_every_mechanism() -> None:
    preempted = rejected = several = closed = static = 0
    for seed in range(ALL_CASES):
        service, requests = random_case(seed)
        run = serve(service, requests)
        preempted += sum(run.outcomes.preemptions) > 0
        rejected += any(status > 1 for status in run.outcomes.status)
        several += service.replicas > 1
        closed += service.concurrency is not None
        static += service.spec.scheduler.__name__ == "static"
    assert min(preempted, rejected, several, closed, static) >= 30
