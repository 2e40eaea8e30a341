"""The operators of one dense decoder layer with grouped-query attention, cut into TP shards."""

from __future__ import annotations

from dataclasses import dataclass

from cluster_sim.specs.model import Model

ACTIVATION_BYTES = 2


@dataclass(frozen=True, slots=True)
class Gemm:
    """A weight matrix of one shard: k inputs, n outputs."""

    name: str
    n: int
    k: int


def kv_heads_per_device(model: Model, tp: int) -> int:
    """KV heads on the fullest shard: an equal share rounded up; fewer heads than shards are
    replicated.
    """
    return -(-model.kv_heads // tp)


def layer_gemms(model: Model, tp: int) -> tuple[Gemm, ...]:
    """The four products of a layer on one shard: qkv, attention output, gate and up, down."""
    heads = model.heads // tp
    qkv = (heads + 2 * kv_heads_per_device(model, tp)) * model.head_dim
    ffn = -(-model.ffn_hidden // tp)
    return (
        Gemm("qkv", qkv, model.hidden),
        Gemm("attention_output", model.hidden, heads * model.head_dim),
        Gemm("gate_up", 2 * ffn, model.hidden),
        Gemm("down", model.hidden, ffn),
    )


def lm_head(model: Model, tp: int) -> Gemm:
    """The product that turns the last hidden state of a sequence into logits."""
    return Gemm("lm_head", -(-model.vocab // tp), model.hidden)


def glue_bytes(model: Model, tp: int) -> int:
    """Bytes that the kernels between the GEMMs of a layer move for one token on one shard.

    Model: two norms with residual read two and write two hidden vectors each; rotary embedding
    reads and writes queries and keys; the KV write moves keys and values; the activation reads two
    and writes one FFN vector.
    """
    heads, kv = model.heads // tp, kv_heads_per_device(model, tp)
    norms = 2 * 4 * model.hidden
    rotary = 2 * (heads + kv) * model.head_dim
    cache = 2 * 2 * kv * model.head_dim
    activation = 3 * -(-model.ffn_hidden // tp)
    return ACTIVATION_BYTES * (norms + rotary + cache + activation)


def weight_bytes_per_device(model: Model, tp: int, element_bytes: float) -> float:
    """Weights on one shard: layers at the given width, embedding and LM head in bf16."""
    layers = model.layers * sum(gemm.n * gemm.k for gemm in layer_gemms(model, tp))
    tables = (1 if model.tied_embeddings else 2) * -(-model.vocab // tp) * model.hidden
    return float(layers * element_bytes + tables * ACTIVATION_BYTES)
