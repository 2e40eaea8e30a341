"""Against measured cases: nothing here was used to fit a curve."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload


def measured(shared: Path, isl: int, osl: int) -> list[float]:
    """Output tokens/s of a TP2 pair of H200 with Llama-3.1/3.3-70B in FP8, TensorRT-LLM."""
    text = (shared / "ground_truth" / "serving_cases.csv").read_text()
    return [
        float(row["value"])
        for row in csv.DictReader(text.splitlines())
        if (row["chip"], row["model"], row["mode"]) == ("h200_sxm", "llama3.1-70b", "offline")
        and (row["tp"], row["isl"], row["osl"]) == ("2", str(isl), str(osl))
        and row["metric"] == "output_tokens_per_s"
        and row["weights_dtype"] == "fp8"
    ]


@pytest.mark.parametrize(("isl", "osl", "requests"), [(2048, 128, 1500), (128, 2048, 4500)])
def test_offline_throughput_of_a_pair(shared: Path, isl: int, osl: int, requests: int) -> None:
    values = measured(shared, isl, osl)
    assert values
    changes = ["plan.tp=2", "plan.replicas=1", f"workload.requests={requests}"]
    changes += ["workload.model=llama3.1-70b"]
    changes += [f"workload.isl={{fixed: {isl}}}", f"workload.osl={{fixed: {osl}}}"]
    job = load_workload("llama70b_offline", changes)
    simulated = simulate(load_topology("h200_nvl8"), job).summary["output_tokens_per_s"]
    print(f"{isl}/{osl}: simulated {simulated:.0f}, measured {values}")
    assert simulated == pytest.approx(sum(values) / len(values), rel=0.30)
