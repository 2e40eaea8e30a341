"""A Llama decoder in plain torch with random weights, and the time of its steps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.kernels.layout import Layout
from cluster_sim.kernels.model_ops import layer_gemms
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model
from cluster_sim.studies.measure_cases import Figure, StepCase
from cluster_sim.studies.measure_operators import (
    BACKENDS,
    attend,
    attention_choices,
    product,
    random,
    stored,
)
from cluster_sim.studies.measure_torch import (
    Device,
    count_kernels,
    fastest,
    first_line,
    missing,
    quiet,
    recover,
    sensors,
    time_replay,
)

DTYPES = ("bf16", "fp8")
FREE_SHARE = 0.9  # of the free memory that a case may take; the rest is for libraries and graphs
WIDTH = 2  # bytes of activations, cache, embedding and LM head: bf16


@dataclass(frozen=True, slots=True)
class Step:
    """What a step gave: a figure and the kernels of a layer beside products and attention, or why
    it was left out.
    """

    case: StepCase
    figure: Figure | None
    kernels: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Decoder:
    """Layers as tensors: each (first norm, qkv, output, second norm, gate and up, down), where
    matrices are functions that multiply.
    """

    device: Device
    model: Model
    dtype: str
    layers: tuple[tuple[Any, ...], ...]
    embedding: Any
    norm: Any
    head: Any


@dataclass(frozen=True, slots=True)
class _Batch:
    """What a step works on: ``start`` tokens of each sequence are cached already."""

    tokens: Any
    keys: tuple[Any, ...]
    values: tuple[Any, ...]
    cosine: Any
    sine: Any
    start: int
    backend: str


def step_model(name: str) -> Model:
    """A model whose steps can be measured; raises SpecError for all but dense Llama-like ones."""
    _, model = load_spec("model", name, Model)
    plain = model.gated and model.norms == 2 and not model.biases and not model.learned_positions
    other = model.mla or model.moe or model.local or model.linear or not model.alike
    if other or not plain or model.qk_norm or model.output_gate or model.parallel_block:
        raise SpecError(
            f"--model {name}: steps are measured of dense models as Llama is (grouped queries, two "
            "norms, gated MLP, no biases); choose one such as llama3.1-8b"
        )
    return model


def measure_steps(device: Device, cases: Sequence[StepCase]) -> Iterator[Step]:
    """Time steps one by one; weights are made once for neighbours of one model and dtype."""
    decoder: _Decoder | None = None
    made: tuple[str, int, str] | None = None
    for case in cases:
        try:
            lacking = missing(device, case.dtype) or _too_large(device, case, made)
            if lacking:
                yield Step(case, None, reason=lacking)
                continue
            with quiet(device):
                wanted = (case.model, case.layers, case.dtype)
                if decoder is None or made != wanted:
                    decoder = made = None  # first, so that there is room for the next
                    decoder, made = _make(device, case), wanted
                step = _measure(decoder, case)
        except RuntimeError as error:
            recover(device, error)
            step = Step(case, None, reason=first_line(error))
        yield step


def needed_bytes(case: StepCase, *, weights: bool) -> float:
    """Memory of a case: the cache, the activations of a layer, and the weights where they have to
    be made first.
    """
    model = step_model(case.model)
    computed = case.batch * (1 if case.phase == "decode" else case.seq_len)
    cache = 2 * case.layers * case.batch * case.seq_len * model.kv_heads * model.head_dim
    wide = (
        4 * model.hidden
        + 3 * model.ffn_hidden
        + 3 * (model.heads + 2 * model.kv_heads) * (model.head_dim)
    )
    needed = float(WIDTH * (cache + computed * wide + case.batch * model.vocab))
    if weights:
        products = sum(gemm.n * gemm.k for gemm in layer_gemms(model, Layout()))
        needed += case.layers * products * BYTES_PER_ELEMENT[case.dtype]
        needed += 2 * WIDTH * model.vocab * model.hidden
    return needed


def _too_large(device: Device, case: StepCase, made: tuple[str, int, str] | None) -> str:
    """Why a case does not fit beside the weights; empty if it does or if nobody knows."""
    if device.kind == "cpu":
        return ""
    device.torch.cuda.empty_cache()
    free, total = device.torch.cuda.mem_get_info()
    fresh = made != (case.model, case.layers, case.dtype)
    room = FREE_SHARE * (total if fresh else free)
    needed = needed_bytes(case, weights=fresh)
    return "" if needed <= room else f"needs {needed / 1e9:.1f} GB, {room / 1e9:.1f} GB are free"


def _make(device: Device, case: StepCase) -> _Decoder:
    """Weights of unit variance over the root of their inputs, so that numbers stay in range."""
    model = step_model(case.model)
    widths = {gemm.name: (gemm.n, gemm.k) for gemm in layer_gemms(model, Layout())}

    def matrix(name: str, dtype: str) -> Any:
        n, k = widths[name]
        scale = k**-0.5
        if dtype == "bf16":
            return product(device, dtype, random(device, n, k).mul_(scale))
        multiply = product(device, dtype, stored(device, dtype, random(device, n, k)), scale)
        return lambda rows: multiply(stored(device, dtype, rows))

    def norm() -> Any:
        return random(device, model.hidden).abs_()

    order = ("qkv", "attention_output", "dense_gate_up", "dense_down")
    layers = []
    for _ in range(case.layers):
        qkv, output, gate_up, down = (matrix(name, case.dtype) for name in order)
        layers.append((norm(), qkv, output, norm(), gate_up, down))
    widths["head"] = (model.vocab, model.hidden)
    table = random(device, model.vocab, model.hidden)
    head = matrix("head", "bf16")
    return _Decoder(device, model, case.dtype, tuple(layers), table, norm(), head)


def _measure(decoder: _Decoder, case: StepCase) -> Step:
    device, model = decoder.device, decoder.model
    batch, how = _batch(decoder, case)
    rows = case.batch * batch.tokens.shape[1]
    hidden = random(device, rows, model.hidden)
    kernels = count_kernels(device, lambda: _layer(decoder, batch, 0, hidden, hidden))

    def call() -> Any:
        return _step(decoder, batch)

    timing = time_replay(device, call)
    parts = (f"{device.about}, attention {how}", str(timing), sensors(device, call))
    flags = ("plain_torch", *timing.flags)
    note = "; ".join(part for part in parts if part)
    return Step(case, Figure(seconds=timing.seconds, flags=flags, note=note), kernels)


def _batch(decoder: _Decoder, case: StepCase) -> tuple[_Batch, str]:
    """Cache and tokens of a case, and the attention backend that is fastest on them.

    A decode step computes the last token of its context.
    """
    device, model, torch = decoder.device, decoder.model, decoder.device.torch
    new = 1 if case.phase == "decode" else case.seq_len
    held = (case.batch, case.seq_len, model.kv_heads, model.head_dim)
    keys = tuple(random(device, *held) for _ in range(case.layers))
    values = tuple(random(device, *held) for _ in range(case.layers))
    tokens = torch.randint(model.vocab, (case.batch, new), device=device.kind)
    angles = random(device, new, 1, model.head_dim)
    query = random(device, case.batch, new, model.heads, model.head_dim)
    shaped = _heads(query, keys[0], values[0])
    choices = attention_choices(device, *shaped, causal=new > 1)
    _, how = fastest(device, choices)
    name = how.split(" (")[0]
    backend = next(b for group in BACKENDS for b in group if b.lower().startswith(name))
    start = case.seq_len - new
    return _Batch(tokens, keys, values, angles.cos(), angles.sin(), start, backend), how


def _heads(query: Any, key: Any, value: Any) -> tuple[Any, Any, Any]:
    """Batch x tokens x heads x dim as attention wants it; a single token's queries of one KV head
    stand as if they were tokens, so that the cache is read once.
    """
    batch, new, heads, dim = query.shape
    kv_heads = key.shape[2]
    if new == 1:
        shaped = query.view(batch, kv_heads, heads // kv_heads, dim)
    else:
        shaped = query.transpose(1, 2)
    return shaped, key.transpose(1, 2), value.transpose(1, 2)


def _step(decoder: _Decoder, batch: _Batch) -> Any:
    """One step: the next token of every sequence."""
    functional, model = decoder.device.torch.nn.functional, decoder.model
    residual = functional.embedding(batch.tokens.view(-1), decoder.embedding)
    added = decoder.device.torch.zeros_like(residual)
    for place in range(len(decoder.layers)):
        residual, added = _layer(decoder, batch, place, residual, added)
    sequences, new = batch.tokens.shape
    last = (residual + added).view(sequences, new, model.hidden)[:, -1]
    last = functional.rms_norm(last, (model.hidden,), decoder.norm)
    return decoder.head(last).argmax(dim=-1)


def _layer(
    decoder: _Decoder, batch: _Batch, place: int, residual: Any, added: Any
) -> tuple[Any, Any]:
    """One layer on the rows of a step; returns the residual and what is to be added to it."""
    torch, model = decoder.device.torch, decoder.model
    functional, dim = torch.nn.functional, model.head_dim
    first, qkv, output, second, gate_up, down = decoder.layers[place]
    sequences, new = batch.tokens.shape
    residual = residual + added
    mixed = qkv(functional.rms_norm(residual, (model.hidden,), first))
    mixed = mixed.view(sequences, new, model.heads + 2 * model.kv_heads, dim)
    turning = mixed[:, :, : model.heads + model.kv_heads]
    # Rotary embedding; the sign of the rolled half is part of the sine.
    turned = torch.addcmul(turning * batch.cosine, turning.roll(dim // 2, -1), batch.sine)
    key, value = batch.keys[place], batch.values[place]
    key[:, batch.start :].copy_(turned[:, :, model.heads :])
    value[:, batch.start :].copy_(mixed[:, :, model.heads + model.kv_heads :])
    shaped = _heads(turned[:, :, : model.heads], key, value)
    seen = attend(decoder.device, batch.backend, *shaped, causal=new > 1)
    seen = seen.reshape(sequences, 1, -1) if new == 1 else seen.transpose(1, 2)
    residual = residual + output(seen.reshape(sequences * new, -1))
    gate, up = gate_up(functional.rms_norm(residual, (model.hidden,), second)).chunk(2, dim=-1)
    return residual, down(functional.silu(gate) * up)
