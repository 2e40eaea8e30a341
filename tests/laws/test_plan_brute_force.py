"""The chosen plan against every other that fits, each of them played."""

from __future__ import annotations

import pytest
from plan_trials import SET_UPS, chosen, play

CLOSE = 0.97  # of the best of all


def name(set_up: tuple[str, str, tuple[str, ...]]) -> str:
    machine, workload, changes = set_up
    return "-".join([machine.replace(" ", ""), workload, *(c.split("=")[1] for c in changes)])


@pytest.mark.slow
@pytest.mark.parametrize("set_up", SET_UPS, ids=name)
def test_no_plan_beats_the_chosen_one(set_up: tuple[str, str, tuple[str, ...]]) -> None:
    choice, candidates = chosen(*set_up)
    trials = [play(*set_up, candidate) for candidate in candidates]
    best = max(trials, key=lambda trial: trial.requests_per_s)
    mine = next(trial for trial in trials if trial.candidate.layout == choice.layout)
    ranked = sorted((c.requests_per_s for c in candidates), reverse=True)
    rank = ranked.index(best.candidate.requests_per_s)
    print(
        f"{name(set_up)}: chose {choice.layout}, best of {len(trials)} is {best.candidate.layout} "
        f"(place {rank + 1} of the closed form), {mine.requests_per_s / best.requests_per_s:.3f}"
    )
    assert mine.requests_per_s >= CLOSE * best.requests_per_s


def test_the_set_ups_cover_models_and_machines() -> None:
    assert len(SET_UPS) >= 30
    assert len({machine for machine, _, _ in SET_UPS}) >= 7
