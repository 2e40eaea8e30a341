"""What a model counts, in words: the lines that ``show model`` appends."""

from __future__ import annotations

from cluster_sim.kernels import counts
from cluster_sim.kernels.model_ops import state_bytes
from cluster_sim.specs.model import Attention, Model


def model_counts(model: Model) -> list[str]:
    """Parameters, cache bytes and FLOP by formula, beside what is published."""
    total, active = counts.parameters(model), counts.active_parameters(model)
    lines = [
        f"computed: {_billions(total)} parameters{_published(model, 'total')}",
        f"active: {_billions(active)}{_published(model, 'active')}, of which "
        f"{_billions(counts.matmul_parameters(model))} multiply with a token",
        f"KV cache: {counts.kv_bytes_per_token(model, 'bf16'):,.0f} bytes per token in bf16, "
        f"{counts.kv_bytes_per_token(model, 'fp8'):,.0f} in fp8, "
        f"in {_cached_layers(model)} of {model.layers} layers",
    ]
    lines += _kinds(model)
    if model.local is not None:
        seen = {"sliding": "a window", "chunked": "a chunk", "sparse": "the best"}
        lines.append(
            f"{model.local.layers} layers read {seen[model.local.kind]} of {model.local.tokens:,} "
            "tokens at most"
        )
    if counts.index_bytes_per_token(model):
        lines.append(
            f"index: {counts.index_bytes_per_token(model):,.0f} bytes per token in "
            f"{model.local.indexed_layers if model.local else 0} layers"
        )
    if all_fixed := state_bytes(model, 1, "bf16"):
        lines.append(f"a sequence holds {all_fixed / 1e6:,.2f} MB besides, whatever its length")
    if model.mtp_layers:
        lines.append(f"draft layers: {_billions(counts.mtp_parameters(model))} more parameters")
    if model.tower_parameters:
        lines.append(f"vision tower: {_billions(model.tower_parameters)} more parameters")
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


def _cached_layers(model: Model) -> int:
    """Layers that keep entries of all tokens."""
    return sum(kind.layers for kind in model.kinds if counts.kept_share(kind))


def _kinds(model: Model) -> list[str]:
    """One line for each kind of attention, where there are several or entries are compressed."""
    kinds = model.kinds
    if len(kinds) == 1 and kinds[0].compressed is None:
        return []
    return [f"{kind.layers} layers: {_kind(kind)}" for kind in kinds]


def _kind(kind: Attention) -> str:
    shape = f"{kind.heads} heads of {kind.head_dim}"
    if kind.compressed is not None:
        reach = f"{shape} over the last {kind.compressed.window} tokens"
        if not kind.compressed.ratio:
            return reach
        return f"{reach} and an entry for every {kind.compressed.ratio} tokens"
    if kind.mla is not None:
        return f"{shape} over latents of {kind.mla.kv_rank + kind.mla.rope_dim}"
    values = f" and values of {kind.value_dim}" if kind.value_dim != kind.head_dim else ""
    source = "" if kind.cache else ", keys and values of an earlier layer"
    same = "" if kind.value_projection else ", values from the keys"
    window = ", the local ones" if kind.local_layers == kind.layers else ""
    return f"{shape}{values}, {kind.kv_heads} of keys and values{same}{source}{window}"


def _billions(number: int) -> str:
    return f"{number / 1e9:,.2f}B"


def _published(model: Model, which: str) -> str:
    if model.published is None:
        return ""
    return f" (published {getattr(model.published, which):g}B)"
