"""What the user wants trained: a model, a batch, and how both lie on the devices."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.campaign import Campaign
from cluster_sim.specs.constraints import (
    Chips,
    Count,
    Factor,
    Layers,
    LayersOrZero,
    NonNegativeInt,
    Number,
    OneOrMore,
    Parts,
    Seed,
    Sequences,
    Text,
    TokenCount,
)
from cluster_sim.units import Bytes, ShareOrZero

ScheduleName = Literal["auto", "gpipe", "1f1b", "interleaved", "zb_h1", "dualpipe", "dualpipe_v"]
TrainDtype = Literal["bf16", "fp16", "fp8", "fp8_block", "mxfp8", "fp4", "int8"]
Part = Literal["attention", "dense", "experts", "head"]
Recompute = Literal["none", "selective", "full"]
Module = Literal["core_attention", "norm", "activation", "mla_up"]
ContextKind = Literal["ring", "all_gather", "all_to_all"]
ReduceDtype = Literal["fp32", "bf16"]
GatherDtype = Literal["bf16", "fp8"]
Axis = Literal["tp", "cp", "dp", "pp"]
_STRICT: dict[str, Any] = {"extra": "forbid"}
ORDER: tuple[Axis, ...] = ("tp", "cp", "dp", "pp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How tokens choose experts: ``balanced`` (forced, as benchmarks do), or by a power law as
    served models do; ``imbalance`` times that is the load of the fullest expert group over the
    mean. ``dropped``: the share of choices that a capacity limit drops. ``nodes``: a token goes to
    experts of at most so many domains.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["balanced", "power_law"] = "balanced"
    imbalance: OneOrMore = 1.0
    dropped: ShareOrZero = 0.0
    nodes: Chips | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Offload:
    """What lies in the memory of the host and moves over the host link: shares of the optimizer's
    states and of the activations of every layer.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    optimizer: ShareOrZero = 0.0
    activations: ShareOrZero = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """How a training job lies on its devices; ``dp`` is what remains, devices / (tp pp cp).

    ``ep`` devices of a stage share the experts, each cut into ``etp`` slices; both divide tp cp dp.
    ``zero``: 0 replicates everything, 1 shards the optimizer (the distributed optimizer), 2 the
    gradients too, 3 the parameters too (FSDP); ``shard`` devices hold one copy (HSDP), all of dp
    unless given. ``layers`` are those of each virtual stage in order of the forward pass, an even
    split unless given. ``recompute`` selective computes ``recompute_modules`` again: the core of
    attention, outputs of norms and of activations, what latent attention expands. Ranks are
    numbered along ``order``, the first axis fastest; ``placement`` gives the device of each rank
    instead.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    tp: Chips = 1
    pp: Chips = 1
    vpp: Chips = 1
    cp: Chips = 1
    ep: Chips = 1
    etp: Chips = 1
    dp: Chips | None = None
    micro_batch: Sequences = 1
    sequence_parallel: bool = True
    context: ContextKind = "ring"
    zero: Annotated[int, Count(3, 0)] = 1
    shard: Chips | None = None
    schedule: ScheduleName = "auto"
    layers: tuple[LayersOrZero, ...] = ()
    recompute: Recompute = "none"
    recompute_layers: LayersOrZero | None = None
    recompute_modules: tuple[Module, ...] = ("core_attention",)
    offload: Offload = field(default_factory=Offload)
    overlap_gradients: bool = True
    overlap_gather: bool = True
    overlap_tp: bool = True
    bucket: Bytes | None = None
    reduce_dtype: ReduceDtype = "bf16"
    gather_dtype: GatherDtype = "bf16"
    routing: Routing = field(default_factory=Routing)
    order: tuple[Axis, ...] = ORDER
    placement: tuple[NonNegativeInt, ...] = ()

    def __post_init__(self) -> None:
        if sorted(self.order) != sorted(ORDER):
            raise ValueError(f"order must name each of {', '.join(ORDER)} once")
        if self.shard is not None and self.zero == 0:
            raise ValueError("shard has no effect with zero 0; set zero to 1, 2 or 3")
        if self.recompute_layers is not None and self.recompute == "none":
            raise ValueError("recompute_layers has no effect without recompute")
        if self.recompute_modules != ("core_attention",) and self.recompute != "selective":
            raise ValueError("recompute_modules belongs to recompute selective, and only there")
        if self.layers and len(self.layers) != self.stages:
            raise ValueError(
                f"layers names {len(self.layers)} virtual stages, pp x vpp is {self.stages}"
            )

    @property
    def stages(self) -> int:
        """Virtual stages of the pipeline."""
        return self.pp * self.vpp


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Adapters of low rank on the products of attention (and of the MLP), the rest frozen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    rank: Parts = 16
    mlp: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingWorkload:
    """A training job of ``global_batch`` sequences of ``seq_len`` tokens a step.

    ``precision`` is the dtype of all products but the head's, ``precisions`` those of single parts.
    ``mtp``: layers that predict further tokens are trained too; ``dropout`` keeps masks.
    ``machine_rate``: what products reach on this machine, as a share of what the chip's curves say.
    ``jitter``: standard deviation of each pass of each replica as a share of it, instead of what
    the software profile adds for stragglers. ``presets`` are published plans by name, with keys of
    the workload that belong to them. ``run`` is the whole run that steps are of.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    kind: Literal["training"]
    model: Text
    model_like: Text | None = None
    software: Text = "megatron"
    task: Literal["pretrain", "sft", "lora"] = "pretrain"
    lora: Lora | None = None
    precision: TrainDtype = "bf16"
    precisions: dict[Part, TrainDtype] = field(default_factory=dict)
    seq_len: TokenCount
    global_batch: Sequences
    layers: Layers | None = None
    mtp: bool = False
    dropout: bool = False
    machine_rate: Factor = 1.0
    plan: TrainingPlan = field(default_factory=TrainingPlan)
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    run: Campaign | None = None
    seed: Seed = 0
    jitter: Annotated[float, Number(0, 10)] | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.task == "lora") != (self.lora is not None):
            raise ValueError("lora belongs to task lora, and only there")

    @property
    def tokens(self) -> int:
        """Tokens of a step."""
        return self.global_batch * self.seq_len
