"""Replicas share a machine with others: who is delayed, by how much, and who is not."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Generator
from typing import Any

import numpy as np
import pytest

from cluster_sim.engine.cluster import Cluster
from cluster_sim.perf.families import Family
from cluster_sim.perf.replica_phases import ReplicaPhases
from cluster_sim.perf.step_price import StepPrice
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run, Service, serve
from cluster_sim.serving.site import Process, Site
from cluster_sim.testing import facts, random_case

SLOW = pytest.mark.slow
DEFAULT_CASES, ALL_CASES = 40, 200
HBM = 4e12
DEVICES = 2  # of a replica


def with_families(price: StepPrice, rng: random.Random) -> StepPrice:
    """Families for a made-up price list: what reads memory, what sends, what only takes time."""
    tokens, rows = np.array(price.tokens_s[:3000]), np.array(price.sequences_s)
    decodes = np.array(price.decodes_s)
    linear, sent = np.array(price.tokens_s), 0.4 * rng.choice((0.3, 1.0)) * 1e9
    families = [
        Family("gemm_weights", "assumed", 0.5 * linear),
        Family("gemm_math", "assumed", 0.1 * linear, use=Family("", "", 0.03 * linear)),
        Family("all_reduce", "assumed", 0.4 * linear, use=Family("", "", sent * linear)),
        Family("host", "assumed", sequences_s=rows),
        Family(
            "attention_decode",
            "assumed",
            decodes_s=decodes,
            context_s=price.context_s,
            local_context_s=price.local_context_s,
        ),
        Family("attention_prefill", "assumed", prefill_floor_s=price.prefill_floor_s, prompts=True),
        Family("swap", "assumed", swap_s=price.swap_s, use=Family("", "", swap_s=50.0)),
    ]
    if price.shared_s is not None:
        families.append(Family("expert_weights", "assumed", shared_s=price.shared_s))
    base = (tokens + rows + decodes).tolist()
    return dataclasses.replace(price, families=tuple(families), decode_base_s=base)


def machine_of(price: StepPrice, replicas: int, *, meeting: bool = False) -> Site:
    """Two devices a replica with a link each; if they meet, one link for all."""
    capacity: dict[str, float] = {"spare": 1e9}
    homes = []
    for replica in range(replicas):
        found: dict[str, int] = {}
        for part in ("sm0", "hbm0", "link0", "sm1", "hbm1", "link1"):
            found[part] = len(capacity)
            capacity[f"r{replica}/{part}"] = {"s": 1.0, "h": HBM, "l": 1e9}[part[0]]
        links = {0: 1.0} if meeting else {found["link0"]: 1.0, found["link1"]: 1.0}
        homes.append(
            ReplicaPhases(
                price=price,
                hbm_bytes_per_s=HBM,
                sm=(found["sm0"], found["sm1"]),
                hbm=(found["hbm0"], found["hbm1"]),
                loads={"tp": links, "host": {found["link0"]: 1.0}},
                capacity={link: 1e9 for link in (*links, found["link0"])},
            )
        )
    return Site(capacity=capacity, homes=homes)


def visitors(rng: random.Random, site: Site, span_s: float) -> list[Process]:
    """Some that come, take a share of something, pause and come again; some that change what a
    resource can do.
    """
    names = list(site.capacity)

    def visits(seed: int) -> Process:
        def process(cluster: Cluster) -> Generator[Any, Any, None]:
            draw = random.Random(seed)
            yield cluster.env.timeout(draw.choice((0.0, draw.uniform(0, span_s))))
            for _ in range(draw.choice((1, 2, 5))):
                name = draw.choice(names)
                length = draw.choice((1e-3, 0.03, 0.3)) * draw.uniform(0.5, 1.5)
                yield cluster.use(name, length, share=draw.choice((0.2, 0.5, 1.0)))
                yield cluster.env.timeout(draw.choice((0.0, draw.uniform(0, span_s / 4))))

        return process

    def degrades(seed: int) -> Process:
        def process(cluster: Cluster) -> Generator[Any, Any, None]:
            draw = random.Random(seed)
            yield cluster.env.timeout(draw.uniform(0, span_s))
            name = draw.choice(names)
            whole = site.capacity[name]
            cluster.set_capacity(name, draw.choice((0.0, 0.4)) * whole)
            yield cluster.env.timeout(draw.uniform(0, span_s / 8))
            cluster.set_capacity(name, whole)

        return process

    found = [visits(rng.randrange(2**32)) for _ in range(rng.choice((1, 2, 4)))]
    return found + [degrades(rng.randrange(2**32)) for _ in range(rng.choice((0, 0, 1)))]


def shared_case(seed: int) -> tuple[Service, Requests, Site]:
    service, requests = random_case(seed)
    rng = random.Random(seed + 10**6)
    price = with_families(service.spec.price, rng)
    service = dataclasses.replace(service, spec=dataclasses.replace(service.spec, price=price))
    site = machine_of(price, service.replicas, meeting=rng.random() < 0.15)
    span_s = max(0.05, serve(service, requests).end_s)
    return service, requests, dataclasses.replace(site, processes=visitors(rng, site, span_s))


def all_facts(run: Run) -> dict[str, object]:
    assert run.visits is not None
    return {**facts(run), "visits": run.visits}


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=SLOW if seed >= DEFAULT_CASES else ()) for seed in range(ALL_CASES)],
)
def test_both_players_give_the_same_bytes_beside_others(seed: int) -> None:
    service, requests, site = shared_case(seed)
    reference = all_facts(serve(service, requests, step_by_step=True, site=site))
    fast = all_facts(serve(service, requests, site=site))
    for name, value in reference.items():
        assert fast[name] == value, name
