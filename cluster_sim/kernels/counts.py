"""What a whole model counts: parameters, FLOP and cache bytes, whatever devices it lies on.

The per-device products are in ``kernels.model_ops``; on one device both agree.
"""

from __future__ import annotations

from cluster_sim.kernels.state_space import STATE_FLOP, state_space_parameters, state_space_small
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.model import Attention, Compressed, Model

# Engines keep the keys of a sparse index in fp8 (DeepSeek-V3.2, recalled), in bf16 beside a cache
# that is no latent (MiniMax-M3 in vLLM).
INDEX_KEY_BYTES = 1
# FLOP of linear attention for an element of the state and a token: decay and read, write, query.
LINEAR_FLOP = 6


def parameters(model: Model) -> int:
    """All weights but those of draft layers: products, embedding, LM head, norms, biases."""
    experts = model.moe.experts if model.moe else 0
    tables = model.hidden * (model.vocab * (1 if model.tied_embeddings else 2))
    tables += model.hidden * model.learned_positions + idle_parameters(model)
    tables += layer_embedding_parameters(model)
    return _products(model, experts) + _small(model, experts) + tables


def active_parameters(model: Model) -> int:
    """The parameters without the experts that a token does not choose; embedding included."""
    if model.moe is None:
        return parameters(model)
    idle = model.moe.experts - model.moe.top_k
    return (
        parameters(model)
        - idle_parameters(model)
        - model.moe.layers
        * idle
        * (expert_parameters(model) + _mlp_biases(model, model.moe.expert_hidden))
    )


def matmul_parameters(model: Model) -> int:
    """Weights that a token multiplies with: its experts and the LM head, no embedding look-up."""
    return _products(model, model.moe.top_k if model.moe else 0) + model.hidden * model.vocab


def mtp_parameters(model: Model) -> int:
    """Weights of the layers that draft tokens, which ``parameters`` leaves out.

    Model: each is one more layer of the last kind behind a projection of hidden state and
    embedding (2 hidden -> hidden) with a norm for each and one at the end; embedding and LM head
    are shared. Source: DeepSeek-V3 report, section 2.2.
    """
    moe = model.moe
    if moe is None or model.mtp_dense:
        mlp = mlp_parameters(model, model.ffn_hidden)
    else:
        mlp = moe.experts * expert_parameters(model) + latent_parameters(model)
        mlp += mlp_parameters(model, moe.shared_hidden) + router_parameters(model)
    own = model.kinds[0]
    index = index_parameters(model) if own == model.indexed else 0
    layer = attention_parameters(model, own) + index + residual_parameters(model) + mlp
    return model.mtp_layers * (layer + (2 * model.hidden + model.norms + 3) * model.hidden)


def _products(model: Model, experts: int) -> int:
    """Weights of the products of all layers, with so many routed experts in a layer."""
    count = sum(kind.layers * attention_parameters(model, kind) for kind in model.kinds)
    count += model.local.indexed_layers * index_parameters(model) if model.local else 0
    count += model.layers * (residual_parameters(model) + 2 * model.hidden * model.layer_embedding)
    count += model.hidden * model.layers * model.layer_embedding
    count += model.linear_layers * linear_attention_parameters(model)
    if model.state_space is not None:
        count += model.state_space.layers * state_space_parameters(model.state_space, model.hidden)
    count += sum(mlp.layers * mlp_parameters(model, mlp.hidden) for mlp in model.dense_mlps)
    count += model.projections * model.hidden**2
    if model.moe is not None:
        routed = experts * expert_parameters(model) + latent_parameters(model)
        shared = mlp_parameters(model, model.moe.shared_hidden)
        count += model.moe.layers * (routed + shared + router_parameters(model))
    return count


def attention_parameters(model: Model, kind: Attention) -> int:
    """Weights of the attention products of one layer of a kind.

    Model: hidden x a head's dimensions for queries, keys, values and the output, and for an output
    gate; over latents the way down and up for queries and for keys and values, and the output; see
    ``_compressed_parameters``.
    """
    outputs = model.hidden * kind.heads * kind.output_dim
    gates = (outputs if model.output_gate else 0) + model.hidden * kind.heads * model.head_gate
    if kind.compressed is not None:
        return gates + _compressed_parameters(model, kind, kind.compressed)
    mla = kind.mla
    if mla is None:
        values = kind.value_dim if kind.value_projection else 0
        keys = kind.kv_heads * (kind.head_dim + values) if kind.cache else 0
        heads = kind.heads * kind.head_dim
        queries = kind.q_rank * (model.hidden + heads) if kind.q_rank else model.hidden * heads
        return gates + outputs + queries + model.hidden * keys
    query = kind.heads * (mla.nope_dim + mla.rope_dim)
    queries = mla.q_rank * (model.hidden + query) if mla.q_rank else model.hidden * query
    latent = model.hidden * (mla.kv_rank + mla.rope_dim)
    latent += mla.kv_rank * kind.heads * (mla.nope_dim + mla.v_dim)
    return gates + queries + latent + outputs


