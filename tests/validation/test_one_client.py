"""What one client waits for its first token, against published reports: nothing here was fitted to
them. The engine is vLLM of 2025 with its defaults.

Sources: issues 394 and 340 of tt-inference-server, which time GPUs for comparison; 64
output tokens are assumed.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from cluster_sim.metrics import latencies
from cluster_sim.simulation import play
from cluster_sim.specs.load import load_topology, load_workload

QWEN3_4B = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "torch_dtype": "bfloat16",
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "num_hidden_layers": 36,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151936,
    "tie_word_embeddings": True,
    "max_position_embeddings": 40960,
}


def ttft_ms(machine: str, model: str, isl: int, *changes: str) -> tuple[float, float]:
    """Mean TTFT of one client after another, as it sees it and as the engine has it."""
    job = load_workload(
        "llama8b",
        [
            *(f"workload.model={model}", "workload.software=vllm", "workload.precision=bf16"),
            *(f"workload.isl={{fixed: {isl}}}", "workload.osl={fixed: 64}"),
            *("workload.arrivals={kind: closed, concurrency: 1}", "workload.requests=8"),
            *changes,
        ],
    )
    facts = play(load_topology(machine), job)
    outcomes = facts.run.outcomes
    engine = np.array(outcomes.first_s) - np.array(outcomes.arrival_s)
    seen = latencies(facts.run, facts.requests)
    return float(seen.ttft_s.mean()) * 1e3, float(engine.mean()) * 1e3


@pytest.mark.parametrize(("isl", "reported"), [(128, 33.0), (1024, 62.0)])
def test_a_dense_model_on_a_small_card(isl: int, reported: float, tmp_path: Path) -> None:
    """With steps of a loaded engine charged to an idle one it was 57.6 and 119 ms."""
    path = tmp_path / "qwen3-4b.json"
    path.write_text(json.dumps(QWEN3_4B))
    seen, engine = ttft_ms("1 x rtx4090", str(path), isl)
    print(f"{isl} tokens: {seen:.1f} ms, of it the engine {engine:.1f}; reported {reported}")
    assert seen == pytest.approx(reported, rel=0.45)


def test_a_sparse_model_on_an_older_card() -> None:
    """It was 67 ms. Limits: 8,192 tokens take the engine itself twice as long as reported."""
    seen, engine = ttft_ms("1 x a100_80g_sxm", "qwen3-30b-a3b", 128)
    print(f"128 tokens: {seen:.1f} ms, of it the engine {engine:.1f}; reported 35.7")
    assert seen == pytest.approx(35.7, rel=0.45)
