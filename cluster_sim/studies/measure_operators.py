"""Operators as torch calls, and their time on a device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cluster_sim.studies.measure_cases import GLUE, Figure, OpCase, moved_bytes
from cluster_sim.studies.measure_torch import (
    Call,
    Device,
    count_kernels,
    fastest,
    missing,
    quiet,
    sensors,
)

LATENT, ROPE = 512, 64  # of the absorbed form of MLA: DeepSeek-V3
NOPE_DIM, V_DIM = 128, 128  # of its expanded form
FUSED = ("FLASH_ATTENTION", "CUDNN_ATTENTION")
BACKENDS = (FUSED, ("EFFICIENT_ATTENTION",), ("MATH",))  # later ones where none before runs
Choices = list[list[tuple[str, Call]]]


def measure_op(device: Device, case: OpCase) -> Figure:
    """Time an operator; raises RuntimeError where torch or the device cannot run it."""
    lacking = missing(device, case.dtype)
    if lacking:
        raise RuntimeError(lacking)
    with quiet(device):
        choices, flags = _CALLS[case.op](device, case)
        timing, name = fastest(device, choices)
        first = name.split(" (")[0]
        call = next(call for group in choices for known, call in group if known == first)
        kernels = count_kernels(device, call) if case.op.startswith(GLUE) else 1
        note = [f"{device.about}, kernel {name}", str(timing), _remark(case, timing.seconds)]
        note += [f"{kernels} kernels" if kernels > 1 else "", sensors(device, call)]
    if first in ("math", "plain") or kernels > 1:
        flags = (*flags, "plain_torch")
    text = "; ".join(part for part in note if part)
    return Figure(seconds=timing.seconds, flags=(*flags, *timing.flags), note=text)


def _remark(case: OpCase, seconds: float) -> str:
    """What else is worth noting of some operators."""
    if case.op.startswith(GLUE):
        return f"{moved_bytes(case) / seconds / 1e9:.5g} GB/s read and written"
    if case.dtype == "int8":
        return "result in int32"
    return _REMARKS.get(case.op, "")


_REMARKS = {
    "mla_prefill": "causal, qk dim 192, v dim 128",
    "mla_decode": "absorbed decode, seq_len = context, latent 512 + 64",
    "moe_ffn": "tokens over the whole EP group, time of one rank; n = expert width before TP",
}


def random(device: Device, *shape: int) -> Any:
    """Normal random numbers in bf16 (power and clocks depend on what is multiplied)."""
    torch = device.torch
    return torch.randn(*shape, dtype=torch.bfloat16, device=device.kind)


def product(device: Device, dtype: str, weights: Any, scale: float = 1.0) -> Any:
    """A function that multiplies rows (m x k) with weights (n x k), both as ``stored`` gives them;
    fp8 results are scaled.
    """
    torch = device.torch
    turned = weights.t()
    if dtype == "fp8":
        one, scaled = (torch.tensor(value, device=device.kind) for value in (1.0, scale))
        return lambda rows: torch._scaled_mm(
            rows,
            turned,
            scale_a=one,
            scale_b=scaled,
            out_dtype=torch.bfloat16,
            use_fast_accum=True,
        )
    if dtype == "int8":
        return lambda rows: torch._int_mm(rows, turned)
    return lambda rows: torch.mm(rows, turned)


def stored(device: Device, dtype: str, values: Any) -> Any:
    """A tensor as a dtype holds it; scales are 1."""
    torch = device.torch
    if dtype == "fp8":
        return values.to(torch.float8_e4m3fn)
    if dtype == "int8":
        return (values * 32).round().clamp(-127, 127).to(torch.int8)
    return values


def attend(device: Device, backend: str, query: Any, key: Any, value: Any, *, causal: bool) -> Any:
    """Attention of torch with one backend; fewer KV heads than heads are shared."""
    attention = device.torch.nn.attention
    shared = query.shape[1] != key.shape[1]
    with attention.sdpa_kernel(getattr(attention.SDPBackend, backend)):
        return device.torch.nn.functional.scaled_dot_product_attention(
            query, key, value, is_causal=causal, enable_gqa=shared
        )


def attention_choices(device: Device, query: Any, key: Any, value: Any, *, causal: bool) -> Choices:
    """The backends of torch's attention, fused ones first; FLASH wants equal head dimensions, so
    values are filled up for it.
    """

    def choice(backend: str) -> tuple[str, Call]:
        used = value
        if backend == "FLASH_ATTENTION" and value.shape[-1] != key.shape[-1]:
            wider = key.shape[-1] - value.shape[-1]
            used = device.torch.nn.functional.pad(value, (0, wider))
        name = backend.removesuffix("_ATTENTION").lower()
        return name, lambda: attend(device, backend, query, key, used, causal=causal)

    return [[choice(backend) for backend in group] for group in BACKENDS]


def _gemm(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    rows = stored(device, case.dtype, random(device, case.m, case.k))
    weights = stored(device, case.dtype, random(device, case.n, case.k))
    multiply = product(device, case.dtype, weights)
    name = {"bf16": "mm", "fp8": "_scaled_mm", "int8": "_int_mm"}[case.dtype]
    flags = () if case.dtype == "bf16" else ("without_quantise",)
    return [[(name, lambda: multiply(rows))]], flags


def _grouped(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    rows = random(device, case.experts * case.m, case.k)
    weights = random(device, case.experts, case.n, case.k)
    both = _grouped_products(device, [case.m] * case.experts, weights)
    return [[(name, _bound(multiply, rows))] for name, multiply in both], ()


def _bound(multiply: Any, rows: Any) -> Call:
    return lambda: multiply(rows)


def _grouped_products(device: Device, counts: Sequence[int], weights: Any) -> list[tuple[str, Any]]:
    """Products of consecutive rows, ``counts`` of each group, with the group's weights
    (groups x n x k): torch's grouped kernel, and a loop.
    """
    torch = device.torch
    turned = weights.transpose(1, 2)
    ends = torch.tensor(list(counts), device=device.kind).cumsum(0).to(torch.int32)

    def loop(rows: Any) -> Any:
        parts = rows.split(list(counts))
        return torch.cat([part @ turned[group] for group, part in enumerate(parts)])

    found: list[tuple[str, Any]] = []
    if hasattr(torch, "_grouped_mm"):
        found.append(("_grouped_mm", lambda rows: torch._grouped_mm(rows, turned, offs=ends)))
    return [*found, ("loop", loop)]


def _experts(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """Routed experts of one rank: gather, gate and up, activation, down, weighted sum.

    Every rank of the EP group gets an equal share of tokens x top_k, spread evenly over its
    experts; the router is left out.
    """
    torch = device.torch
    experts, width = case.experts // case.ep, case.n // case.tp
    rows = -(-case.tokens * case.top_k // case.ep)
    counts = [rows // experts + (group < rows % experts) for group in range(experts)]
    gate_up = random(device, experts, 2 * width, case.k)
    down = random(device, experts, case.k, width)
    tokens = random(device, case.tokens, case.k)
    chosen = torch.arange(rows, device=device.kind) % case.tokens
    weights = random(device, rows, 1)
    pairs = zip(
        _grouped_products(device, counts, gate_up),
        _grouped_products(device, counts, down),
        strict=True,
    )

    def layer(first: Any, second: Any) -> Call:
        def call() -> Any:
            gate, up = first(tokens[chosen]).chunk(2, dim=-1)
            out = second(torch.nn.functional.silu(gate) * up) * weights
            return torch.zeros_like(tokens).index_add_(0, chosen, out)

        return call

    choices = [[(name, layer(first, second))] for (name, first), (_, second) in pairs]
    return choices, ("routing_balanced", "plain_torch")


def _attention_prefill(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    query = random(device, case.batch, case.heads, case.seq_len, case.head_dim)
    key = random(device, case.batch, case.kv_heads, case.seq_len, case.head_dim)
    value = random(device, case.batch, case.kv_heads, case.seq_len, case.head_dim)
    return attention_choices(device, query, key, value, causal=True), ()


def _attention_decode(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """One token a sequence: the queries that share a KV head stand as if they were tokens."""
    grouped = case.heads // case.kv_heads
    query = random(device, case.batch, case.kv_heads, grouped, case.head_dim)
    key = random(device, case.batch, case.kv_heads, case.seq_len, case.head_dim)
    value = random(device, case.batch, case.kv_heads, case.seq_len, case.head_dim)
    return attention_choices(device, query, key, value, causal=False), ()


def _mla_prefill(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """Latents expanded to keys and values of every head."""
    query = random(device, case.batch, case.heads, case.seq_len, NOPE_DIM + ROPE)
    key = random(device, case.batch, case.heads, case.seq_len, NOPE_DIM + ROPE)
    value = random(device, case.batch, case.heads, case.seq_len, V_DIM)
    return attention_choices(device, query, key, value, causal=True), ()


def _mla_decode(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """The absorbed form, written out: no kernel of torch has its head dimensions."""
    torch = device.torch
    query = random(device, case.batch, case.heads, LATENT + ROPE)
    latent = random(device, case.batch, case.seq_len, LATENT + ROPE)
    scale = (NOPE_DIM + ROPE) ** -0.5

    def call() -> Any:
        scores = torch.bmm(query, latent.transpose(1, 2)) * scale
        return torch.bmm(torch.softmax(scores, dim=-1), latent[..., :LATENT])

    return [[("plain", call)]], ()


def _glue_add(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """STREAM's triad, a = b + s c, as a residual is added: reads two arrays and writes one."""
    torch = device.torch
    count = max(1, case.message_bytes // 3 // 2)
    first, second, out = (random(device, count) for _ in range(3))
    return [[("add", lambda: torch.add(first, second, alpha=3.0, out=out))]], ()


def _glue_norm(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    rows, weight = random(device, case.m, case.n), random(device, case.n)
    norm = device.torch.nn.functional.rms_norm
    return [[("rms_norm", lambda: norm(rows, (case.n,), weight))]], ()


def _glue_activation(device: Device, case: OpCase) -> tuple[Choices, tuple[str, ...]]:
    """A gated unit of 2 n inputs to n outputs a row, in the one form that torch has as one kernel:
    with a sigmoid.
    """
    rows = random(device, case.m, 2 * case.n)
    return [[("glu", lambda: device.torch.nn.functional.glu(rows))]], ()


_CALLS = {
    "gemm": _gemm,
    "grouped_gemm": _grouped,
    "moe_ffn": _experts,
    "attention_prefill": _attention_prefill,
    "attention_decode": _attention_decode,
    "mla_prefill": _mla_prefill,
    "mla_decode": _mla_decode,
    "glue_add": _glue_add,
    "glue_norm": _glue_norm,
    "glue_activation": _glue_activation,
}
