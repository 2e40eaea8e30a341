"""Speed of the fluid engine, in CPU seconds; run with
``pytest -m bench --benchmark-enable -s tests/bench/test_fluid_speed.py``.
"""

from __future__ import annotations

import importlib.util
import time

import numpy as np
import pytest
import simpy

from cluster_sim.engine.fluid import FluidEngine
from cluster_sim.engine.fluid_loops import compiled_fill
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
