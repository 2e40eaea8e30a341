"""The best plans of the closed form are played; the one that gives most runs."""

from __future__ import annotations

import dataclasses

import pytest

from cluster_sim.capacity import finalists
from cluster_sim.capacity.finalists import ADVANTAGE, CLOSE, play_finalists
from cluster_sim.capacity.sample import Sample
from cluster_sim.serving.candidate import Candidate
from cluster_sim.serving.generators import planned
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload


def _weighed(topology: str, workload: str, *changes: str) -> tuple[Choice, WorkloadInput]:
    machine = load_topology(topology)
    job = load_workload(workload, list(changes)).on(machine.chip)
    weighed = planned(job, None, block_tokens=job.software.memory.block_tokens)
    return resolve(machine, weighed), job


def _sample(_: Candidate) -> Sample:
    return None  # type: ignore[return-value]


@pytest.mark.parametrize(("advantage", "changes"), [(1.001, False), (1.2, True)])
def test_the_favourite_stays_unless_another_gives_clearly_more(
    monkeypatch: pytest.MonkeyPatch, advantage: float, changes: bool
) -> None:
    choice, job = _weighed("h100_nvl8", "mixtral_8x7b")
    ranked = choice.ranked(job)
    assert ranked[1].requests_per_s > CLOSE * ranked[0].requests_per_s
    assert (advantage > ADVANTAGE) is changes

    def played(candidate: Candidate, _: WorkloadInput, __: Sample) -> float:
        return 100.0 * (advantage if candidate.layout == ranked[1].layout else 1.0)

    monkeypatch.setattr(finalists, "_played", played)
    found = play_finalists(choice, job, _sample)
    assert found.layout == ranked[1 if changes else 0].layout
    assert found.replicas == ranked[1 if changes else 0].replicas
    seen = [c for c in found.candidates if c.played_requests_per_s is not None]
    assert len(seen) >= 2


def test_a_plan_that_stands_out_is_not_played() -> None:
    choice, job = _weighed("h200_nvl8", "llama70b")
    assert play_finalists(choice, job, _sample) is choice  # would fail on the sample


@pytest.mark.parametrize(
    "changes",
    [
        ("workload.arrivals={kind: closed, concurrency: 128}",),
        ("workload.arrivals={kind: offline}", "workload.requests=6000"),
        (),
    ],
    ids=["closed", "offline", "open"],
)
def test_every_kind_of_traffic_is_played(
    monkeypatch: pytest.MonkeyPatch, changes: tuple[str, ...]
) -> None:
    monkeypatch.setattr(finalists, "CLOSE", 0.8)
    job = load_workload("mixtral_8x7b", ["workload.requests=300", *changes])
    result = simulate("a100_nvl8", job, keep=True)
    assert result.facts is not None
    candidates = result.facts.choice.candidates
    played = [c for c in candidates if c.played_requests_per_s is not None]
    assert len(played) >= 2
    for c in played:
        assert c.played_requests_per_s == pytest.approx(c.requests_per_s, rel=0.35)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("large", "small", "workload"),
    [
        ("gb200_nvl72", "8 x gb200", "deepseek_r1_8chips"),
        ("gb200_nvl72", "8 x gb200", "gpt_oss_120b"),
        ("cloudmatrix384", "16 x ascend_910c", "deepseek_r1_8chips"),
    ],
)
def test_no_large_machine_is_worse_per_chip_than_a_small_one(
    large: str, small: str, workload: str
) -> None:
    name = "capacity_output_tokens_per_s_per_chip"
    rows = []
    for topology in (large, small):
        job = load_workload(workload)
        row = simulate(load_topology(topology), job).summary
        rows.append((row[name] * row["chips_used"] / row["n_chips"], row[f"{name}_error"]))
    (big, error), (little, other) = rows
    assert big >= little * (1 - error - other)


def test_a_played_choice_has_the_plan_of_its_winner() -> None:
    choice, job = _weighed("h100_nvl8", "mixtral_8x7b")
    first, second = choice.ranked(job)[:2]
    found = choice.played(job, {first.layout: 1.0, second.layout: 2.0})
    assert (found.layout, found.replicas) == (second.layout, second.replicas)
    assert dataclasses.replace(found, candidates=choice.candidates) != choice