def _compressed_parameters(model: Model, kind: Attention, compressed: Compressed) -> int:
    """Queries down and up, the entry, the pooled entries, and the output in two products."""
    heads = kind.heads * kind.head_dim
    queries = compressed.q_rank * (model.hidden + heads)
    entries = model.hidden * kind.head_dim * (1 + pooled_width(compressed))
    groups = compressed.output_rank * (heads + compressed.output_groups * model.hidden)
    return queries + entries + groups


def pooled_width(compressed: Compressed) -> int:
    """Elements, in those of an entry, that each token gives to pooled entries: itself and its
    weight, twice where entries overlap.
    """
    return (4 if compressed.overlap else 2) if compressed.ratio else 0


def index_source(model: Model, kind: Attention) -> int:
    """Elements that the queries of an index are made of: the query latent, or the hidden state."""
    rank = kind.mla.q_rank if kind.mla is not None else 0
    rank = kind.compressed.q_rank if kind.compressed is not None else rank
    return rank or model.hidden


def index_key_width(model: Model, kind: Attention) -> int:
    """Elements that a token gives to the keys of an index: one key, or what they are pooled of."""
    width = pooled_width(kind.compressed) if kind.compressed is not None else 1
    return (model.local.index_dim if model.local else 0) * width


def index_parameters(model: Model) -> int:
    """Weights of the products of one layer's index: queries, a key, a weight for each head."""
    local, kind = model.local, model.indexed
    if local is None or kind is None:
        return 0
    queries = index_source(model, kind) * local.index_heads * local.index_dim
    return queries + model.hidden * (index_key_width(model, kind) + local.index_heads)


def residual_parameters(model: Model) -> int:
    """Weights of one layer that mix its residual streams, around attention and around the MLP."""
    streams = model.residual_streams
    if streams == 1:
        return 0
    return 2 * (2 + streams) * streams * streams * model.hidden


def linear_attention_parameters(model: Model) -> int:
    """Weights of the products of one linear-attention layer: queries, keys, values, gate, decay and
    write strength; output. Gate and decay are one product or two.
    """
    linear = model.linear
    if linear is None:
        return 0
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    count = model.hidden * (2 * keys + 3 * values + 2 * linear.value_heads)
    if linear.decay_rank:
        count += linear.decay_rank * (model.hidden + keys) - model.hidden * linear.value_heads
    if linear.gate_rank:
        count += linear.gate_rank * (model.hidden + values) - model.hidden * values
    return count


def mlp_parameters(model: Model, width: int) -> int:
    """Weights of one MLP or expert of a width: up, gate if it has one, down."""
    return (3 if model.gated else 2) * model.hidden * width


def expert_parameters(model: Model) -> int:
    """Weights of one routed expert; over latents its inputs and outputs are as narrow as those."""
    width = model.moe.expert_hidden if model.moe else 0
    return (3 if model.gated else 2) * model.expert_input * width


def latent_parameters(model: Model) -> int:
    """Weights of one layer's products from tokens to the latents of its experts, and back."""
    return 2 * model.hidden * model.moe.latent if model.moe else 0


def layer_embedding_parameters(model: Model) -> int:
    """Weights of the embeddings that layers have of their own."""
    return model.vocab * model.layers * model.layer_embedding


def idle_parameters(model: Model) -> int:
    """Weights of the experts that images alone choose, in all layers."""
    moe = model.moe
    return 0 if moe is None else moe.layers * mlp_parameters(model, moe.idle_hidden)


def router_parameters(model: Model) -> int:
    """Weights of one layer's router."""
    moe = model.moe
    return 0 if moe is None else model.hidden * (moe.experts + (1 if moe.shared_gate else 0))


def small_parameters(model: Model) -> int:
    """Norms, biases, sinks and convolutions of the whole model."""
    return _small(model, model.moe.experts if model.moe else 0)


