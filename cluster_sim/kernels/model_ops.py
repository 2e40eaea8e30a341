"""The operators of a decoder on one device: matrix products, KV traffic, states, weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cluster_sim.kernels import counts
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.state_space import products, state_space_bytes
from cluster_sim.specs.kept import Part
from cluster_sim.specs.model import Attention, LinearAttention, Model

ACTIVATION_BYTES = 2
STATE_BYTES = 4  # states of linear attention are kept in fp32
SMALL_WINDOW = 1024  # tokens; engines give layers with such windows a cache of their own


@dataclass(frozen=True, slots=True)
class Gemm:
    """A weight matrix of one device: k inputs, n outputs, in ``layers`` layers of the model."""

    name: str
    part: Part
    n: int
    k: int
    layers: int


def kv_heads_per_device(kind: Attention | Model, tp: int) -> int:
    """KV heads on the fullest shard: an equal share rounded up; fewer heads than shards are
    replicated.
    """
    return -(-kind.kv_heads // tp)


def layer_gemms(model: Model, layout: Layout) -> tuple[Gemm, ...]:
    """All products of the layers but the routed experts', on one device."""
    gemms = [gemm for kind in model.kinds for gemm in _attention(model, kind, layout.tp)]
    gemms += _index(model)
    gemms += _linear_attention(model, layout.tp)
    gemms += _residual(model)
    gemms += _state_space(model, layout.tp)
    for mlp in model.dense_mlps:
        gemms += _mlp(model, "dense", mlp.hidden, mlp.layers, layout.tp)
    cut = -(-model.hidden // layout.tp)
    gemms += [Gemm("projection", "dense", cut, model.hidden, model.projections)]
    if model.moe is not None:
        layers, outputs = model.moe.layers, model.moe.experts + int(model.moe.shared_gate)
        gemms += [Gemm("router", "router", outputs, model.hidden, layers)]
        gemms += [Gemm("latent_in", "shared", model.moe.latent, model.hidden, layers)]
        gemms += [Gemm("latent_out", "shared", model.hidden, model.moe.latent, layers)]
        gemms += _mlp(model, "shared", model.moe.shared_hidden, layers, layout.tp)
    return tuple(gemm for gemm in gemms if gemm.layers and gemm.n and gemm.k)


def _attention(model: Model, kind: Attention, tp: int) -> list[Gemm]:
    """The products of one kind of attention; a gate over heads is one with the first of them."""
    heads, layers = kind.heads // tp, kind.layers
    gates = heads * kind.output_dim if model.output_gate else 0
    gates += heads if model.head_gate else 0
    if kind.compressed is not None:
        return _compressed(model, kind, tp, gates)
    if kind.mla is not None:
        return _mla(model, kind, tp, gates)
    width = (kind.head_dim + kind.value_dim) if kind.value_projection else kind.head_dim
    keys = kv_heads_per_device(kind, tp) * width if kind.cache else 0
    queries = heads * kind.head_dim
    qkv = (kind.q_rank or queries) + gates + keys
    return [
        Gemm("qkv", "attention", qkv, model.hidden, layers),
        Gemm("q_up", "attention", queries, kind.q_rank, layers),
        Gemm("attention_output", "output", model.hidden, heads * kind.value_dim, layers),
    ]


def _mla(model: Model, kind: Attention, tp: int, gates: int) -> list[Gemm]:
    """Latent attention. The expansion of the latent costs the same FLOP and weights whether keys
    and values are expanded (prompts) or absorbed into queries and outputs (decode).
    """
    mla, heads, layers = kind.mla, kind.heads // tp, kind.layers
    assert mla is not None
    queries = heads * (mla.nope_dim + mla.rope_dim)
    down = mla.q_rank + mla.kv_rank + mla.rope_dim
    return [
        Gemm("qkv_down", "attention", down, model.hidden, layers),
        Gemm("q_up", "attention", queries, mla.q_rank or model.hidden, layers),
        Gemm("kv_up", "attention", heads * (mla.nope_dim + mla.v_dim), mla.kv_rank, layers),
        Gemm("output_gate", "attention", gates, model.hidden, layers),
        Gemm("attention_output", "output", model.hidden, heads * mla.v_dim, layers),
    ]


def _compressed(model: Model, kind: Attention, tp: int, gates: int) -> list[Gemm]:
    """Attention over compressed entries; what pools them is on every device, as the entries are."""
    compressed, heads, layers = kind.compressed, kind.heads // tp, kind.layers
    assert compressed is not None
    entry = kind.head_dim * (1 + counts.pooled_width(compressed))
    groups = -(-compressed.output_groups // tp)
    group = kind.heads // compressed.output_groups * kind.head_dim
    outputs = groups * compressed.output_rank
    return [
        Gemm("qkv_down", "attention", compressed.q_rank + entry, model.hidden, layers),
        Gemm("q_up", "attention", heads * kind.head_dim, compressed.q_rank, layers),
        Gemm("output_gate", "attention", gates, model.hidden, layers),
        Gemm("output_groups", "output", outputs, group, layers),
        Gemm("attention_output", "output", model.hidden, outputs, layers),
    ]


def _index(model: Model) -> list[Gemm]:
    """The index of sparse attention: queries from the query latent, one key and a weight a head."""
    local, kind = model.local, model.indexed
    if local is None or kind is None:
        return []
    source, layers = counts.index_source(model, kind), local.indexed_layers
    keys = counts.index_key_width(model, kind) + local.index_heads
    return [
        Gemm("index_q", "index", local.index_heads * local.index_dim, source, layers),
        Gemm("index_k", "index", keys, model.hidden, layers),
    ]


def _residual(model: Model) -> list[Gemm]:
    """What mixes residual streams, and what layers' embeddings pass; on every device, bf16."""
    streams, width, layers = model.residual_streams, model.layer_embedding, model.layers
    mix = (2 + streams) * streams if streams > 1 else 0
    return [
        Gemm("residual_mix", "router", mix, streams * model.hidden, 2 * layers),
        Gemm("layer_embedding", "router", layers * width, model.hidden, 1),
        Gemm("layer_embedding_gate", "router", width, model.hidden, layers),
        Gemm("layer_embedding_up", "router", model.hidden, width, layers),
    ]


def _linear_attention(model: Model, tp: int) -> list[Gemm]:
    linear = model.linear
    if linear is None:
        return []
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    decay, gate = linear.decay_rank, linear.gate_rank
    inputs = 2 * keys + values + linear.value_heads
    inputs += (0 if gate else values) + (0 if decay else linear.value_heads)
    layers = linear.layers
    return [
        Gemm("linear_in", "linear", -(-inputs // tp), model.hidden, layers),
        Gemm("linear_down", "linear", decay + gate, model.hidden, layers),
        Gemm("decay_up", "linear", -(-keys // tp), decay, layers),
        Gemm("gate_up", "linear", -(-values // tp), gate, layers),
        Gemm("linear_out", "linear", model.hidden, -(-values // tp), layers),
    ]


def _state_space(model: Model, tp: int) -> list[Gemm]:
    ssm = model.state_space
    if ssm is None:
        return []
    return [
        Gemm(name, "linear", n, k, ssm.layers) for name, n, k in products(ssm, model.hidden, tp)
    ]


def _mlp(
    model: Model, part: Literal["dense", "shared"], hidden: int, layers: int, tp: int
) -> list[Gemm]:
    width = -(-hidden // tp)
    gate_up = (2 if model.gated else 1) * width
    return [
        Gemm(f"{part}_gate_up", part, gate_up, model.hidden, layers if width else 0),
        Gemm(f"{part}_down", part, model.hidden, width, layers if width else 0),
    ]


def draft_projections(model: Model, drafts: int) -> Gemm:
    """The products of 2 hidden with hidden elements before the MTP layers that make so many drafts.

    Every device does all of it, in bf16 (vLLM; DeepSeek-V3's checkpoint, recalled).
    """
    layers = min(drafts, model.mtp_layers)
    return Gemm("draft_projection", "router", model.hidden, 2 * model.hidden, layers)


def lm_head(model: Model, tp: int) -> Gemm:
    """The product that turns the last hidden state of a sequence into logits."""
    return Gemm("lm_head", "head", -(-model.vocab // tp), model.hidden, 1)


def expert_elements(model: Model, layout: Layout) -> int:
    """Weights of one expert's slice on one device."""
    assert model.moe is not None
    width = -(-model.moe.expert_hidden // layout.expert_slices)
    return (3 if model.gated else 2) * model.expert_input * width


def kv_elements_per_layer(kind: Attention, tp: int) -> int:
    """Elements that one token leaves in one layer's cache on one device; a latent is replicated."""
    if kind.latent:
        return counts.kv_elements_per_layer(kind)
    return kv_heads_per_device(kind, tp) * (kind.head_dim + kind.value_dim)


def cached_bytes(kind: Attention, tp: int, kv_dtype: str) -> float:
    """Bytes of what one layer keeps of a token on one device, if it keeps the token."""
    return counts.entry_bytes(kind, kv_elements_per_layer(kind, tp), kv_dtype)


def window_layers(model: Model, kind: Attention) -> int:
    """Layers of a kind whose cache stays as small as their window; none if that would be all layers
    of the model.
    """
    local = model.local
    if local is None or local.kind == "sparse" or local.tokens > SMALL_WINDOW or not kind.cache:
        return 0
    return kind.local_layers if local.layers < model.cached_layers else 0


def kv_bytes_per_token(model: Model, tp: int, kv_dtype: str) -> float:
    """Bytes that one more token takes on one device of a single-stage replica, all layers.

    Layers with small windows do not count (see ``state_bytes``); an index of sparse attention adds
    its keys.
    """
    grown = sum(
        (kind.layers - window_layers(model, kind))
        * cached_bytes(kind, tp, kv_dtype)
        * counts.kept_share(kind)
        for kind in model.kinds
    )
    return grown + counts.index_bytes_per_token(model)


def state_bytes(model: Model, tp: int, kv_dtype: str) -> float:
    """Bytes of a sequence that do not grow: windows of layers with small ones, states of linear
    attention and of Mamba, windows and unfinished entries of compressed attention.
    """
    held = 0.0
    local = model.local
    for kind in model.kinds:
        per_token = cached_bytes(kind, tp, kv_dtype)
        if local is not None and window_layers(model, kind):
            held += window_layers(model, kind) * local.tokens * per_token
        if kind.compressed is not None:
            held += kind.layers * kind.compressed.window * per_token
            held += kind.layers * kind.head_dim * unfinished_bytes(kind)
            if local is not None and kind.local_layers:
                held += local.indexed_layers * local.index_dim * unfinished_bytes(kind)
    return held + recurrent_state_bytes(model, tp)


def unfinished_bytes(kind: Attention) -> int:
    """Bytes, for each element of an entry, of the tokens that are not pooled yet: what they give,
    in fp32, of one entry and with overlap of the one before (vLLM, DeepSeek-V4).
    """
    assert kind.compressed is not None
    tokens = kind.compressed.ratio * (2 if kind.compressed.overlap else 1)
    return tokens * counts.pooled_width(kind.compressed) * STATE_BYTES


def recurrent_state_bytes(model: Model, tp: int) -> float:
    """Bytes of a sequence's states of linear attention and of Mamba on one device."""
    linear, ssm = model.linear, model.state_space
    held = linear.layers * linear_state_bytes(linear, tp) if linear is not None else 0.0
    return held + (ssm.layers * state_space_bytes(ssm, tp) if ssm is not None else 0)


def linear_state_bytes(linear: LinearAttention, tp: int) -> float:
    """One linear-attention layer's state of a sequence on one device: fp32 matrices a head, and the
    last ``conv`` - 1 inputs of the convolution in bf16.
    """
    tail = (linear.conv - 1) * -(-mixed_elements(linear) // tp)
    return linear_state_elements(linear, tp) * STATE_BYTES + tail * ACTIVATION_BYTES


def linear_state_elements(linear: LinearAttention, tp: int) -> int:
    """Elements of the matrices that one layer keeps of a sequence on one device."""
    return -(-linear.value_heads // tp) * linear.key_dim * linear.value_dim


def mixed_elements(linear: LinearAttention) -> int:
    """Queries, keys and values of a token, which pass the convolution."""
    return 2 * linear.key_heads * linear.key_dim + linear.value_heads * linear.value_dim


def stage_share(model: Model, layout: Layout) -> float:
    """The share of all layers that the fullest pipeline stage holds, as if layers were alike."""
    return -(-model.layers // layout.pp) / model.layers


def weight_bytes_per_device(model: Model, layout: Layout, recipe: Recipe) -> float:
    """Weights on the fullest device: the layers of its stage, embedding, positions and LM head.

    Model: each part in its own dtypes; positions in bf16. Limits: norms and biases (below 0.1 %)
    are left out, and so are MTP layers unless the model is one ``with_mtp_layers``.
    """
    layers = sum(
        gemm.n * gemm.k * recipe.bytes_of(model, gemm.part, gemm.layers)
        for gemm in layer_gemms(model, layout)
    )
    if model.moe is not None:
        experts = float(model.moe.experts // layout.ep * expert_elements(model, layout))
        idle = counts.idle_parameters(model) / model.moe.layers
        experts += idle / (layout.ep * layout.expert_slices)
        layers += experts * recipe.bytes_of(model, "experts", model.moe.layers)
    rows = -(-model.vocab // layout.tp) * model.hidden
    tables = [rows * recipe.bytes_of(model, "embedding", 1)]
    if not model.tied_embeddings:
        tables.append(rows * recipe.bytes_of(model, "head", 1))
    # The first and the last stage hold one table each; the fuller one decides.
    layered = -(-counts.layer_embedding_parameters(model) // layout.tp)
    tables[0] += layered * recipe.bytes_of(model, "embedding", 1)
    held = sum(tables) if layout.pp == 1 else max(tables)
    held += model.learned_positions * model.hidden * ACTIVATION_BYTES
    return float(layers * stage_share(model, layout) + held)
