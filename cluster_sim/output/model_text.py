"""What a model counts, in words: the lines that ``show model`` appends."""

from __future__ import annotations

from cluster_sim.perf import counts
from cluster_sim.perf.state_space import state_space_bytes
from cluster_sim.specs.model import Model


def model_counts(model: Model) -> list[str]:
    """Parameters, cache bytes and FLOP by formula, beside what is published."""
    total, active = counts.parameters(model), counts.active_parameters(model)
    lines = [
        f"computed: {_billions(total)} parameters{_published(model, 'total')}",
        f"active: {_billions(active)}{_published(model, 'active')}, of which "
        f"{_billions(counts.matmul_parameters(model))} multiply with a token",
        f"KV cache: {counts.kv_bytes_per_token(model, 'bf16'):,.0f} bytes per token in bf16, "
        f"{counts.kv_bytes_per_token(model, 'fp8'):,.0f} in fp8, "
        f"in {model.cached_layers} of {model.layers} layers",
    ]
    if model.local is not None:
        seen = {"sliding": "a window", "chunked": "a chunk", "sparse": "the best"}
        lines.append(
            f"{model.local.layers} layers read {seen[model.local.kind]} of {model.local.tokens:,} "
            "tokens at most"
        )
    if model.state_space is not None:
        held = model.state_space.layers * state_space_bytes(model.state_space, 1)
        lines.append(f"states: {held:,} bytes per sequence in {model.state_space.layers} layers")
    if counts.index_bytes_per_token(model):
        lines.append(f"index: {counts.index_bytes_per_token(model):,} bytes per token")
    if model.mtp_layers:
        lines.append(f"draft layers: {_billions(counts.mtp_parameters(model))} more parameters")
    prompt = counts.attention_flop_per_context_token(model, absorbed=False)
    decode = counts.attention_flop_per_context_token(model, absorbed=True)
    slopes = f"{prompt / 1e6:,.2f} MFLOP"
    if decode != prompt:
        slopes += f" (decode over latents {decode / 1e6:,.2f})"
    lines.append(
        f"FLOP per token: {counts.flop_per_token(model) / 1e9:,.2f} GFLOP and {slopes} per token "
        "of context read"
    )
    return lines


def _billions(number: int) -> str:
    return f"{number / 1e9:,.2f}B"


def _published(model: Model, which: str) -> str:
    if model.published is None:
        return ""
    return f" (published {getattr(model.published, which):g}B)"
