"""Kernels that only move bytes, and the most that the memory of a device delivers to anybody."""

from __future__ import annotations

from cluster_sim.kernels import counts
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES, kv_elements_per_layer, mixed_elements
from cluster_sim.kernels.state_space import glue_elements
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.model import Attention, Model


def hbm_bytes_per_s(machine: TopologyInput) -> float:
    """What the memory of a device delivers at most (bytes/s), to all that read it together.

    Model: the bandwidth times the ``ceiling`` of the chip's file, the share that was measured at
    best; without one times the largest share in its fitted curves.
    """
    chip, fits = machine.chip, machine.fits
    ceiling = chip.memory.ceiling
    if ceiling is None:
        tables = (fits.gemm, fits.moe, fits.attention_decode, fits.mla_decode)
        shares = [curve.memory for table in tables for curve in table.values()]
        ceiling = min(1.0, max([*shares, fits.glue.memory]))
    return chip.device_bandwidth * ceiling


def stream_bytes_per_s(machine: TopologyInput) -> float:
    """Bytes/s of kernels that only move data, on their fitted curve; its floor is apart."""
    return machine.chip.device_bandwidth * machine.fits.glue.memory


def glue_bytes(model: Model, tp: int) -> float:
    """Bytes that the kernels between the products of a mean layer move for one token on one device,
    as an engine runs them: norms, what is between the products of mixers with the write into the
    cache, activations of all MLPs.

    Limits: a routed expert's activation is counted here, and in the price of experts too, whose
    timings contain it; the constants of engines were fitted with both.
    """
    inner = sum(mlp.layers * mlp.hidden for mlp in model.dense_mlps)
    if model.moe is not None:
        chosen = model.moe.top_k * model.moe.expert_hidden + model.moe.shared_hidden
        inner += model.moe.layers * chosen
    activation = activation_elements(model, inner) / model.layers / tp
    mixers = mixer_elements(model, tp, cached=True)
    return ACTIVATION_BYTES * (norm_elements(model) + activation + mixers)


def norm_elements(model: Model) -> float:
    """Elements that the norms and residuals of a mean layer move for one token, on every device.

    Model: the first two norms of a layer, with residual, read two and write two hidden vectors
    each, further ones read and write one; of several residual streams the first two read all twice
    and write all once, and they read the sums kept of blocks of layers.
    """
    around = 3 * model.residual_streams + 1 + _kept_sums(model)
    norms = (around * min(model.norms, 2) + 2 * max(model.norms - 2, 0)) * model.hidden
    return norms * (model.residual_blocks / (2 * model.layers))


def activation_elements(model: Model, width: float) -> float:
    """Elements that the activation of an MLP moves for one token: it reads two vectors of the width
    (not gated: one) and writes one.
    """
    return (3 if model.gated else 2) * width


def mixer_elements(model: Model, tp: int, *, cached: bool) -> float:
    """Elements that the kernels between the products of a mean layer's mixer move for one token on
    one device; ``cached``: with the write of keys and values into a cache.
    """
    moved = sum(kind.layers * _attention_glue(model, kind, tp, cached) for kind in model.kinds)
    moved += model.linear_layers * _linear_glue(model, tp)
    if model.state_space is not None:
        moved += model.state_space_layers * glue_elements(model.state_space, tp)
    return moved / model.layers


def _kept_sums(model: Model) -> float:
    """Sums of blocks of layers that a mean layer reads."""
    block, layers = model.residual_kept_every, model.layers
    return sum(-(-layer // block) for layer in range(1, layers + 1)) / layers if block else 0


def _attention_glue(model: Model, kind: Attention, tp: int, cached: bool) -> int:
    """Elements: the rotary embedding reads and writes queries and keys, the KV write moves keys and
    values, an output gate reads two and writes one query vector; outputs over compressed entries
    are turned back.
    """
    heads = kind.heads // tp
    if kind.mla is not None:
        queries = heads * (kind.mla.nope_dim + kind.mla.rope_dim)
        keys = kind.mla.kv_rank + kind.mla.rope_dim
    elif kind.compressed is not None:
        queries = 2 * heads * kind.head_dim
        keys = kind.head_dim * (1 + counts.pooled_width(kind.compressed))
    else:
        queries = heads * kind.head_dim
        keys = kv_elements_per_layer(kind, tp) if kind.cache else 0
    return (5 if model.output_gate else 2) * queries + (3 if cached else 1) * keys


def _linear_glue(model: Model, tp: int) -> int:
    """Elements: the convolution reads and writes queries, keys and values, the gated norm reads two
    and writes one value vector.
    """
    linear = model.linear
    if linear is None:
        return 0
    return -(-(2 * mixed_elements(linear) + 3 * linear.value_heads * linear.value_dim) // tp)
