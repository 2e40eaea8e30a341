"""What a model is: the dimensions of a decoder, its kinds of attention and its experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype
from cluster_sim.specs.constraints import (
    Layers,
    LayersOrZero,
    NonNegativeInt,
    Parts,
    PositiveFloat,
    PositiveInt,
    Text,
    TokenCount,
)

_STRICT: dict[str, Any] = {"extra": "forbid"}
Bias = Literal["qkv", "attention_output", "mlp", "router", "norms", "head"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Mla:
    """Multi-head latent attention: keys and values are kept as one latent vector of ``kv_rank`` and
    one rotary key of ``rope_dim`` a token. ``q_rank`` 0: queries are not compressed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    q_rank: NonNegativeInt
    kv_rank: PositiveInt
    nope_dim: PositiveInt
    rope_dim: PositiveInt
    v_dim: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """``experts`` of width ``expert_hidden``, ``top_k`` a token, in ``layers`` of the layers; the
    others are dense. ``shared_hidden`` is the width of all shared experts together, ``shared_gate``
    one more router output that scales them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    experts: Parts
    top_k: Parts
    expert_hidden: PositiveInt
    shared_hidden: NonNegativeInt = 0
    shared_gate: bool = False
    layers: Layers

    def __post_init__(self) -> None:
        if self.top_k > self.experts:
            raise ValueError(f"top_k {self.top_k} exceeds experts {self.experts}")
        if self.shared_gate and not self.shared_hidden:
            raise ValueError("shared_gate needs shared experts: set shared_hidden")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalAttention:
    """``layers`` whose tokens see part of their context.

    ``sliding``: the last ``tokens``. ``chunked``: those of the same chunk of ``tokens``.
    ``sparse``: the best ``tokens`` by an index of ``index_heads`` x ``index_dim`` that reads all of
    them.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["sliding", "chunked", "sparse"]
    tokens: TokenCount
    layers: Layers
    sinks: bool = False
    index_heads: NonNegativeInt = 0
    index_dim: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if (self.kind == "sparse") != (self.index_heads > 0 and self.index_dim > 0):
            raise ValueError("index_heads and index_dim belong to kind sparse, and only there")


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """``layers`` of gated-delta attention: a state of ``value_heads`` x ``key_dim`` x ``value_dim``
    a sequence instead of keys and values, and a convolution over ``conv`` tokens.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    layers: Layers
    key_heads: PositiveInt
    key_dim: PositiveInt
    value_heads: PositiveInt
    value_dim: PositiveInt
    conv: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Parameters in billions as the publisher counts them, to test the formulas against."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    total: PositiveFloat
    active: PositiveFloat
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A decoder; sizes in elements. Attention is grouped-query (multi-head and multi-query are its
    ends) unless ``mla`` is given; the MLP is dense unless ``moe`` is given.

    ``ffn_hidden`` is the width of dense layers. ``norms`` of a layer span the hidden width (one in
    some parallel blocks, four with norms behind attention and MLP), ``qk_norm`` is one over a head.
    ``biases`` names the products and norms that have them (experts count as mlp). ``mtp_layers``
    are for drafts; they are no part of the ``layers``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    layers: Layers
    hidden: PositiveInt
    ffn_hidden: NonNegativeInt = 0
    gated: bool = True
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    vocab: PositiveInt
    tied_embeddings: bool = False
    learned_positions: NonNegativeInt = 0
    norms: PositiveInt = 2
    qk_norm: bool = False
    output_gate: bool = False
    parallel_block: bool = False
    biases: tuple[Bias, ...] = ()
    max_context: TokenCount
    mla: Mla | None = None
    moe: Moe | None = None
    local: LocalAttention | None = None
    linear: LinearAttention | None = None
    mtp_layers: LayersOrZero = 0
    native_dtype: Dtype = "bf16"
    published: Published | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.moe is not None and self.moe.layers > self.layers:
            raise ValueError(f"moe.layers {self.moe.layers} exceeds layers {self.layers}")
        if self.dense_layers and not self.ffn_hidden:
            raise ValueError(f"ffn_hidden is needed by the {self.dense_layers} dense layers")
        if self.linear_layers >= self.layers:
            raise ValueError("linear.layers must leave a layer with a KV cache")
        if self.local_layers + self.linear_layers > self.layers:
            raise ValueError(f"local and linear attention name more than {self.layers} layers")

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return self.layers - (self.moe.layers if self.moe else 0)

    @property
    def linear_layers(self) -> int:
        """Layers with a constant state instead of a KV cache."""
        return self.linear.layers if self.linear else 0

    @property
    def local_layers(self) -> int:
        """Layers that attend to part of the context only."""
        return self.local.layers if self.local else 0

    @property
    def cached_layers(self) -> int:
        """Layers that keep something of every token."""
        return self.layers - self.linear_layers
