"""Bands of TPOT against measured closed-loop runs."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import pytest

from cluster_sim.errors import DoesNotFitError
from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload

HOSTS = {"h100_sxm": "h100_nvl8", "h200_sxm": "h200_nvl8", "b200": "b200_nvl8", "b300": "b300_nvl8"}
LEFT_OUT = {"suspect", "shape_incomplete", "mtp_likely", "duplicate_run", "simulated", "derived"}
LEFT_OUT |= {"restated", "metric_ambiguous", "preview", "virtualized", "power_capped", "wip"}
SETUP = ("chip", "model", "framework", "weights_dtype", "tp", "attn_dp", "ep", "isl", "osl")
SAMPLE = 6  # every sixth run


def scored(row: dict[str, str]) -> bool:
    """Whether a set-up belongs to the half that no constant of the bands was calibrated on."""
    text = "|".join(
        str(int(float(row[key] or 1))) if key in SETUP[4:] else row[key] for key in SETUP
    )
    return hashlib.sha256(text.encode()).digest()[0] % 2 == 1


def cases(shared: Path) -> list[dict[str, str]]:
    text = (shared / "ground_truth" / "serving_cases.csv").read_text()
    rows = [
        row
        for row in csv.DictReader(text.splitlines())
        if row["mode"] == "closed_loop"
        and row["metric"].startswith("tpot")
        and row["framework"] in ("trtllm", "vllm", "sglang")
        and row["chip"] in HOSTS
        and not LEFT_OUT & set(row["flags"].split(";"))
        and "dynamo" not in row["note"]
        and float(row["concurrency"] or 1) <= 1024
    ]
    return sorted((row for row in rows if scored(row)), key=lambda row: row["run_id"])[::SAMPLE]


def changes(row: dict[str, str]) -> list[str]:
    n = {key: int(float(row[key] or 1)) for key in ("tp", "pp", "attn_dp", "ep", "isl", "osl")}
    clients = int(float(row["concurrency"]))
    found = [f"workload.{key}={row[key]}" for key in ("model",)]
    found += [f"workload.software={row['framework']}", f"workload.precision={row['weights_dtype']}"]
    for key in ("isl", "osl"):
        uniform = f"{{quantiles: {{0%: {max(1, int(0.8 * n[key]))}, 100%: {n[key]}}}}}"
        even = row["isl_dist"].startswith("uniform")
        found.append(f"workload.{key}={uniform if even else f'{{fixed: {n[key]}}}'}")
    found += [f"plan.{key}={n[key]}" for key in ("tp", "pp", "attn_dp", "ep")]
    found += ["plan.replicas=1", f"workload.arrivals.concurrency={clients}"]
    found += [f"workload.requests={min(10 * clients, 1000)}"]
    if row["kv_dtype"] in ("fp8", "bf16"):
        found.append(f"engine.kv_dtype={row['kv_dtype']}")
    return found


@pytest.mark.slow
def test_three_in_four_measured_tpots_lie_in_their_bands(shared: Path) -> None:
    inside: list[bool] = []
    for row in cases(shared):
        job = load_workload("llama70b_closed", changes(row))
        try:
            summary = simulate(load_topology(HOSTS[row["chip"]]), job).summary
        except DoesNotFitError:
            continue
        low, high = summary["tpot_mean_ms_low"], summary["tpot_mean_ms_high"]
        inside.append(low <= float(row["value"]) <= high)
    share = sum(inside) / len(inside)
    print(f"{len(inside)} runs, {share:.1%} inside")
    assert len(inside) > 100
    assert 0.68 <= share <= 0.88
