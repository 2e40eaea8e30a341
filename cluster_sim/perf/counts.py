"""What a whole model counts: parameters, FLOP and cache bytes, whatever devices it lies on.

The per-device products are in ``perf.transformer``; on one device both agree.
"""

from __future__ import annotations

from cluster_sim.perf.state_space import STATE_FLOP, state_space_parameters, state_space_small
from cluster_sim.specs.chip import BYTES_PER_ELEMENT
from cluster_sim.specs.model import Model

INDEX_KEY_BYTES = 1  # engines keep the keys of a sparse index in fp8 (DeepSeek-V3.2, recalled)


def parameters(model: Model) -> int:
    """All weights but those of draft layers: products, embedding, LM head, norms, biases."""
    experts = model.moe.experts if model.moe else 0
    tables = model.hidden * (model.vocab * (1 if model.tied_embeddings else 2))
    tables += model.hidden * model.learned_positions
    return _products(model, experts) + _small(model, experts) + tables


def active_parameters(model: Model) -> int:
    """The parameters without the experts that a token does not choose; embedding included."""
    if model.moe is None:
        return parameters(model)
    idle = model.moe.experts - model.moe.top_k
    return parameters(model) - model.moe.layers * idle * (
        expert_parameters(model) + _mlp_biases(model, model.moe.expert_hidden)
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
    if moe is None:
        mlp = mlp_parameters(model, model.ffn_hidden)
    else:
        mlp = moe.experts * expert_parameters(model) + latent_parameters(model)
        mlp += mlp_parameters(model, moe.shared_hidden) + router_parameters(model)
    layer = attention_parameters(model) + index_parameters(model) + mlp
    return model.mtp_layers * (layer + (2 * model.hidden + model.norms + 3) * model.hidden)


def _products(model: Model, experts: int) -> int:
    """Weights of the products of all layers, with so many routed experts in a layer."""
    count = model.cached_layers * attention_parameters(model)
    count += model.local_layers * index_parameters(model)
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


def attention_parameters(model: Model) -> int:
    """Weights of the attention products of one layer with a KV cache.

    Model: hidden x head_dim x (2 heads + 2 kv_heads), and heads more for an output gate; over
    latents the way down and up for queries and for keys and values, and the output.
    """
    mla = model.mla
    if mla is None:
        queries = (3 if model.output_gate else 2) * model.heads
        return model.hidden * model.head_dim * (queries + 2 * model.kv_heads)
    query = model.heads * (mla.nope_dim + mla.rope_dim)
    queries = mla.q_rank * (model.hidden + query) if mla.q_rank else model.hidden * query
    latent = model.hidden * (mla.kv_rank + mla.rope_dim)
    latent += mla.kv_rank * model.heads * (mla.nope_dim + mla.v_dim)
    return queries + latent + model.heads * mla.v_dim * model.hidden


def index_parameters(model: Model) -> int:
    """Weights of the products of one layer's index: queries, a key, a weight for each head."""
    local = model.local
    if local is None or local.kind != "sparse":
        return 0
    source = model.mla.q_rank if model.mla and model.mla.q_rank else model.hidden
    queries = source * local.index_heads * local.index_dim
    return queries + model.hidden * (local.index_dim + local.index_heads)


def linear_attention_parameters(model: Model) -> int:
    """Weights of the products of one linear-attention layer: queries, keys, values, gate, decay and
    write strength; output.
    """
    linear = model.linear
    if linear is None:
        return 0
    keys, values = linear.key_heads * linear.key_dim, linear.value_heads * linear.value_dim
    return model.hidden * (2 * keys + 3 * values + 2 * linear.value_heads)


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


def router_parameters(model: Model) -> int:
    """Weights of one layer's router."""
    moe = model.moe
    return 0 if moe is None else model.hidden * (moe.experts + (1 if moe.shared_gate else 0))


def _small(model: Model, experts: int) -> int:
    """Norms, biases, sinks and convolutions of the whole model."""
    norms = (model.residual_blocks * model.norms // 2 + 1) * model.hidden
    count = norms * (2 if "norms" in model.biases else 1)
    count += model.vocab if "head" in model.biases else 0
    count += model.cached_layers * _small_attention(model)
    count += sum(mlp.layers * _mlp_biases(model, mlp.hidden) for mlp in model.dense_mlps)
    if model.state_space is not None:
        count += model.state_space.layers * state_space_small(model.state_space, model.hidden)
    local, linear, moe = model.local, model.linear, model.moe
    if local is not None and local.kind == "sparse":
        count += local.layers * 2 * local.index_dim  # the index's keys pass a norm with bias
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


def _small_attention(model: Model) -> int:
    """Norms, biases and sinks of one layer's attention."""
    count = 2 * model.head_dim if model.qk_norm else 0
    if model.mla is not None:
        count += model.mla.q_rank + model.mla.kv_rank
    if "qkv" in model.biases:
        queries = (2 if model.output_gate else 1) * model.heads
        count += (queries + 2 * model.kv_heads) * model.head_dim
    if "attention_output" in model.biases:
        count += model.hidden
    if model.local is not None and model.local.sinks:
        count += model.heads
    return count


def _mlp_biases(model: Model, width: int) -> int:
    if "mlp" not in model.biases or not width:
        return 0
    return (2 if model.gated else 1) * width + model.hidden


def kv_elements_per_layer(model: Model) -> int:
    """Elements that one token leaves in one layer's cache: keys and values, or latent and rotary
    key.
    """
    if model.mla is not None:
        return model.mla.kv_rank + model.mla.rope_dim
    return 2 * model.kv_heads * model.head_dim


def kv_bytes_per_token(model: Model, kv_dtype: str) -> float:
    """Bytes of keys and values of one token in all layers that keep them; see
    ``index_bytes_per_token`` for the index.
    """
    return model.cached_layers * kv_elements_per_layer(model) * BYTES_PER_ELEMENT[kv_dtype]


def index_bytes_per_token(model: Model) -> int:
    """Bytes of the index keys of one token in all layers with sparse attention."""
    local = model.local
    return local.layers * local.index_dim * INDEX_KEY_BYTES if local else 0


def attention_flop_per_context_token(model: Model, *, absorbed: bool) -> int:
    """FLOP of scores and values for one token over one token of context, in all layers with a KV
    cache as if each saw it; without the index of sparse attention.

    Model: 2 heads (key dim + value dim) a layer. ``absorbed``: decode over latents works on the
    latent itself, 2 heads (2 kv_rank + rope_dim).
    """
    dims = 2 * model.head_dim
    if model.mla is not None:
        mla = model.mla
        expanded = mla.nope_dim + mla.rope_dim + mla.v_dim
        dims = 2 * mla.kv_rank + mla.rope_dim if absorbed else expanded
    return model.cached_layers * 2 * model.heads * dims


def flop_per_token(model: Model) -> int:
    """FLOP of one token without any context: 2 x matmul parameters, and 6 x state in the layers of
    linear attention (decay and read, write, query), 5 x state in those of Mamba.
    """
    flop = 2 * matmul_parameters(model)
    if model.linear is not None:
        linear = model.linear
        flop += 6 * linear.layers * linear.value_heads * linear.key_dim * linear.value_dim
    if model.state_space is not None:
        ssm = model.state_space
        flop += STATE_FLOP * ssm.layers * ssm.inner * ssm.state
    return flop
