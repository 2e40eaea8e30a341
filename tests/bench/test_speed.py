"""Speed, in CPU seconds: run with ``pytest -m bench --benchmark-enable -s tests/bench``."""

from __future__ import annotations

import dataclasses
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cluster_sim.machine.build import build_machine
from cluster_sim.machine.exchange import graph
from cluster_sim.machine.routes import Routing, paths
from cluster_sim.output.drawing import picture
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import compile_step_price
from cluster_sim.prepare import make_service
from cluster_sim.serving.generators import draw_requests
from cluster_sim.serving.plan import resolve
from cluster_sim.serving.requests import Requests, without_pauses
from cluster_sim.serving.service import Service, serve
from cluster_sim.specs.load import load_topology, load_workload

pytestmark = pytest.mark.bench


def service_of(workload: str, changes: list[str], replicas: int) -> tuple[Service, Requests]:
    machine = load_topology("h200_nvl8")
    job = load_workload(workload, [*changes, "plan.tp=2"])
    choice = dataclasses.replace(resolve(machine, job), replicas=replicas)
    parts = (job.model, job.software, choice.layout, choice.recipe)
    price = compile_step_price(machine, *parts)
    size, wanted = job.software.memory.block_tokens, job.workload
    count = wanted.stated_requests or 10_000
    requests = draw_requests(wanted, count, seed=wanted.seed, block_tokens=size)
    cache = kv_cache(machine.chip, *parts)
    return make_service(job, choice, price, cache), requests


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    started = time.process_time()
    result = work()
    return result, time.process_time() - started


def saturated_rate(service: Service, requests: Requests) -> float:
    run = serve(service, without_pauses(requests))
    return requests.starts / run.end_s


@pytest.mark.parametrize(
    ("replicas", "router", "count"),
    [(1, "round_robin", 100_000), (64, "least_outstanding", 40_000)],
)
def test_chat_requests_per_second(replicas: int, router: str, count: int) -> None:
    changes = [f"workload.requests={count}", f"plan.router={router}"]
    service, requests = service_of("llama70b", changes, replicas)
    # 80 % of the rate that this service sustains without an SLO, found on fewer requests
    rate = 0.8 * saturated_rate(service, requests.first(4000 * min(replicas, 8)))
    run, seconds = timed(lambda: serve(service, requests.at_rate(rate)))
    steps = sum(len(log.end_s) for log in run.logs)
    print(f"{replicas} replicas: {count / seconds:,.0f} requests/s, {steps / seconds:,.0f} steps/s")


PREFIX = "workload.prefix={tokens: 2000, groups: 8, share: 90 %}"
SESSIONS = "workload.sessions={turns: {mean: 4, cv: 0.6, max: 20}, think: {mean: 5 s, cv: 1}}"
OFF = "engine.prefix_cache=false"


@pytest.mark.parametrize(
    ("name", "changes", "urgent"),
    [
        ("prefix, cache off", [PREFIX, OFF], False),
        ("prefix", [PREFIX], False),
        ("prefix and priorities", [PREFIX], True),
        ("sessions, cache off", [SESSIONS, OFF], False),
        ("sessions", [SESSIONS], False),
    ],
)
def test_what_prefixes_priorities_and_sessions_cost(
    name: str, changes: list[str], urgent: bool
) -> None:
    service, requests = service_of("llama70b", ["workload.requests=30000", *changes], 1)
    if urgent:
        requests = dataclasses.replace(requests, priority=np.arange(len(requests)) % 2)
    rate = 0.8 * saturated_rate(service, requests.first(4000))
    run, seconds = timed(lambda: serve(service, requests.at_rate(rate)))
    steps = sum(len(log.end_s) for log in run.logs) / len(requests)
    print(f"{name}: {len(requests) / seconds:,.0f} requests/s, {steps:.1f} steps a request")


def test_reasoning_steps_per_second() -> None:
    service, requests = service_of("reasoning", ["workload.requests=4000"], 1)
    rate = 0.5 * saturated_rate(service, requests)
    run, seconds = timed(lambda: serve(service, requests.at_rate(rate)))
    steps = sum(len(log.end_s) for log in run.logs)
    print(f"reasoning: {steps / seconds:,.0f} steps/s, {len(requests) / seconds:,.0f} requests/s")


def command(arguments: str, folder: Path) -> tuple[float, float]:
    """CPU seconds (user + system) and peak MB of a whole process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = "from cluster_sim.cli import main; main()"
    subprocess.run(
        [sys.executable, "-c", program, *arguments.split()],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return cpu, after.ru_maxrss / 1024


@pytest.mark.parametrize(
    "arguments",
    [
        "--help",
        "list",
        "run --topo h200_nvl8 --workload llama70b --rate 20",
        "run --topo h200_nvl8 --workload llama70b",
        "run --topo h200_nvl8 --workload llama70b --rate 18 --requests 1000000",
    ],
)
def test_whole_commands(arguments: str, tmp_path: Path) -> None:
    repeats = 1 if "1000000" in arguments else 3
    runs = [command(arguments, tmp_path) for _ in range(repeats)]
    seconds = sorted(cpu for cpu, _ in runs)[repeats // 2]
    print(f"{arguments}: {seconds:.2f} CPU s, {max(peak for _, peak in runs):.0f} MB peak so far")


def test_the_pod_of_16384_chips() -> None:
    """Classes under 50 ms, expanded under 2 s, drawn under 5 s."""
    pod = load_topology("h100_superpod", ["topology.hosts=2048"])
    machine, classes_s = timed(lambda: build_machine(pod))
    _, arrays_s = timed(lambda: (machine.link_from, machine.link_bandwidth))
    drawn, expanded_s = timed(lambda: graph(machine))
    _, picture_s = timed(lambda: picture(machine))
    ends = np.random.default_rng(0).integers(0, machine.devices, (2, 100_000))
    _, routes_s = timed(lambda: paths(machine, *ends, None, Routing(mode="ecmp")))
    print(
        f"classes {classes_s * 1e3:.2f} ms, arrays of {machine.n_links:,} links "
        f"{arrays_s * 1e3:.0f} ms, graph of {drawn.number_of_nodes():,} nodes {expanded_s:.2f} s, "
        f"picture {picture_s:.2f} s, 100,000 routes {routes_s:.2f} s"
    )
    assert classes_s < 0.05
    assert expanded_s < 2
    assert picture_s < 5
