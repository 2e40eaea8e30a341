from __future__ import annotations

import numpy as np
import pytest

from cluster_sim.metrics import Window, inter_token_latencies
from cluster_sim.serving.records import StepLog


@pytest.mark.parametrize("seed", range(20))
def test_itl_percentiles_are_numpys(seed: int) -> None:
    """The pooled percentiles equal numpy's over every gap written out."""
    rng = np.random.default_rng(seed)
    steps = int(rng.integers(2, 400))
    logs, pool = [], []
    for _ in range(3):
        gaps = rng.choice([0.01, 0.012, 0.3], steps) * (1 + rng.integers(0, 3) * rng.random(steps))
        log = StepLog()
        log.end_s.extend(np.cumsum(gaps).tolist())
        log.chained.extend(rng.integers(0, 5, steps).tolist())
        log.lone_gaps.append((0.5, 0.25))
        ends = np.array(log.end_s)
        pool += np.repeat(np.diff(ends), list(log.chained)[1:]).tolist() + [0.25]
        logs.append(log)
    row = inter_token_latencies(logs, Window(0.0, 1e9))
    assert row["itl_mean_ms"] == pytest.approx(np.mean(pool) * 1e3, rel=1e-12)
    for percentile in (50, 90, 99):
        expected = np.percentile(pool, percentile) * 1e3
        assert row[f"itl_p{percentile}_ms"] == pytest.approx(expected, rel=1e-12)
