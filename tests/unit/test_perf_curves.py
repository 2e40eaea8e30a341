"""The curves follow the tables that they were fitted on as closely as their sources say."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.perf.collectives import all_reduce_s
from cluster_sim.perf.operators import gemm_s
from cluster_sim.specs.load import load_topology

CUSTOM = "TensorRT-LLM 1.3.0rc20 custom all-reduce"
MIB = 2**20


def rows(shared: Path, name: str, **wanted: str) -> list[dict[str, str]]:
    with (shared / "ground_truth" / name).open(encoding="utf-8", newline="") as file:
        found = [r for r in csv.DictReader(file) if all(r[k] == v for k, v in wanted.items())]
    assert found, wanted
    return found


def errors(simulated_s: np.ndarray, cases: list[dict[str, str]]) -> np.ndarray:
    return simulated_s * 1e6 / np.array([float(case["value"]) for case in cases]) - 1


@pytest.mark.parametrize(
    ("topology", "chip", "library", "ranks", "smallest", "most"),
    [
        *(("h200_nvl8", "h200_sxm", CUSTOM, n, 0, 0.05) for n in (2, 4, 8)),
        *(("h100_nvl8", "h100_sxm", CUSTOM, n, 0, 0.03) for n in (2, 4, 8)),
        # B200 curves hold 0.85 of the table's latencies
        *(("b200_nvl8", "b200", CUSTOM, n, 0, 0.15) for n in (2, 4, 8)),
        *(("a100_nvl8", "a100_80g_sxm", "NCCL 2.27.3", n, MIB, 0.10) for n in (4, 8)),
    ],
)
def test_all_reduce_tables(
    shared: Path, topology: str, chip: str, library: str, ranks: int, smallest: int, most: float
) -> None:
    found = rows(
        shared,
        "collective_cases.csv",
        chip=chip,
        library=library,
        n_chips=str(ranks),
        collective="all_reduce",
        metric="time_us",
    )
    cases = [case for case in found if float(case["message_bytes"]) >= smallest]
    message = np.array([float(case["message_bytes"]) for case in cases])
    algorithms = ("one_shot", "ring", "in_switch") if library == CUSTOM else ("ring",)
    off = errors(all_reduce_s(load_topology(topology), algorithms, message, ranks), cases)
    assert np.median(np.abs(off)) < most
    assert np.abs(off).max() < 0.5


@pytest.mark.parametrize(
    ("topology", "chip", "dtype", "most"),
    [
        ("h200_nvl8", "h200_sxm", "bf16", 0.05),
        ("h100_nvl8", "h100_sxm", "bf16", 0.05),
        ("h200_nvl8", "h200_sxm", "fp8", 0.06),
        ("h100_nvl8", "h100_sxm", "fp8", 0.06),
        ("a100_nvl8", "a100_80g_sxm", "bf16", 0.06),
    ],
)
def test_large_gemm_tables(shared: Path, topology: str, chip: str, dtype: str, most: float) -> None:
    """From 1,024 rows on, where the floor that engines hide no longer matters."""
    found = rows(shared, "op_cases.csv", chip=chip, op="gemm", dtype=dtype, framework="trtllm")
    cases = [case for case in found if float(case["m"]) >= 1024]
    machine = load_topology(topology)
    seconds = [
        gemm_s(machine, dtype, np.array([float(c["m"])]), int(float(c["n"])), int(float(c["k"])))
        for c in cases
    ]
    off = errors(np.array([time[0] for time, _ in seconds]), cases)
    assert np.median(np.abs(off)) < most
    assert abs(np.median(off)) < most


@pytest.mark.parametrize(
    ("topology", "chip"),
    [("h200_nvl8", "h200_sxm"), ("h100_nvl8", "h100_sxm"), ("b200_nvl8", "b200")],
)
def test_measured_cache_reads_stay_below_the_peak(shared: Path, topology: str, chip: str) -> None:
    """What ``measured`` stands on: no timing implies more than the memory can deliver."""
    bandwidth = load_topology(topology).chip.memory.bandwidth
    for case in rows(shared, "op_cases.csv", chip=chip, op="attention_decode", kv_dtype="bf16"):
        batch, length, heads = (float(case[k]) for k in ("batch", "seq_len", "kv_heads"))
        moved = 4 * batch * length * heads * float(case["head_dim"])
        if moved > 2e8:
            assert moved / (float(case["value"]) * 1e-6) < bandwidth
