"""Random small services whose steps have arbitrary, exactly reproducible prices: material for the laws."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.requests import Requests
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.serving.service import Service
from cluster_sim.serving.stepper import ReplicaSpec


@dataclass(frozen=True)
class SyntheticPrice:
    """The arithmetic of StepPrice over made-up numbers."""

    decode_base_s: list[float]
    tokens_s: list[float]
    context_s: float
    half_length: float = 700.0

    def step_s(
        self, decodes: int, context: int, tokens: int, prompts: int, work: float
    ) -> float:
        """Seconds of one step."""
        if tokens == 0:
            return self.decode_base_s[decodes] + self.context_s * context
        fixed = self.tokens_s[decodes + tokens] + 1e-6 * prompts
        return fixed + (self.context_s * context) + (1e-5 + 3e-11 * work)

    def decode_stretch_s(self, decodes: int, context: int, steps: int) -> NDArray[np.float64]:
        """The same for consecutive decode-only steps."""
        contexts = context + decodes * np.arange(steps)
        return self.decode_base_s[decodes] + self.context_s * contexts

    def prefill_work(self, start: int, end: int) -> float:
        """Units of prompt attention."""
        return (end * end - start * start) * (1 + self.half_length / end)


def synthetic_price(rng: random.Random, scale: float = 1.0) -> SyntheticPrice:
    """Prices of a few milliseconds a step, growing with the batch."""
    base = 5e-3 * scale * (1 + rng.random())
    slope = 3e-5 * scale * rng.random()
    return SyntheticPrice(
        [base + slope * n for n in range(3000)],
        [base + 2 * slope * n for n in range(20_000)],
        1e-8 * scale * rng.random(),
    )


def random_case(seed: int) -> tuple[Service, Requests]:
    """A service and its traffic: schedulers, bursts, starved caches, several replicas, closed and open loops."""
    rng = random.Random(seed)
    draw = np.random.default_rng(seed)
    count = rng.choice((1, 5, 40, 40, 150, 150))
    size = rng.choice((1, 4, 16, 32))
    isl = draw.integers(1, rng.choice((3, 60, 400)), count, endpoint=True)
    osl = draw.integers(1, rng.choice((1, 4, 50, 300)), count, endpoint=True)
    longest = int((isl + osl).max())
    spare = rng.choice((1, 1.5, 2, 3, 5, 1000))
    blocks = max(1, int(-(-longest // size) * spare) - rng.choice((0, 0, 0, 1)))
    gaps = draw.gamma(rng.choice((0.3, 1.0, 4.0)), rng.choice((1e-4, 1e-3, 1e-2, 0.1, 1.0)), count)
    arrival = np.zeros(count) if rng.random() < 0.15 else np.cumsum(gaps)
    if rng.random() < 0.2:
        arrival = np.round(arrival, 1)  # many arrivals at one instant
    spec = ReplicaSpec(
        price=synthetic_price(rng),  # type: ignore[arg-type]
        blocks=blocks,
        block_tokens=size,
        scheduler=SCHEDULERS[rng.choice(("vllm_v1", "vllm_v1", "static"))],
        max_num_seqs=rng.choice((1, 4, 8, 64, 64, 1000)),
        max_num_batched_tokens=rng.choice((8, 64, 512, 8192)),
        max_output_tokens=int(osl.max()),
    )
    service = Service(
        spec=spec,
        replicas=rng.choice((1, 1, 2, 5)),
        router=rng.choice(("round_robin", "least_outstanding")),
        max_context=rng.choice((10**6, longest, longest, max(2, longest - 5))),
        concurrency=rng.choice((None, None, None, 1, 7, 64, 64)),
    )
    return service, Requests(arrival, isl, osl)
