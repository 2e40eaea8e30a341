"""What a run says about the trust in its own figures."""

from __future__ import annotations

import pytest

from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload


@pytest.mark.parametrize(("chips", "expected"), [(1, False), (64, True)])
def test_few_requests_on_a_large_machine_are_called_a_lower_bound(
    chips: int, expected: bool
) -> None:
    job = load_workload("llama70b", ["workload.requests=800", "plan.tp=1"])
    result = simulate(load_topology(f"{chips} x b200"), job)
    notes = [note for note in result.manifest["notes"] if "is a lower bound" in note]
    assert bool(notes) is expected
    if notes:
        (batch,) = {c["batch"] for c in result.manifest["candidates"]}
        assert f"--requests {4 * batch * chips} would tell" in notes[0]
