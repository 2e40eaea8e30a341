"""Closed forms that the engine must reach in a limit."""

from __future__ import annotations

import math

import numpy as np
import pytest

from cluster_sim.metrics import latencies
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.scheduler import vllm_v1
from cluster_sim.serving.service import Service, serve
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.testing import synthetic_price


def one_server(service_s: float) -> Service:
    """A replica that serves one request of one token at a time, each in the same time."""
    spec = ReplicaSpec(
        price=synthetic_price(service_s, 0.0),
        blocks=10,
        block_tokens=1,
        scheduler=vllm_v1,
        max_num_seqs=1,
        max_num_batched_tokens=4,
        max_output_tokens=1,
    )
    return Service(spec, 1, "round_robin", 100)


@pytest.mark.parametrize("load", [0.3, 0.6, pytest.param(0.8, marks=pytest.mark.slow)])
def test_m_d_1(load: float) -> None:
    """Mean wait of an M/D/1 queue: load / (2 (1 - load)) service times."""
    count = int(20_000 / (1 - load) ** 2)  # the memory of the queue grows like 1 / (1 - load)^2
    ones = np.ones(count, dtype=np.int64)
    rng = np.random.default_rng(1)
    first = serve(one_server(1.0), Requests(np.zeros(1), ones[:1], ones[:1]))
    service_s = first.outcomes.finish_s[0]
    arrival = np.cumsum(rng.exponential(service_s / load, count))
    requests = Requests(arrival, ones, ones)
    seen = latencies(serve(one_server(1.0), requests), requests)
    wait = float(seen.e2e_s[count // 20 :].mean()) / service_s - 1
    assert wait == pytest.approx(load / (2 * (1 - load)), rel=0.05)


def test_littles_law() -> None:
    """Requests in the system on average = arrival rate x mean time in the system, by two counts."""
    count, ones = 2000, np.ones(2000, dtype=np.int64)
    arrival = np.cumsum(np.random.default_rng(2).exponential(1.5, count))
    requests = Requests(arrival, ones, ones)
    run = serve(one_server(1.0), requests)
    finish = np.array(run.outcomes.finish_s)
    events = np.concatenate([arrival, finish])
    change = np.concatenate([np.ones(count), -np.ones(count)])
    order = np.argsort(events, kind="stable")
    present = np.cumsum(change[order])[:-1]
    area = float((present * np.diff(events[order])).sum())
    assert area == pytest.approx(float((finish - arrival).sum()), rel=1e-9)
    assert (finish > arrival).all()
    assert (np.diff(finish) > 0).all()


def erlang_c(servers: int, load: float) -> float:
    """Chance that an arrival waits in M/M/c, with ``load`` the share of each server."""
    offered = servers * load
    terms = [offered**k / math.factorial(k) for k in range(servers)]
    last = offered**servers / math.factorial(servers) / (1 - load)
    return last / (sum(terms) + last)


@pytest.mark.slow
@pytest.mark.parametrize("seats", [1, 4])
def test_m_m_c(seats: int) -> None:
    """Seats of a batch whose step takes the same however many decode are c servers; answers of
    geometric length are nearly exponential services: mean wait = C / (c (1 - load)) services.
    """
    load, count, tokens, step_s = 0.7, 60_000, 40, 1.0
    price = synthetic_price(step_s, 0.0)
    spec = ReplicaSpec(
        price=price,
        blocks=10_000,
        block_tokens=16,
        scheduler=vllm_v1,
        max_num_seqs=seats,
        max_num_batched_tokens=4096,
        max_output_tokens=4000,
    )
    rng = np.random.default_rng(3)
    osl = rng.geometric(1 / tokens, count)
    arrival = np.cumsum(rng.exponential(tokens * step_s / (seats * load), count))
    requests = Requests(arrival, np.ones(count, dtype=np.int64), osl)
    run = serve(Service(spec, 1, "round_robin", 10**6), requests)
    first = np.array(run.outcomes.first_s)
    # A first token takes one step; on average half of one is waited for its start.
    waited = float((first - arrival)[count // 20 :].mean()) - 1.5 * step_s
    expected = erlang_c(seats, load) / (seats * (1 - load)) * tokens * step_s
    assert waited == pytest.approx(expected, rel=0.1)
