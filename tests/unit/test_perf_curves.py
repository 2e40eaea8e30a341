"""The curves follow the tables that they were fitted on as closely as their sources say."""

from __future__ import annotations

import csv
import dataclasses
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.kernels.attention import prompt_attention
from cluster_sim.kernels.curves import attention_curves, mla_curves
from cluster_sim.kernels.experts import expert_time
from cluster_sim.kernels.gemm import gemm_s
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.model import Mla, Moe

LAUNCH_OVERLAP = {"b200": 0.85}  # of floors, seen in engines and not in tables
CUSTOM = "TensorRT-LLM 1.3.0rc20 custom all-reduce"
MIB = 2**20


@cache
def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def rows(shared: Path, name: str, **wanted: str) -> list[dict[str, str]]:
    cases = table(shared / "ground_truth" / name)
    found = [case for case in cases if all(case[k] == v for k, v in wanted.items())]
    assert found, wanted
    return found


def errors(simulated_s: np.ndarray, cases: list[dict[str, str]]) -> np.ndarray:
    return simulated_s * 1e6 / np.array([float(case["value"]) for case in cases]) - 1


@pytest.mark.parametrize(
    ("topology", "chip", "dtype", "most"),
    [
        ("h200_nvl8", "h200_sxm", "bf16", 0.05),
        ("h100_nvl8", "h100_sxm", "bf16", 0.05),
        ("h200_nvl8", "h200_sxm", "fp8", 0.06),
        ("h100_nvl8", "h100_sxm", "fp8", 0.06),
        ("a100_nvl8", "a100_80g_sxm", "bf16", 0.06),
        ("a100_nvl8", "a100_80g_sxm", "w4a16", 0.06),
        ("a100_nvl8", "a100_80g_sxm", "w8a16", 0.06),
        ("h200_nvl8", "h200_sxm", "fp8_block", 0.08),
        ("h100_nvl8", "h100_sxm", "fp8_block", 0.08),
        ("b200_nvl8", "b200", "fp8_block", 0.08),
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


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
@pytest.mark.parametrize(
    ("topology", "chip", "latent"),
    [
        *(
            (f"{name}_nvl8", f"{name}_sxm", latent)
            for name in ("h100", "h200")
            for latent in (0, 1)
        ),
        *(("b200_nvl8", "b200", latent) for latent in (0, 1)),
    ],
)
def test_prompt_attention_tables(
    shared: Path, topology: str, chip: str, kv: str, latent: bool
) -> None:
    machine, dense = load_topology(topology), load_workload("llama8b").model
    wanted = {"chip": chip, "framework": "trtllm", "kv_dtype": kv}
    if latent:
        cases = rows(shared, "op_cases.csv", op="mla_prefill", **wanted)
    else:
        cases = rows(shared, "op_cases.csv", op="attention_prefill", dtype=kv, **wanted)
    seconds = []
    for case in cases:
        heads, length = int(float(case["heads"])), float(case["seq_len"])
        model = dataclasses.replace(dense, layers=1, heads=heads, head_dim=128)
        if latent:
            mla = Mla(q_rank=1536, kv_rank=512, nope_dim=128, rope_dim=64, v_dim=128)
            model = dataclasses.replace(model, mla=mla)
        prompt = prompt_attention(machine, model, Layout(), Recipe("bf16", *["bf16"] * 3, kv))
        work = float(case["batch"]) * length**2 * (1 + prompt.half_length / length)
        floor = prompt.floor_s / LAUNCH_OVERLAP.get(chip, 1)
        seconds.append(floor + prompt.all_s * work)
    assert np.median(np.abs(errors(np.array(seconds), cases))) < 0.09


@pytest.mark.parametrize("kv", ["bf16", "fp8"])
@pytest.mark.parametrize(
    ("topology", "chip", "most"),
    [
        ("h100_nvl8", "h100_sxm", 0.13),
        ("h200_nvl8", "h200_sxm", 0.15),
        ("b200_nvl8", "b200", 0.08),
    ],
)
def test_decode_attention_tables(
    shared: Path, topology: str, chip: str, most: float, kv: str
) -> None:
    machine = load_topology(topology)
    width, overlap = (1 if kv == "fp8" else 2), LAUNCH_OVERLAP.get(chip, 1)
    bandwidth, peak = machine.chip.device_bandwidth, machine.chip.device_peak("bf16")
    _, stream = attention_curves(machine, kv)
    _, latent = mla_curves(machine, kv)
    for op in ("attention_decode", "mla_decode"):
        found = rows(shared, "op_cases.csv", op=op, chip=chip, framework="trtllm", kv_dtype=kv)
        cases = [c for c in found if op == "mla_decode" or c["heads"] != c["kv_heads"]]
        batch, length, heads = (
            np.array([float(case[key]) for case in cases]) for key in ("batch", "seq_len", "heads")
        )
        if op == "mla_decode":
            read = batch * length * 576 * width / (bandwidth * latent.memory)
            math = 2 * batch * heads * 1088 * length / (peak * latent.compute)
            rest = batch * heads * 1088 * 2 / (bandwidth * (latent.queries or latent.memory))
            seconds = latent.floor / overlap + rest + np.maximum(read, math)
        else:
            kv_heads, dim = (
                np.array([float(case[k]) for case in cases]) for k in ("kv_heads", "head_dim")
            )
            moved = batch * 2 * dim * (kv_heads * length * width + heads * 2)
            floor = stream.floor / overlap + batch * kv_heads * stream.row
            seconds = floor + moved / (bandwidth * stream.memory)
        assert np.median(np.abs(errors(seconds, cases))) < most


@pytest.mark.parametrize("chip", ["h100", "h200"])
@pytest.mark.parametrize(("dtype", "most"), [("bf16", 0.08), ("fp8", 0.08), ("fp8_block", 0.16)])
def test_expert_tables(shared: Path, chip: str, dtype: str, most: float) -> None:
    """Touched experts, the slowest device and its time, under the loads of the table."""
    machine, dense = load_topology(f"{chip}_nvl8"), load_workload("llama8b").model
    found = rows(shared, "op_cases.csv", op="moe_ffn", chip=f"{chip}_sxm", dtype=dtype)
    cases = [case for case in found if case["flags"].startswith("routing_power_law")]
    seconds, times = [], {}
    for case in cases:
        top_k, experts, ep, tp, hidden, width, tokens = (
            int(float(case[k])) for k in ("top_k", "experts", "ep", "tp", "k", "n", "tokens")
        )
        key = (top_k, experts, ep, tp)
        if key not in times:
            moe = Moe(experts=experts, top_k=top_k, expert_hidden=width, layers=1)
            model = dataclasses.replace(dense, layers=1, hidden=hidden, moe=moe)
            recipe = Recipe(dtype, dtype, dtype, dtype, "bf16")
            times[key] = expert_time(machine, model, Layout(tp=ep * tp, ep=ep), recipe, 16384)
        seconds.append(times[key].math_s[tokens] + times[key].weights_s[tokens])
    off = errors(np.array(seconds), cases)
    assert np.median(np.abs(off)) < most
    assert abs(np.median(off)) < 0.05
