"""The plain decoder computes what a decoder computes. Needs torch."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster_sim.studies import measure_decoder as decoder_module
from cluster_sim.studies.measure_cases import StepCase
from cluster_sim.studies.measure_grid import cpu_grid
from cluster_sim.studies.measure_operators import measure_op, product, stored
from cluster_sim.studies.measure_torch import Device, count_kernels, open_device, quiet

TINY = """title: Tiny
layers: 2
hidden: 64
ffn_hidden: 128
heads: 4
kv_heads: 2
head_dim: 16
vocab: 256
max_context: 1024
"""


@pytest.fixture
def cpu() -> Iterator[Device]:
    torch = pytest.importorskip("torch", reason="needs torch: pip install 'cluster-sim[measure]'")
    torch.manual_seed(1)
    device = open_device("cpu")
    with quiet(device):
        yield device


def made(cpu: Device, folder: Path, phase: str, batch: int, length: int) -> tuple[Any, Any]:
    (folder / "tiny.yaml").write_text(TINY)
    case = StepCase(
        model=str(folder / "tiny.yaml"),
        layers=2,
        dtype="bf16",
        phase=phase,
        batch=batch,
        seq_len=length,
    )
    decoder = decoder_module._make(cpu, case)
    return decoder, decoder_module._batch(decoder, case)[0]


def last_hidden(decoder: Any, batch: Any) -> Any:
    """What leaves the layers for the last token of every sequence."""
    torch = decoder.device.torch
    residual = decoder.embedding[batch.tokens.view(-1)]
    added = torch.zeros_like(residual)
    for place in range(len(decoder.layers)):
        residual, added = decoder_module._layer(decoder, batch, place, residual, added)
    whole = (residual + added).view(*batch.tokens.shape, -1)
    return whole[:, -1].float()


def test_a_decode_step_continues_its_prompt(cpu: Device, tmp_path: Path) -> None:
    """The last token of a prompt, computed alone on the cache of those before, comes out equal."""
    decoder, prompt = made(cpu, tmp_path, "prefill", 3, 24)
    whole = last_hidden(decoder, prompt)
    alone = replace(
        prompt,
        tokens=prompt.tokens[:, -1:],
        cosine=prompt.cosine[-1:],
        sine=prompt.sine[-1:],
        start=23,
    )
    for cached in (*alone.keys, *alone.values):
        cached[:, -1] = 0  # the step itself must write it
    step = last_hidden(decoder, alone)
    assert (step - whole).abs().max() < 0.03 * whole.abs().max()
    alone.keys[0][:, 5] = 3.0
    changed = last_hidden(decoder, alone)
    assert (changed - whole).abs().max() > 0.03 * whole.abs().max()


def test_a_prompt_is_causal(cpu: Device, tmp_path: Path) -> None:
    decoder, prompt = made(cpu, tmp_path, "prefill", 2, 16)
    torch = cpu.torch
    residual = decoder.embedding[prompt.tokens.view(-1)]
    before = decoder_module._layer(decoder, prompt, 0, residual, torch.zeros_like(residual))[1]
    other = residual.view(2, 16, -1).clone()
    other[:, 10] += 1.0
    after = decoder_module._layer(decoder, prompt, 0, other.view(32, -1), residual * 0)[1]
    moved = (after - before).view(2, 16, -1).abs().amax(dim=(0, 2)) > 0
    assert moved[10:].all()
    assert not moved[:10].any()


def test_glue_is_counted_without_products_and_views(cpu: Device) -> None:
    torch = cpu.torch
    rows = torch.randn(4, 8, dtype=torch.bfloat16)

    def call() -> Any:
        mixed = torch.mm(rows, rows.t()).view(2, 8)[:, :4]
        return torch.nn.functional.silu(mixed) * 2 + 1

    assert count_kernels(cpu, call) == 3


@pytest.mark.parametrize("dtype", ["bf16", "fp8", "int8"])
def test_products_are_products(cpu: Device, dtype: str) -> None:
    torch = cpu.torch
    rows, weights = torch.randn(32, 64).bfloat16(), torch.randn(48, 64).bfloat16()
    got = product(cpu, dtype, stored(cpu, dtype, weights))(stored(cpu, dtype, rows)).float()
    wanted = rows.float() @ weights.float().t() * (32**2 if dtype == "int8" else 1)
    assert (got - wanted).abs().max() < 0.15 * wanted.abs().max()


@pytest.mark.parametrize("op", ["attention_prefill", "mla_prefill"])
def test_the_note_names_the_backend(cpu: Device, op: str) -> None:
    (case,) = cpu_grid([op], ["bf16"])
    assert "flash" in measure_op(cpu, case).note
