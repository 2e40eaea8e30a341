"""FLOP of a training step that a model needs, whatever the plan."""

from __future__ import annotations

from cluster_sim.kernels.counts import (
    attention_parameters,
    index_parameters,
    matmul_parameters,
    mlp_parameters,
    router_parameters,
)
from cluster_sim.specs.model import Model


def attention_pairs(model: Model, seq_len: int) -> tuple[float, float]:
    """Pairs of query and key of one sequence that a layer computes: layers that see everything, and
    local ones.

    Model: causal S^2 / 2; a window of W: S W - W^2 / 2; chunks of W: S W / 2; the best W by an
    index: as a window.
    """
    full = seq_len * seq_len / 2
    local = model.local
    if local is None or local.tokens >= seq_len:
        return full, full
    if local.kind == "chunked":
        return full, seq_len * local.tokens / 2
    return full, seq_len * local.tokens - local.tokens * local.tokens / 2


def head_dims(model: Model) -> int:
    """Key and value dimensions of a head together."""
    if model.mla is not None:
        return model.mla.nope_dim + model.mla.rope_dim + model.mla.v_dim
    return 2 * model.head_dim


def attention_flop(model: Model, seq_len: int) -> float:
    """FLOP of scores and values of one sequence in the forward pass, causal half only, all layers:
    2 heads (key dim + value dim) a pair; linear attention 6 a state element and token.
    """
    full, local = attention_pairs(model, seq_len)
    layers = (model.cached_layers - model.local_layers) * full + model.local_layers * local
    flop = 2.0 * model.heads * head_dims(model) * layers
    if model.linear is not None:
        linear = model.linear
        state = linear.value_heads * linear.key_dim * linear.value_dim
        flop += 6.0 * linear.layers * state * seq_len
    return flop


def head_flop(model: Model) -> float:
    """Forward FLOP a token of the LM head."""
    return 2.0 * model.hidden * model.vocab


def mtp_flop(model: Model, seq_len: int) -> float:
    """Forward FLOP a token of layers that predict further tokens: a layer of the last kind, the
    projection of hidden state and embedding, and the LM head, each time.
    """
    if not model.mtp_layers:
        return 0.0
    mlp = mlp_parameters(model, model.ffn_hidden)
    if model.moe is not None:
        mlp = model.moe.top_k * mlp_parameters(model, model.moe.expert_hidden)
        mlp += mlp_parameters(model, model.moe.shared_hidden) + router_parameters(model)
    layer = attention_parameters(model, model.kinds[0]) + index_parameters(model) + mlp
    products = 2.0 * (layer + 2 * model.hidden**2) + head_flop(model)
    attention = 2.0 * model.heads * head_dims(model) * attention_pairs(model, seq_len)[0] / seq_len
    return model.mtp_layers * (products + attention)


def model_flop_per_token(model: Model, seq_len: int, *, mtp: bool = False) -> float:
    """FLOP a token of forward and backward pass: 6 x matmul parameters + 3 x causal attention.

    The LM head counts, the embedding look-up does not, recomputation does not. Source: arXiv
    2104.04473, with active parameters for experts.
    """
    forward = 2.0 * matmul_parameters(model) + attention_flop(model, seq_len) / seq_len
    if mtp:
        forward += mtp_flop(model, seq_len)
    return 3.0 * forward
