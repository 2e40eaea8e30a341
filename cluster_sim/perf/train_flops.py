"""FLOP of a training step that a model needs, whatever the plan."""

from __future__ import annotations

from cluster_sim.kernels.attention import local_pairs
from cluster_sim.kernels.counts import (
    LINEAR_FLOP,
    attention_parameters,
    head_dims,
    index_parameters,
    matmul_parameters,
    mlp_parameters,
    router_parameters,
)
from cluster_sim.kernels.model_ops import linear_state_elements
from cluster_sim.specs.model import Model


def attention_flop(model: Model, seq_len: int) -> float:
    """FLOP of scores and values of one sequence in the forward pass, causal half only, all layers:
    2 heads (key dim + value dim) a pair; linear attention ``LINEAR_FLOP`` a state element and
    token.
    """
    every = seq_len * seq_len
    near = every if model.local is None else local_pairs(model.local, seq_len)
    pairs = ((model.cached_layers - model.local_layers) * every + model.local_layers * near) / 2
    flop = 2.0 * model.heads * head_dims(model.kinds[0], absorbed=False) * pairs
    if model.linear is not None:
        flop += LINEAR_FLOP * model.linear.layers * linear_state_elements(model.linear, 1) * seq_len
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
    attention = model.heads * head_dims(model.kinds[0], absorbed=False) * seq_len
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