def _small(model: Model, experts: int) -> int:
    """Norms, biases, sinks and convolutions of the whole model."""
    norms = (model.residual_blocks * model.norms // 2 + 1) * model.hidden
    count = norms * (2 if "norms" in model.biases else 1)
    count += model.vocab if "head" in model.biases else 0
    count += sum(kind.layers * _small_attention(model, kind) for kind in model.kinds)
    count += sum(mlp.layers * _mlp_biases(model, mlp.hidden) for mlp in model.dense_mlps)
    if model.state_space is not None:
        count += model.state_space.layers * state_space_small(model.state_space, model.hidden)
    local, linear, moe = model.local, model.linear, model.moe
    if local is not None and local.kind == "sparse":
        count += local.indexed_layers * 2 * local.index_dim  # keys pass a norm with bias
    if linear is not None:
        mixed = 2 * linear.key_heads * linear.key_dim + linear.value_heads * linear.value_dim
        small = linear.conv * mixed + 2 * linear.value_heads + linear.value_dim
        count += linear.layers * small
    if moe is not None:
        layer = experts * _mlp_biases(model, moe.expert_hidden)
        layer += _mlp_biases(model, moe.shared_hidden)
        layer += moe.experts if "router" in model.biases else 0
        count += moe.layers * layer
    return count


def _small_attention(model: Model, kind: Attention) -> int:
    """Norms, biases and sinks of one layer's attention."""
    count = 2 * kind.head_dim if model.qk_norm else 0
    count += kind.q_rank
    if kind.mla is not None:
        count += kind.mla.q_rank + kind.mla.kv_rank
    if kind.compressed is not None:
        count += kind.compressed.q_rank + 2 * kind.head_dim
        pooled = pooled_width(kind.compressed) // 2
        count += kind.compressed.ratio * pooled * kind.head_dim
    if "qkv" in model.biases:
        count += (2 if model.output_gate else 1) * kind.heads * kind.head_dim
        count += kind.kv_heads * (kind.head_dim + kind.value_dim)
    if "attention_output" in model.biases:
        count += model.hidden
    if model.local is not None and model.local.sinks:
        count += kind.heads
    return count


def _mlp_biases(model: Model, width: int) -> int:
    if "mlp" not in model.biases or not width:
        return 0
    return (2 if model.gated else 1) * width + model.hidden


def kv_elements_per_layer(kind: Attention) -> int:
    """Elements that a layer's cache keeps of a token that it keeps whole: keys and values, latent
    and rotary key, or the entry that stands for both.
    """
    if kind.mla is not None:
        return kind.mla.kv_rank + kind.mla.rope_dim
    if kind.compressed is not None:
        return kind.head_dim
    return kind.kv_heads * (kind.head_dim + kind.value_dim)


def entry_bytes(kind: Attention, elements: int, kv_dtype: str) -> float:
    """Bytes of so many cached elements of a token. Compressed entries keep what turns with the
    position in bf16 (DeepSeek-V4 report, section 2.3).
    """
    width = BYTES_PER_ELEMENT[kv_dtype]
    if kind.compressed is None:
        return elements * width
    turning = kind.compressed.rope_dim
    return (elements - turning) * width + turning * max(width, 2.0)


def kept_share(kind: Attention) -> float:
    """The share of a long context's tokens that a layer keeps an entry of."""
    if kind.compressed is not None:
        return 1 / kind.compressed.ratio if kind.compressed.ratio else 0.0
    return 1.0 if kind.cache else 0.0


def kv_bytes_per_token(model: Model, kv_dtype: str) -> float:
    """Bytes of keys and values of one token in all layers that keep them; see
    ``index_bytes_per_token`` for the index.
    """
    return sum(
        kind.layers * entry_bytes(kind, kv_elements_per_layer(kind), kv_dtype) * kept_share(kind)
        for kind in model.kinds
    )


def index_bytes_per_token(model: Model) -> float:
    """Bytes of the index keys of one token in all layers with an index."""
    local, kind = model.local, model.indexed
    if local is None or kind is None:
        return 0
    keys = local.indexed_layers * index_key_bytes(model)
    return keys / kind.compressed.ratio if kind.compressed is not None else keys


def index_key_bytes(model: Model) -> int:
    """Bytes of a key of an index, where the model has one."""
    local, kind = model.local, model.indexed
    if local is None or kind is None:
        return 0
    return local.index_dim * (INDEX_KEY_BYTES if kind.latent else 2)


def attention_flop_per_context_token(model: Model, *, absorbed: bool) -> float:
    """FLOP of scores and values for one token over one token of context, in all layers with a KV
    cache as if each saw it; without the index of sparse attention.

    Model: 2 heads (key dim + value dim) a layer. ``absorbed``: decode over latents works on the
    latent itself, 2 heads (2 kv_rank + rope_dim).
    """
    return sum(
        kind.layers * 2 * kind.heads * head_dims(kind, absorbed=absorbed) * read_share(kind)
        for kind in model.kinds
    )


def head_dims(kind: Attention, *, absorbed: bool) -> int:
    """Key and value dimensions of a head together, as scores and values are computed."""
    mla = kind.mla
    if mla is None:
        return kind.head_dim + kind.value_dim
    return 2 * mla.kv_rank + mla.rope_dim if absorbed else mla.nope_dim + mla.rope_dim + mla.v_dim


def read_share(kind: Attention) -> float:
    """The share of a context's tokens that a layer has an entry of to read."""
    return kept_share(kind) if kind.compressed is not None else 1


def flop_per_token(model: Model) -> int:
    """FLOP of one token without any context: 2 x matmul parameters, and 6 x state in the layers of
    linear attention (decay and read, write, query), 5 x state in those of Mamba.
    """
    flop = 2 * matmul_parameters(model)
    if model.linear is not None:
        linear = model.linear
        flop += LINEAR_FLOP * linear.layers * linear.value_heads * linear.key_dim * linear.value_dim
    if model.state_space is not None:
        ssm = model.state_space
        flop += STATE_FLOP * ssm.layers * ssm.inner * ssm.state
    return flop
