"""Speed of the fluid engine, in CPU seconds; run with
``pytest -m bench --benchmark-enable -s tests/bench/test_fluid_speed.py``.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import simpy
from simpy.events import Event

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.fluid_fold import fold
from cluster_sim.engine.fluid_loops import compiled_fill
from cluster_sim.engine.fluid_solver import problem_of, solve
from cluster_sim.work import Activity, traffic

pytestmark = pytest.mark.bench

NUMBA = importlib.util.find_spec("numba") is not None
LINK_BYTES_PER_S = 50e9


def fat_tree_flows(radix: int, flows: int, seed: int) -> tuple[list[Activity], int]:
    """Flows between random hosts of a three-tier fat tree, each on a path drawn for it, with random
    sizes; and the number of directed links: six stages of one link per host.
    """
    draw = np.random.default_rng(seed)
    half = radix // 2
    hosts = radix * half * half
    source = draw.integers(0, hosts, flows)
    target = (source + draw.integers(1, hosts, flows)) % hosts
    middle, core = draw.integers(0, half, (2, flows))
    size = draw.exponential(1e9, flows)

    def path(a: int, b: int, i: int, j: int) -> list[int]:
        up, down = [a], [b + hosts]
        if a // half != b // half:
            up.append(2 * hosts + a // half * half + i)
            down.append(3 * hosts + b // half * half + i)
        pod_a, pod_b = a // half**2, b // half**2
        if pod_a != pod_b:
            up.append(4 * hosts + (pod_a * half + i) * half + j)
            down.append(5 * hosts + (pod_b * half + i) * half + j)
        return up + down

    ends = zip(*(x.tolist() for x in (source, target, middle, core)), strict=True)
    activities = [
        traffic(amount / LINK_BYTES_PER_S, dict.fromkeys(path(*end), amount))
        for end, amount in zip(ends, size.tolist(), strict=True)
    ]
    return activities, 6 * hosts


@pytest.mark.parametrize(
    "compiled",
    [
        False,
        pytest.param(True, marks=pytest.mark.skipif(not NUMBA, reason="numba is not installed")),
    ],
)
@pytest.mark.parametrize("flows", [1000, 10_000])
def test_fat_tree_completions_per_second(flows: int, compiled: bool) -> None:
    activities, links = fat_tree_flows(16, flows, 1)
    if compiled:
        compiled_fill()
    env = simpy.Environment()
    engine = FluidEngine(env, [LINK_BYTES_PER_S] * links, compiled=compiled)
    started = time.process_time()
    events = [engine.start(activity) for activity in activities]
    env.run()
    seconds = time.process_time() - started
    assert all(event.processed for event in events)
    name = "numba" if compiled else "numpy"
    print(f"{flows} flows, {name}: {flows / seconds:,.0f} completions/s, {seconds:.1f} s")


def ring_activities(hashed: bool) -> tuple[list[Activity], int]:
    """128 rings of 128 nodes over 16,384 GPUs with a NIC each: leaves of 32 nodes per rail, 32
    spines, taken in turn or by chance.
    """
    draw = np.random.default_rng(1)
    gpus, rails, spines, ring = 16_384, 8, 32, 128
    uplinks = gpus // 32 * spines
    amount = 2 * (ring - 1) / ring * 1e9
    activities = []
    for number in range(128):
        rail, first = number % rails, number // rails
        links: dict[int, float] = {}
        for k in range(ring):
            a, b = (first + 16 * (hop % ring) for hop in (k, k + 1))
            path = [a * rails + rail, gpus + b * rails + rail]
            if a // 32 != b // 32:
                spine = int(draw.integers(spines)) if hashed else first % spines
                leaves = a // 32 * rails + rail, b // 32 * rails + rail
                path += [2 * gpus + leaf * spines + spine for leaf in leaves]
                path[-1] += uplinks
            for link in path:
                links[link] = links.get(link, 0.0) + amount
        activities.append(traffic(amount / LINK_BYTES_PER_S, links))
    return activities, 2 * gpus + 2 * uplinks


@pytest.mark.parametrize("hashed", [False, True])
def test_fold_and_solve_rings(hashed: bool) -> None:
    activities, links = ring_activities(hashed)
    problem = problem_of(activities, [LINK_BYTES_PER_S] * links)
    started = time.process_time()
    folding = fold(problem)
    rates = solve(folding.problem)
    seconds = time.process_time() - started
    shared = folding.unfold(rates) * problem.size / 1e9
    print(
        f"{len(problem.resource)} entries: {len(folding.activities)} + {len(folding.resources)}"
        f" classes, {shared.min():.1f} to {shared.max():.1f} GB/s, {1e3 * seconds:.0f} ms"
    )


def test_price_of_an_activity() -> None:
    """Alone against a SimPy timeout, and two at a time on one link."""
    count = 30_000

    def measure(name: str, make: Callable[[simpy.Environment], Callable[[], Event]]) -> None:
        env = simpy.Environment()
        start = make(env)

        def user() -> Iterator[Event]:
            for _ in range(count):
                yield start()

        env.process(user())
        began = time.process_time()
        env.run()
        print(f"{name}: {1e6 * (time.process_time() - began) / count:.2f} us")

    measure("timeout", lambda env: lambda: env.timeout(1.0))
    for links in (1, 3, 6):
        activity = traffic(1.0, dict.fromkeys(range(links), 1e9))

        def alone(env: simpy.Environment, activity: Activity = activity) -> Callable[[], Event]:
            engine = FluidEngine(env, [2e9] * 6)
            return lambda: engine.start(activity)

        measure(f"alone on {links} resources", alone)
    both = traffic(1.0, {0: 1e9})

    def pair(env: simpy.Environment) -> Callable[[], Event]:
        engine = FluidEngine(env, [1e9])
        return lambda: engine.start(both) & engine.start(both)

    measure("two on one link", pair)
