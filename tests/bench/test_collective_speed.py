"""Speed of collectives, in CPU seconds: run with ``pytest -m bench -s tests/bench``."""

from __future__ import annotations

import time

import numpy as np
import pytest
from simpy.core import Environment

from cluster_sim.collectives.activity import Call, collective_activity
from cluster_sim.collectives.group import make_group
from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.fluid_fold import activities_of, fold
from cluster_sim.engine.fluid_solver import problem_of
from cluster_sim.machine.build import build_machine
from cluster_sim.perf.background import random_flows
from cluster_sim.specs.load import load_topology

pytestmark = pytest.mark.bench


def test_one_all_reduce_of_a_thousand() -> None:
    topology = load_topology("h100_superpod")
    best = 1e9
    for _ in range(5):
        machine = build_machine(topology)
        small = make_group(topology, range(16), machine=machine)
        collective_activity(small, Call(operation="all_reduce"), 2.0**30)  # start-up
        started = time.process_time()
        group = make_group(topology, np.arange(1024), machine=machine)
        ((phase),) = collective_activity(group, Call(operation="all_reduce"), 2.0**30)
        environment = Environment()
        folding = fold(problem_of([phase.activity], machine.link_bandwidth))
        engine = FluidEngine(environment, folding.problem.capacity.tolist())
        (activity,) = activities_of(folding.problem)
        environment.run(until=engine.start(activity))
        best = min(best, time.process_time() - started)
    print(f"1,024 ranks, 1 GiB: {best * 1e3:.1f} ms")
    assert best < 0.03


def test_sixteen_all_reduces_beside_flows() -> None:
    started = time.process_time()
    topology = load_topology("h100_superpod", ["topology.fabric.oversubscription=2"])
    machine = build_machine(topology)
    first = make_group(topology, np.arange(64), machine=machine)
    activities = []
    for job in range(16):
        devices = np.arange(job * 64, (job + 1) * 64)
        # Hosts of a job lie far apart: every sixteenth.
        hosts = np.arange(job, 128, 16)
        devices = (hosts[:, None] * 8 + np.arange(8)).ravel()
        group = make_group(topology, devices, machine=machine)
        phases = collective_activity(group, Call(operation="all_reduce"), 2.0**30)
        activities += [phase.activity for phase in phases]
    activities += random_flows(first, 200, 1, 2.0**30)
    environment = Environment()
    engine = FluidEngine(environment, machine.link_bandwidth.tolist())
    running = [engine.start(activity) for activity in activities]
    environment.run()
    seconds = time.process_time() - started
    print(f"16 all-reduces of 64 ranks and 200 flows: {seconds * 1e3:.0f} ms CPU")
    assert all(run.triggered for run in running)
    assert seconds < 2
