"""The shapes that are measured unless a file gives them: those of well-known models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cluster_sim.kernels.layout import Layout
from cluster_sim.kernels.model_ops import layer_gemms, lm_head
from cluster_sim.specs.chip import PEAK_OF, Chip
from cluster_sim.specs.load import load_spec
from cluster_sim.specs.model import Model
from cluster_sim.studies.measure_cases import OpCase, StepCase

# Model and TP degrees whose weight matrices are multiplied with.
GEMM_MODELS = (
    ("llama3.1-8b", (1,)),
    ("llama3.1-70b", (1, 8)),
    ("llama3.1-405b", (8,)),
    ("qwen3-32b", (1,)),
    ("deepseek-v3", (8,)),
    ("gpt-oss-120b", (1,)),
)
QUICK_MODELS = (("llama3.1-8b", (1,)), ("llama3.1-70b", (8,)))
ROWS = (1, 4, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)
QUICK_ROWS = (1, 64, 1024, 8192)
INT8_ROWS = 32  # torch._int_mm wants more than 16 rows
ALIGNED = {"bf16": 8, "fp8": 16, "int8": 8}  # of n and k, as the products of torch want them
# Heads, KV heads, head dimension of a device: Llama-3.1-8B, -70B and Qwen3-32B, both of the last at
# TP 8, Llama-3.1-405B at TP 8, gpt-oss.
HEADS = ((32, 8, 128), (64, 8, 128), (8, 1, 128), (16, 1, 128), (64, 8, 64))
PROMPTS = ((1, 256), (1, 1024), (1, 4096), (1, 16384), (1, 32768), (4, 1024), (4, 4096))
QUICK_PROMPTS = ((1, 1024), (1, 8192))
DECODES = (1, 4, 16, 64, 128, 256)
CONTEXTS = (128, 1024, 4096, 16384, 32768, 131072)
QUICK_DECODES, QUICK_CONTEXTS = (1, 64), (1024, 8192)
MLA_HEADS = (16, 128)  # DeepSeek at TP 8 and TP 1
MLA_DIM = 576
# Experts, chosen, width, hidden, EP: Mixtral, DeepSeek-V3 on 8 devices, gpt-oss, Qwen3-235B.
EXPERTS = (
    (8, 2, 14336, 4096, 1),
    (256, 8, 2048, 7168, 8),
    (128, 4, 2880, 2880, 1),
    (128, 8, 1536, 4096, 4),
)
# Groups, outputs, inputs of grouped products: gate and up of the same experts on a device.
GROUPS = ((8, 28672, 4096), (32, 4096, 7168), (128, 5760, 2880))
GROUP_ROWS = (1, 8, 64, 256, 1024)
GLUE_ROWS = (1, 16, 64, 256, 1024, 4096, 16384)
HIDDEN = (2880, 4096, 7168, 8192)
FFN = (14336, 18432, 28672)
# Bytes of a residual: from one token to what shows the best rate of the memory.
STREAMS = tuple(3 * 2**exponent for exponent in range(13, 32, 2))
# A case that needs more than this is left out of the grid.
MOST_BYTES = 20e9
# Steps: batch and context, or batch and prompt.
DECODE_STEPS = tuple(
    (batch, context) for batch in (1, 8, 32, 64, 128, 256) for context in (1024, 4096, 16384, 32768)
)
PREFILL_STEPS = ((1, 512), (1, 2048), (1, 8192), (1, 32768), (4, 2048), (16, 1024))
QUICK_STEPS = {"decode": ((1, 1024), (64, 1024), (64, 8192)), "prefill": ((1, 2048), (4, 2048))}
CPU_STEPS = {"decode": ((1, 32), (4, 32), (4, 64)), "prefill": ((1, 32), (2, 64))}
# Models whose steps are measured, with the layers of the slice (None: all).
STEP_MODELS: tuple[tuple[str, int | None], ...] = (("llama3.1-8b", None), ("llama3.1-70b", 8))


def grid(ops: Sequence[str], dtypes: Sequence[str], *, quick: bool) -> list[OpCase]:
    """The cases of some operators and dtypes on a GPU."""
    found: list[OpCase] = []
    for dtype in dtypes:
        if "gemm" in ops:
            found += _gemms(dtype, quick)
    if "bf16" in dtypes:
        others = [*_attention(quick), *_experts(quick), *_glue(quick)]
        found += [case for case in others if case.op in ops]
    return found


def with_peaks(chip: str, dtypes: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The dtypes that a chip has in hardware, and the others."""
    peaks = load_spec("chip", chip, Chip)[1].peak
    has = tuple(dtype for dtype in dtypes if PEAK_OF[dtype] in peaks)
    return has, tuple(dtype for dtype in dtypes if dtype not in has)


