"""Capacity and saturation do not depend on how many requests tell them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from test_capacity_laws import _set_up

from cluster_sim.capacity import Effort, find_capacity, find_saturation

PAIRS = (
    ("h200_nvl8", "llama70b"),
    ("h100_nvl8", "llama70b"),
    ("b200_nvl8", "llama8b"),
    ("gb200_nvl72", "llama8b"),
    ("a100_nvl8", "llama8b"),
    ("h20_nvl8", "qwen3_32b"),
    ("b200_nvl8", "qwen3_32b"),
    ("h100_nvl8", "mixtral_8x7b"),
    ("h200_nvl8", "gpt_oss_120b"),
    ("h200_nvl8", "rag"),
    ("b200_nvl8", "llama405b"),
    ("b200_nvl8", "reasoning"),
)
TEN = 10


def figures(topology: str, workload: str, more: int) -> tuple[float, float]:
    """Capacity and saturation with so many times the requests."""
    _, _, sample = _set_up(workload, topology=topology)
    effort = Effort(error=0.03 / more**0.5, most_requests=240_000 * more)
    flat_out = find_saturation(sample, effort)
    found = find_capacity(sample, effort, flat_out.starts_per_s, flat_out.error)
    return found.requests_per_s * found.osl_mean, flat_out.output_tokens_per_s


@pytest.mark.slow
def test_ten_times_as_many_requests_tell_the_same() -> None:
    off = []
    for topology, workload in PAIRS:
        usual, many = (figures(topology, workload, more) for more in (1, TEN))
        off += [abs(one / ten - 1) for one, ten in zip(usual, many, strict=True)]
        print(
            topology,
            workload,
            [f"{one / ten - 1:+.3f}" for one, ten in zip(usual, many, strict=True)],
        )
    assert np.median(off) <= 0.02
    assert max(off) <= 0.05


def test_fewer_requests_are_worse_but_not_lower() -> None:
    """Over eight seeds, a coarse search is off by no more than its error, on neither side."""
    signed = []
    fine = None
    for seed in range(8):
        _, _, sample = _set_up("llama70b", seed=seed)
        if fine is None:
            fine = find_saturation(sample, Effort(error=0.01)).output_tokens_per_s
        coarse = find_saturation(dataclasses.replace(sample), Effort(error=0.06))
        signed.append(coarse.output_tokens_per_s / fine - 1)
    assert abs(float(np.mean(signed))) < 0.025
