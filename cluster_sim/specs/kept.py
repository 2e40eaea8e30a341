"""Which dtypes the parts of a checkpoint are in: the rule of its dtype, and what it keeps apart."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype
from cluster_sim.specs.constraints import PositiveFloat

if TYPE_CHECKING:
    from cluster_sim.specs.model import Model

Part = Literal[
    "attention",
    "output",
    "linear",
    "index",
    "dense",
    "shared",
    "experts",
    "router",
    "head",
    "embedding",
    "mtp",
]
MIXERS: tuple[Part, ...] = ("attention", "output", "linear", "index")  # what mixes tokens
LAYERED: tuple[Part, ...] = (*MIXERS, "dense", "shared", "experts")  # what methods quantise


@dataclass(frozen=True, slots=True, kw_only=True)
class Kept:
    """A part of a checkpoint whose dtype is not the one that ``rule`` gives it, in so many of the
    layers that have the part: in all of them unless ``layers`` says otherwise, which is no whole
    number where some products of a layer are kept and others not.

    ``attention`` are the products before the scores, ``output`` is the one behind them; ``linear``
    those of layers with a constant state; ``mtp`` are the layers for drafts as a whole.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}
    part: Part
    dtype: Dtype
    layers: PositiveFloat | None = None


def rule(dtype: Dtype, *, experts: bool) -> dict[str, Dtype]:
    """The dtype of each part of a model of a dtype, with or without experts, that says no more.

    Rule: all products alike; router, LM head and embedding in bf16. With experts, fp4 leaves what
    mixes tokens in bf16, and mxfp4 all but the experts. Source: checkpoints of gpt-oss and of
    NVIDIA's first fp4 DeepSeek-R1 (recalled).
    """
    parts: dict[str, Dtype] = dict.fromkeys(LAYERED, dtype)
    bf16: tuple[str, ...] = ("router", "head", "embedding")
    if experts and dtype == "fp4":
        bf16 += MIXERS
    if experts and dtype == "mxfp4":
        bf16 += tuple(part for part in LAYERED if part != "experts")
    return parts | dict.fromkeys(bf16, "bf16")


def layers_with(model: Model, part: str) -> int:
    """How many layers of a model have a part; one for head and embedding."""
    moe, local = model.moe, model.local
    index = local.indexed_layers if local is not None else 0
    experts = moe.layers if moe is not None else 0
    found: Mapping[str, int] = {
        "attention": model.cached_layers,
        "output": model.cached_layers,
        "linear": model.linear_layers + model.state_space_layers,
        "index": index,
        "dense": model.dense_layers,
        "shared": experts if moe is not None and (moe.shared_hidden or moe.latent) else 0,
        "experts": experts,
        "router": experts,
        "mtp": model.mtp_layers,
    }
    return found.get(part, 1)


def check_kept(model: Model) -> None:
    """Raise ValueError where a model keeps parts that it lacks, or more layers than it has."""
    for part in dict.fromkeys(kept.part for kept in model.kept):
        mine, present = [k.layers for k in model.kept if k.part == part], layers_with(model, part)
        if not present:
            raise ValueError(f"kept: {part}: {model.name} has no such part")
        if None in mine and len(mine) > 1:
            raise ValueError(f"kept: {part}: give layers to each of its {len(mine)} entries")
        total = sum(layers or 0 for layers in mine)
        if total > present * (1 + 1e-9):
            raise ValueError(f"kept: {part}: {total:g} layers of {present}")
