"""Bands of TPOT on chips whose engines no constant was fitted to, against measured closed loops."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.simulation import simulate
from cluster_sim.specs.load import load_topology, load_workload

PACKAGED = Path(__file__).parents[2] / "cases" / "serving.csv.gz"
SAMPLE = 7  # every seventh of the AMD runs


def band(row: dict[str, str], topology: str, software: str) -> tuple[float, float, float]:
    """TPOT in ms that a run is simulated to have, and its band."""
    n = {key: int(float(row[key] or 1)) for key in ("tp", "attn_dp", "ep", "isl", "osl")}
    clients = int(float(row["concurrency"]))
    changes = [f"workload.model={row['model']}", f"workload.software={software}"]
    changes += [f"workload.precision={row['weights_dtype']}"]
    changes += [f"workload.{key}={{fixed: {n[key]}}}" for key in ("isl", "osl")]
    changes += [f"plan.{key}={n[key]}" for key in ("tp", "attn_dp", "ep")]
    changes += ["plan.replicas=1", f"workload.arrivals.concurrency={clients}"]
    changes += [f"workload.requests={max(4, min(4 * clients, 300))}"]
    machine = load_topology(topology)
    job = load_workload("llama70b_closed", changes, vendor=machine.chip.vendor)
    row_ = simulate(machine, job).summary
    return row_["tpot_mean_ms_low"], row_["tpot_mean_ms"], row_["tpot_mean_ms_high"]


def test_every_packaged_run_on_910b_lies_in_its_band() -> None:
    text = gzip.decompress(PACKAGED.read_bytes()).decode()
    rows = [
        row
        for row in csv.DictReader(io.StringIO(text))
        if row["chip"] == "ascend_910b" and row["metric"] == "tpot_ms_mean"
    ]
    assert len(rows) == 10
    for row in rows:
        low, middle, high = band(row, "ascend_910b_8", "vllm")
        print(row["concurrency"], row["value"], round(low, 1), round(middle, 1), round(high, 1))
        assert low <= float(row["value"]) <= high


@pytest.mark.slow
def test_four_in_five_runs_on_amd_lie_in_their_bands(shared: Path) -> None:
    text = (shared / "ground_truth" / "serving_cases_2026_11.csv").read_text()
    rows = [
        row
        for row in csv.DictReader(io.StringIO(text))
        if row["chip"] in ("mi300x", "mi355x")
        and (row["mode"], row["framework"]) == ("closed_loop", "sglang")
        and row["metric"] == "tpot_ms_p50"
        and not row["flags"]
    ]
    inside = []
    for row in sorted(rows, key=lambda row: row["run_id"])[3::SAMPLE]:  # not what set the band
        try:
            low, _, high = band(row, f"{row['chip']}_8", "sglang")
        except (DoesNotFitError, SpecError):
            continue
        inside.append(low <= float(row["value"]) <= high)
    print(f"{len(inside)} runs, {sum(inside) / len(inside):.1%} inside")
    assert len(inside) > 30
    assert 0.7 <= sum(inside) / len(inside) <= 0.9
