"""Kernels alone against the packaged timings, without what engines change of them."""

from __future__ import annotations

import pytest

from cluster_sim.studies.validate import play, prepare
from cluster_sim.studies.validate_cases import read_cases
from cluster_sim.studies.validate_scores import Score, scorecard

# Median and 90th percentile of the absolute error that a family may have over all its timings.
LIMITS = {
    "gemm": (0.045, 0.14),
    "attention_prefill": (0.065, 0.18),
    "attention_decode": (0.09, 0.36),
    "mla_prefill": (0.045, 0.16),
    "mla_decode": (0.055, 0.23),
    "moe_ffn": (0.165, 0.66),
}


@pytest.fixture(scope="module")
def scores() -> dict[str, Score]:
    cases = [case for case in read_cases([]) if case.kind == "operator"]
    card = scorecard([one for group in play(prepare(cases)) for one in group])
    return {name: metrics["time_us"] for name, metrics in card.breakdown["operation"].items()}


@pytest.mark.parametrize("family", LIMITS)
def test_curves_of_kernels_alone_follow_their_timings(
    scores: dict[str, Score], family: str
) -> None:
    median, p90 = LIMITS[family]
    found = scores[family]
    assert found.median_ape is not None
    assert found.p90_ape is not None
    assert found.median_ape <= median
    assert found.p90_ape <= p90
