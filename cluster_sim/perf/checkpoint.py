"""The weights of a model as a checkpoint holds them and an engine loads them."""

from __future__ import annotations

from dataclasses import replace

from cluster_sim.kernels import counts
from cluster_sim.kernels.layout import Layout, Recipe
from cluster_sim.kernels.model_ops import (
    ACTIVATION_BYTES,
    draft_projections,
    weight_bytes_per_device,
)
from cluster_sim.perf.drafts import with_mtp_layers
from cluster_sim.specs.kept import rule
from cluster_sim.specs.model import Model

TRUSTED = 0.05  # how far the size of a checkpoint and our count may be apart


def loaded_bytes_per_device(model: Model, layout: Layout, recipe: Recipe, drafts: int = 0) -> float:
    """Weights on the fullest device, with those of the MTP layers that make so many drafts.

    Model: as counted; in the checkpoint's own precision times its size over our count of it where
    both are within TRUSTED of each other, see ``size_share``. A vision tower is cut by TP (its
    products are parallel in vLLM and SGLang unless ``mm_encoder_tp_mode`` is data), see
    ``specs.towers``.
    """
    whole, projection = with_mtp_layers(model, drafts), draft_projections(model, drafts)
    counted = weight_bytes_per_device(whole, layout, recipe)
    counted += projection.layers * projection.n * projection.k * ACTIVATION_BYTES
    share = size_share(model) if recipe.own else None
    trusted = share is not None and abs(share - 1) <= TRUSTED
    tower = ACTIVATION_BYTES * model.tower_parameters / layout.tp
    return counted * (share if share is not None and trusted else 1.0) + tower


def size_share(model: Model) -> float | None:
    """The size of a checkpoint over our count of it; None where no index gives the size."""
    if model.checkpoint_bytes is None:
        return None
    return model.checkpoint_bytes / counted_bytes(model)


def counted_bytes(model: Model) -> float:
    """Bytes of a checkpoint as we count them: products and tables in their dtypes, the small rest
    in bf16, the layers for drafts if its index has them.
    """
    parts = rule(model.native_dtype, experts=model.moe is not None)
    dtypes = (parts["attention"], parts["dense"], parts["experts"])
    own = Recipe(model.native_dtype, *dtypes, "bf16", own=True)
    drafts = model.mtp_layers if model.checkpoint_drafts else 0
    plain = replace(model, checkpoint_bytes=None, tower_parameters=0)
    return loaded_bytes_per_device(plain, Layout(), own, drafts) + (
        ACTIVATION_BYTES * counts.small_parameters(model)
    )


def size_note(model: Model) -> str:
    """What to know where a checkpoint's size is not trusted; empty otherwise."""
    share = size_share(model)
    if share is None or abs(share - 1) <= TRUSTED:
        return ""
    size = (model.checkpoint_bytes or 0) / 1e9
    return (
        f"the checkpoint's index says {size:,.1f} GB, {abs(share - 1) * 100:.0f} % "
        f"{'more' if share > 1 else 'less'} than the weights of its config: the config counts"
    )
