"""Speculation with a model's own MTP layers: the model that drafts, and what a step costs more.

A step of k drafts verifies k + 1 tokens a sequence. Then MTP layers run k times, each time one
layer of the model's last kind behind a projection and before the LM head: each layer once over all
tokens of the step, since its own cache must have them; where the model has fewer layers than
drafts, the last one again over one token a sequence.

Source: DeepSeek-V3 report, section 2.2 (the layer); TensorRT-LLM and SGLang (one layer used again;
recalled).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.specs.kept import LAYERED, Kept, layers_with
from cluster_sim.specs.model import Model

if TYPE_CHECKING:
    from cluster_sim.perf.family import Family

FloatArray = NDArray[np.float64]
AGAIN = (
    *("gemm_math", "gemm_weights", "attention_decode", "glue", "all_reduce"),
    *("expert_math", "expert_weights", "expert_exchange"),
)


def with_mtp_layers(model: Model, drafts: int) -> Model:
    """The model with the MTP layers that make so many drafts among its own; the same for none.

    Model: layers of the last kind: with experts where the model has them, the model's own kind of
    attention over all of the context, an index where that is sparse.
    """
    more = min(drafts, model.mtp_layers)
    if not more:
        return model
    moe, local = model.moe, model.local
    if local is not None and model.indexed == model.kinds[0]:
        indexed = local.index_layers + more if local.index_layers else 0
        local = replace(local, layers=local.layers + more, index_layers=indexed)
    return replace(
        model,
        layers=model.layers + more,
        attention_layers=model.attention_layers and model.attention_layers + more,
        moe=moe and replace(moe, layers=moe.layers + (0 if model.mtp_dense else more)),
        local=local,
        kept=_kept_with(model, more),
    )


def one_mtp_layer(model: Model) -> Model:
    """One of the MTP layers as a model."""
    moe, local = model.moe, model.local
    if local is not None:
        sparse = model.indexed == model.kinds[0]
        local = replace(local, layers=1, index_layers=0) if sparse else None
    one = replace(
        model,
        layers=1,
        moe=None if moe is None or model.mtp_dense else replace(moe, layers=1),
        local=local,
        linear=None,
        other_attention=(),
        state_space=None,
        attention_layers=None,
        mlps=None,
        projections=0,
        kept=(),
    )
    return replace(one, kept=tuple(kept for kept in _of_mtp(model) if layers_with(one, kept.part)))


def _of_mtp(model: Model) -> tuple[Kept, ...]:
    """What an MTP layer keeps: its own dtype, else the parts that all layers keep."""
    whole = next((kept.dtype for kept in model.kept if kept.part == "mtp"), None)
    if whole is None:
        return tuple(kept for kept in model.kept if kept.layers is None)
    return (
        *(Kept(part=part, dtype=whole) for part in LAYERED),
        *(kept for kept in model.kept if kept.part in ("head", "embedding")),
    )


def _kept_with(model: Model, more: int) -> tuple[Kept, ...]:
    """What a model keeps with so many MTP layers among its own."""
    whole = next((kept.dtype for kept in model.kept if kept.part == "mtp"), None)
    if whole is None:
        return model.kept
    found = []
    for kept in model.kept:
        if kept.part in LAYERED and kept.layers is None:
            found.append(replace(kept, layers=float(layers_with(model, kept.part))))
        else:
            found.append(kept)
    # MTP layers are of the last kind: with experts where the model has them, never linear.
    gone: tuple[str, ...] = ("linear",)
    if model.moe is not None:
        gone += ("shared", "experts") if model.mtp_dense else ("dense",)
    parts = [part for part in LAYERED if part not in gone and layers_with(model, part)]
    return (*found, *(Kept(part=part, dtype=whole, layers=float(more)) for part in parts))


def with_passes(
    families: Sequence[Family], layer: Sequence[Family], passes: int, width: int
) -> tuple[Family, ...]:
    """Families with further passes of an MTP layer, one token a sequence each; ``layer`` are the
    families of the layer, ``width`` the tokens of a sequence in a step.

    Limits: of operators that batches share the sequences are the tokens over the width, at most as
    many as can run, so steps with prompts count too many.
    """
    known = {family.name: family for family in layer if family.name in AGAIN}
    return tuple(
        _added(family, known[family.name], passes, width) if family.name in known else family
        for family in families
    )


def _added(family: Family, layer: Family, passes: int, width: int) -> Family:
    rows = _sum(layer.tokens_s, layer.sequences_s)
    changed: dict[str, Any] = {
        "sequences_s": _sum(family.sequences_s, rows, passes),
        "decodes_s": _sum(family.decodes_s, layer.decodes_s, passes),
        "context_s": family.context_s + passes * layer.context_s,
        "local_context_s": family.local_context_s + passes * layer.local_context_s,
    }
    if family.shared_s is not None and layer.shared_s is not None:
        most = len(layer.shared_s) - 1
        sequences = np.minimum(-(-np.arange(len(family.shared_s)) // width), most)
        changed["shared_s"] = family.shared_s + passes * layer.shared_s[sequences]
    if family.use is not None and layer.use is not None:
        changed["use"] = _added(family.use, layer.use, passes, width)
    return replace(family, **changed)


def _sum(one: FloatArray | None, other: FloatArray | None, times: int = 1) -> FloatArray | None:
    if one is None or other is None:
        return one if other is None else times * other
    return one + times * other
