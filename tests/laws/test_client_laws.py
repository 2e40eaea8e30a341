"""Laws of what clients wait for beyond the engine, and of closed loops: Little's law, idle and busy
engines, sessions, both paths.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cluster_sim.facts import Facts
from cluster_sim.metrics import Latencies, latencies
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.simulation import play
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.testing import random_case

ROUNDS = 100
FRAMEWORKS = ("vllm-0.10", "sglang-0.5.10", "trtllm-1.0")


def looped(software: str, clients: int, osl: int, *changes: str) -> Facts:
    """Equal requests of a closed loop on one H100."""
    job = load_workload(
        "llama8b",
        [
            *("workload.model=llama3.1-8b", f"workload.software={software}"),
            *("workload.isl={fixed: 100}", f"workload.osl={{fixed: {osl}}}"),
            f"workload.arrivals={{kind: closed, concurrency: {clients}}}",
            f"workload.requests={ROUNDS * clients}",
            *changes,
        ],
    )
    return play(load_topology("1 x h100_sxm"), job)


def seen_by_clients(run: Run, requests: Requests) -> Latencies:
    return latencies(run, requests)


@pytest.mark.parametrize("software", FRAMEWORKS)
@pytest.mark.parametrize("osl", [1, 8, 100])
@pytest.mark.parametrize("clients", [1, 8])
def test_littles_law_closes_in_a_closed_loop(clients: int, osl: int, software: str) -> None:
    """Every client always has one request under way: the seconds of requests until the last
    arrival are clients x time, exactly; over the whole run within 2 %.
    """
    facts = looped(software, clients, osl)
    arrival = np.array(facts.run.outcomes.arrival_s)
    e2e = seen_by_clients(facts.run, facts.requests).e2e_s
    last_s = arrival.max()
    assert np.minimum(e2e, last_s - arrival).sum() == pytest.approx(clients * last_s, rel=1e-9)
    assert e2e.sum() == pytest.approx(clients * (arrival + e2e).max(), rel=0.02)


@pytest.mark.parametrize("seed", range(60))
def test_clients_have_one_request_under_way_whatever_the_service(seed: int) -> None:
    """The same at random: at every arrival but the first ones just one other request ended."""
    service, requests = random_case(seed)
    clients = min(5, len(requests))
    requests = dataclasses.replace(requests, after=None, think_s=None)
    service = dataclasses.replace(service, concurrency=clients)
    run = serve(service, requests)
    played = seen_by_clients(run, requests)
    arrival = np.array(run.outcomes.arrival_s)[played.finished]
    if len(arrival) <= clients:
        return
    last_s = arrival.max()
    under_way = np.minimum(played.e2e_s[played.finished], last_s - arrival).sum()
    assert under_way == pytest.approx(clients * last_s, rel=1e-9)


@pytest.mark.parametrize("software", FRAMEWORKS)
def test_one_client_waits_for_an_idle_engine_alone(software: str) -> None:
    facts = looped(software, 1, 100)
    engine = np.array(facts.run.outcomes.first_s) - np.array(facts.run.outcomes.arrival_s)
    client = facts.job.software.client
    assert client.idle > 0
    assert client.loaded_steps > 0
    seen = seen_by_clients(facts.run, facts.requests)
    assert seen.ttft_s - engine == pytest.approx(np.full(ROUNDS, client.idle), rel=1e-6)


@pytest.mark.parametrize("software", FRAMEWORKS)
def test_clients_of_a_busy_engine_wait_for_its_steps(software: str) -> None:
    """Answers of many lengths, so that their ends do not fall together. Last tokens come as from
    an idle engine, first tokens the steps of the profile later.
    """
    facts = looped(software, 64, 100, "workload.osl={mean: 100, cv: 0.4, max: 300}")
    outcomes, client = facts.run.outcomes, facts.job.software.client
    arrival, first, last = (
        np.array(v) for v in (outcomes.arrival_s, outcomes.first_s, outcomes.finish_s)
    )
    seen, tokens = seen_by_clients(facts.run, facts.requests), facts.requests.osl - 1
    assert seen.e2e_s == pytest.approx(last - arrival + client.idle, rel=1e-12)
    steps = (seen.ttft_s - (first - arrival) - client.idle) / ((last - first) / tokens)
    assert (steps <= client.loaded_steps * (1 + 1e-9)).all()
    assert steps[64:].mean() > 0.95 * client.loaded_steps
    assert seen.tpot_s == pytest.approx((last - first) / tokens, rel=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.integers(1000, 100_000))
def test_no_first_token_is_seen_after_the_last(seed: int) -> None:
    service, requests = random_case(seed)
    service = dataclasses.replace(service, client=ClientWait(0.01, 50.0))
    seen = latencies(serve(service, requests), requests)
    done = seen.finished
    assert (seen.ttft_s[done] <= seen.e2e_s[done] * (1 + 1e-12)).all()
    single = done & (requests.osl == 1)
    assert (seen.ttft_s[single] == seen.e2e_s[single]).all()


def test_the_wait_grows_from_idle_with_the_load_of_open_traffic() -> None:
    waits, shares = [], []
    for rate in (0.05, 5.0, 20.0, 60.0):
        arrivals = f"workload.arrivals={{kind: open, rate: {rate} requests/s}}"
        facts = looped("vllm-0.10", 3, 100, arrivals)
        engine = np.array(facts.run.outcomes.first_s) - np.array(facts.run.outcomes.arrival_s)
        seen = latencies(facts.run, facts.requests)
        waits.append(float(np.mean(seen.ttft_s - engine)))
        shares.append(float(np.mean(np.array(facts.run.outcomes.others) > 0)))
    assert waits == sorted(waits)
    assert shares[0] < 0.1
    assert shares[-1] > 0.9
    client = facts.job.software.client
    assert waits[0] == pytest.approx(client.idle, rel=0.1)


def test_a_request_counts_the_others_that_it_finds() -> None:
    """Against arrivals and finishes: those of its replica that came before and are not done."""
    checked = 0
    for seed in range(300, 316):
        service, requests = random_case(seed)
        outcomes = serve(service, requests).outcomes
        arrival, last = np.array(outcomes.arrival_s), np.array(outcomes.finish_s)
        if len(np.unique(arrival[~np.isnan(last)])) < (~np.isnan(last)).sum():
            continue  # who of those at one instant came first is not recorded
        for request in np.flatnonzero(~np.isnan(last)).tolist():
            there = np.array(outcomes.replica) == outcomes.replica[request]
            before = there & (arrival < arrival[request])
            least = int((before & (last > arrival[request])).sum())
            most = int((before & (last >= arrival[request])).sum())
            assert least <= outcomes.others[request] <= most
            checked += 1
    assert checked > 200


def think_after_seen(service: Service, requests: Requests) -> int:
    """Turns of finished former turns come the time to think after their client saw the end."""
    run = serve(service, requests)
    outcomes, seen = run.outcomes, latencies(run, requests)
    assert requests.after is not None
    assert requests.think_s is not None
    earliest = requests.arrival_s if service.concurrency is None else np.zeros(len(requests))
    checked = 0
    for turn, former in enumerate(requests.after.tolist()):
        if former < 0 or not seen.finished[former]:
            continue
        saw_s = outcomes.arrival_s[former] + seen.e2e_s[former]
        expected = max(earliest[turn], saw_s + requests.think_s[turn])
        assert outcomes.arrival_s[turn] == pytest.approx(expected, rel=1e-12)
        checked += 1
    return checked


def test_turns_begin_when_clients_have_seen_the_end() -> None:
    checked = 0
    for seed in range(60):
        service, requests = random_case(seed)
        if requests.after is not None:
            client = ClientWait(idle_s=0.02, loaded_steps=3.0)
            checked += think_after_seen(dataclasses.replace(service, client=client), requests)
    assert checked > 100