def cpu_grid(ops: Sequence[str], dtypes: Sequence[str]) -> list[OpCase]:
    """A few tiny cases, to try the command without a GPU."""
    heads = {"heads": 8, "kv_heads": 2, "head_dim": 64}
    latent = {"heads": 4, "kv_heads": 1, "head_dim": MLA_DIM}
    found = [
        OpCase(op="gemm", dtype=dtype, m=m, n=n, k=n)
        for dtype in dtypes
        for m in (1, 32, 128)
        for n in (128, 512)
        if not (dtype == "int8" and m < INT8_ROWS)
    ]
    found.append(OpCase(op="grouped_gemm", dtype="bf16", m=16, n=256, k=128, experts=4))
    moe = OpCase(
        op="moe_ffn", dtype="bf16", n=128, k=256, experts=8, top_k=2, ep=2, tp=1, tokens=32
    )
    found.append(moe)
    for op, sizes in (("attention", heads), ("mla", latent)):
        for phase, batch, length in (("prefill", 1, 128), ("decode", 4, 256)):
            sized = {"batch": batch, "seq_len": length, **sizes}
            found.append(OpCase(op=f"{op}_{phase}", dtype="bf16", kv_dtype="bf16", **sized))
    glue = ("glue_norm", "glue_activation")
    found += [OpCase(op=op, dtype="bf16", m=64, n=1024) for op in glue]
    found.append(OpCase(op="glue_add", dtype="bf16", message_bytes=2**22))
    return [case for case in found if case.op in ops and case.dtype in dtypes]


def _gemms(dtype: str, quick: bool) -> Iterator[OpCase]:
    shapes: dict[tuple[int, int], None] = {}
    for name, degrees in QUICK_MODELS if quick else GEMM_MODELS:
        model = load_spec("model", name, Model)[1]
        for tp in degrees:
            layout = Layout(tp)
            gemms = [gemm for gemm in layer_gemms(model, layout) if gemm.part != "router"]
            if not quick and dtype == "bf16":
                gemms.append(lm_head(model, tp))
            shapes |= {(gemm.n, gemm.k): None for gemm in gemms}
    for n, k in shapes:
        if n % ALIGNED[dtype] or k % ALIGNED[dtype]:
            continue
        for m in QUICK_ROWS if quick else ROWS:
            if dtype == "int8" and m < INT8_ROWS:
                continue
            if 2.0 * (m * n + m * k + n * k) <= MOST_BYTES:
                yield OpCase(op="gemm", dtype=dtype, m=m, n=n, k=k)


def _attention(quick: bool) -> Iterator[OpCase]:
    prompts = QUICK_PROMPTS if quick else PROMPTS
    decodes = QUICK_DECODES if quick else DECODES
    contexts = QUICK_CONTEXTS if quick else CONTEXTS
    shapes = [("attention", *heads) for heads in (HEADS[:1] if quick else HEADS)]
    shapes += [("mla", heads, 1, MLA_DIM) for heads in (MLA_HEADS[:1] if quick else MLA_HEADS)]
    for op, heads, kv_heads, dim in shapes:
        sizes = {"heads": heads, "kv_heads": kv_heads, "head_dim": dim}
        for batch, length in prompts:
            yield OpCase(
                op=f"{op}_prefill",
                dtype="bf16",
                kv_dtype="bf16",
                batch=batch,
                seq_len=length,
                **sizes,
            )
        for batch in decodes:
            for context in contexts:
                # Keys and values, and for the plain form of latents the scores, written twice.
                held = 2.0 * batch * context * kv_heads * dim * 2
                if op == "mla":
                    held = 2.0 * batch * context * (dim + 3 * heads)
                if held <= MOST_BYTES:
                    yield OpCase(
                        op=f"{op}_decode",
                        dtype="bf16",
                        kv_dtype="bf16",
                        batch=batch,
                        seq_len=context,
                        **sizes,
                    )


def _experts(quick: bool) -> Iterator[OpCase]:
    rows = QUICK_ROWS[:3] if quick else ROWS[:-2]
    for experts, top_k, width, hidden, ep in EXPERTS[:1] if quick else EXPERTS:
        for tokens in rows:
            yield OpCase(
                op="moe_ffn",
                dtype="bf16",
                tokens=tokens,
                n=width,
                k=hidden,
                experts=experts,
                top_k=top_k,
                ep=ep,
                tp=1,
            )
    for groups, n, k in GROUPS[:1] if quick else GROUPS:
        for m in GROUP_ROWS[::2] if quick else GROUP_ROWS:
            yield OpCase(op="grouped_gemm", dtype="bf16", m=m, n=n, k=k, experts=groups)


def _glue(quick: bool) -> Iterator[OpCase]:
    rows = GLUE_ROWS[::3] if quick else GLUE_ROWS
    for m in rows:
        for n in HIDDEN[1:2] if quick else HIDDEN:
            yield OpCase(op="glue_norm", dtype="bf16", m=m, n=n)
        for n in FFN[:1] if quick else FFN:
            yield OpCase(op="glue_activation", dtype="bf16", m=m, n=n)
    for size in STREAMS[::3] if quick else STREAMS:
        yield OpCase(op="glue_add", dtype="bf16", message_bytes=size)


def step_grid(
    models: Sequence[tuple[str, int]], dtypes: Sequence[str], *, quick: bool, cpu: bool
) -> list[StepCase]:
    """Steps of models (name and layers), model by model."""
    steps = {"decode": DECODE_STEPS, "prefill": PREFILL_STEPS}
    if cpu or quick:
        steps = CPU_STEPS if cpu else QUICK_STEPS
    return [
        StepCase(model=name, layers=layers, dtype=dtype, phase=phase, batch=batch, seq_len=length)
        for name, layers in models
        for dtype in dtypes
        for phase, sizes in steps.items()
        for batch, length in sizes
    ]
