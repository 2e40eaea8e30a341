"""Laws of a whole run: conservation, causality, monotony."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from simpy.core import Environment

from cluster_sim.engine.clock import call_at
from cluster_sim.serving.records import Status
from cluster_sim.serving.service import serve
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.testing import random_case


@settings(max_examples=40, deadline=None)
@given(st.integers(1000, 100_000))
def test_requests_tokens_and_blocks_are_conserved_in_order(seed: int) -> None:
    service, requests = random_case(seed)
    run = serve(service, requests)
    status = np.array(run.outcomes.status)
    finished = status == Status.FINISHED
    assert (finished | (status > Status.FINISHED)).all()
    emitted = sum(counts.output_tokens for counts in run.counts)
    assert emitted == int(requests.osl[finished].sum())
    first, last = np.array(run.outcomes.first_s), np.array(run.outcomes.finish_s)
    arrival = np.array(run.outcomes.arrival_s)
    assert (first[finished] > arrival[finished]).all()
    assert (last[finished] >= first[finished]).all()
    single = requests.osl == 1
    assert (last[finished & single] == first[finished & single]).all()
    assert (last[finished & ~single] > first[finished & ~single]).all()
    for log in run.logs:
        assert (np.diff(log.end_s) > 0).all()
    for counts in run.counts:
        assert counts.blocks_taken >= counts.blocks_returned
        assert counts.blocks_taken == counts.blocks_returned or service.spec.prefixes
        assert counts.blocks_peak <= service.spec.blocks


def test_a_replica_works_while_it_has_work() -> None:
    """One replica, all at once: the time of the run is the sum of its steps."""
    for seed in range(200, 240):
        service, requests = random_case(seed)
        service = dataclasses.replace(service, replicas=1, concurrency=None)
        at_once = dataclasses.replace(requests, arrival_s=requests.arrival_s * 0, after=None)
        run = serve(service, at_once)
        assert run.idle_s == (0.0,)


def test_the_clock_keeps_floats_and_ranks() -> None:
    env, seen = Environment(), []
    at_s = 0.1 + 0.2
    for rank in (2, 0, 1):
        call_at(env, at_s, rank, lambda rank=rank: seen.append((env.now, rank)))
    env.run()
    assert seen == [(at_s, 0), (at_s, 1), (at_s, 2)]
    with pytest.raises(ValueError, match="must not be before"):
        call_at(env, 0.0, 0, lambda: None)


def single(machine: TopologyInput, changes: tuple[str, ...]) -> float:
    job = load_workload("llama70b", ["workload.requests=1", "plan.tp=2", *changes])
    return float(simulate(machine, job).requests["e2e_ms"][0])


@pytest.mark.parametrize("key", ["memory", "peak", "link"])
def test_a_single_request_is_never_slower_on_a_better_machine(
    h200: TopologyInput, key: str
) -> None:
    changes = ("workload.arrivals.load=~", "workload.arrivals.rate=1 requests/s")
    chip, topology = h200.chip, h200.topology
    times = []
    for factor in (1.0, 1.1, 1.5, 2.0):
        faster_chip, faster_topology = chip, topology
        if key == "memory":
            memory = dataclasses.replace(chip.memory, bandwidth=chip.memory.bandwidth * factor)
            faster_chip = dataclasses.replace(chip, memory=memory)
        elif key == "peak":
            peak = {dtype: value * factor for dtype, value in chip.peak.items()}
            faster_chip = dataclasses.replace(chip, peak=peak)
        else:
            links = topology.scale_up.link_bandwidth * factor
            scale_up = dataclasses.replace(topology.scale_up, link_bandwidth=links)
            faster_topology = dataclasses.replace(topology, scale_up=scale_up)
        machine = dataclasses.replace(h200, chip=faster_chip, topology=faster_topology)
        times.append(single(machine, changes))
    assert times == sorted(times, reverse=True)


def test_capacity_lies_between_nothing_and_saturation(h200: TopologyInput) -> None:
    result = simulate(h200, load_workload("llama70b"))
    row = result.summary
    assert row["capacity_output_tokens_per_s_per_chip"] > 0
    capacity = row["capacity_output_tokens_per_s_per_chip"]
    assert capacity < row["saturation_output_tokens_per_s_per_chip"]
    ledger = result.manifest["ledger"]
    span = result.manifest["service_s"] * row["replicas"]
    assert sum(ledger.values()) == pytest.approx(span, rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("key", ["bandwidth", "peak", "capacity"])
def test_saturated_throughput_grows_with_the_machine(key: str) -> None:
    """Statistically: mean over 20 common seeds, within half a percent."""
    machine = load_topology("h100_nvl8")
    chip = machine.chip
    memory = chip.memory
    if key in ("bandwidth", "capacity"):
        memory = dataclasses.replace(memory, **{key: getattr(memory, key) * 1.2})
    peak = {d: v * (1.2 if key == "peak" else 1.0) for d, v in chip.peak.items()}
    better = dataclasses.replace(machine, chip=dataclasses.replace(chip, memory=memory, peak=peak))
    job = load_workload("llama70b_offline", ["workload.requests=1000", "plan.tp=2"])
    means = [
        np.mean([simulate(m, job, seed=seed).summary["output_tokens_per_s"] for seed in range(20)])
        for m in (machine, better)
    ]
    assert means[1] >= means[0] * 0.995
