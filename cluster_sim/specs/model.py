"""What a model is: the dimensions of a decoder, its kinds of attention and its experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype
from cluster_sim.specs.constraints import NonNegativeInt, PositiveFloat, PositiveInt, Text

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
    one more router output that scales them. ``latent``: routed experts work on so many elements of
    a token, which one product before them makes and one behind them turns back (0: on all).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    experts: PositiveInt
    top_k: PositiveInt
    expert_hidden: PositiveInt
    latent: NonNegativeInt = 0
    shared_hidden: NonNegativeInt = 0
    shared_gate: bool = False
    layers: PositiveInt

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
    tokens: PositiveInt
    layers: PositiveInt
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
    layers: PositiveInt
    key_heads: PositiveInt
    key_dim: PositiveInt
    value_heads: PositiveInt
    value_dim: PositiveInt
    conv: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """``layers`` of Mamba: a state of ``inner`` x ``state`` a sequence instead of keys and values,
    and a convolution over ``conv`` tokens.

    ``mamba2``: ``heads`` share the inner width, ``groups`` of them the products that write to and
    read from the state; ``gated_norm`` before the output. ``mamba1``: steps of time pass a product
    of rank ``dt_rank``, with ``inner_norms`` on its inputs. ``beside_attention``: in the same
    layers as attention, on the same input. Sources: arXiv 2405.21060 and 2312.00752.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["mamba1", "mamba2"]
    layers: PositiveInt
    inner: PositiveInt
    state: PositiveInt
    conv: PositiveInt
    heads: NonNegativeInt = 0
    groups: NonNegativeInt = 0
    gated_norm: bool = False
    dt_rank: NonNegativeInt = 0
    inner_norms: bool = False
    conv_bias: bool = True
    projection_bias: bool = False
    state_dtype: Literal["fp32", "bf16"] = "bf16"
    beside_attention: bool = False

    def __post_init__(self) -> None:
        second = self.kind == "mamba2"
        if second != (self.heads > 0 and self.groups > 0) or second == (self.dt_rank > 0):
            raise ValueError("heads and groups belong to kind mamba2, dt_rank to mamba1")
        if second and (self.inner % self.heads or self.heads % self.groups):
            raise ValueError(
                f"inner {self.inner} must be a multiple of heads {self.heads}, and those of "
                f"groups {self.groups}"
            )
        if (second and self.inner_norms) or (not second and self.gated_norm):
            raise ValueError("gated_norm belongs to kind mamba2, inner_norms to mamba1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseMlp:
    """``layers`` with a dense MLP of width ``hidden``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    hidden: PositiveInt
    layers: PositiveInt


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

    A layer is a mixer (attention, linear attention, state space) and an MLP (dense or experts),
    unless counts say that some layers have one of them alone: ``attention_layers`` for attention
    (None: all that have no other mixer), ``mlps`` for the dense MLPs by width (None: one of
    ``ffn_hidden`` in all layers without experts), ``projections`` for products of hidden x hidden
    that stand for either. ``norms`` of a pair of mixer and MLP span the hidden width (one in some
    parallel blocks, four with norms behind both), ``qk_norm`` is one over a head.
    ``biases`` names the products and norms that have them (experts count as mlp). ``mtp_layers``
    are for drafts; they are no part of the ``layers``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    layers: PositiveInt
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
    max_context: PositiveInt
    mla: Mla | None = None
    moe: Moe | None = None
    local: LocalAttention | None = None
    linear: LinearAttention | None = None
    state_space: StateSpace | None = None
    attention_layers: PositiveInt | None = None
    mlps: tuple[DenseMlp, ...] | None = None
    projections: NonNegativeInt = 0
    mtp_layers: NonNegativeInt = 0
    native_dtype: Dtype = "bf16"
    published: Published | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.moe is not None and self.moe.layers > self.layers:
            raise ValueError(f"moe.layers {self.moe.layers} exceeds layers {self.layers}")
        if self.mlps is None and self.dense_layers and not self.ffn_hidden:
            raise ValueError(f"ffn_hidden is needed by the {self.dense_layers} dense layers")
        self._check_mixers()
        if self.dense_layers + self.moe_layers > self.layers:
            raise ValueError(f"mlps and moe name more than {self.layers} layers")
        if self.projections > 2 * self.layers:
            raise ValueError(f"projections {self.projections} exceed two in {self.layers} layers")
        if self.mtp_layers and self.mlps is not None and self.moe is None:
            raise ValueError("mtp_layers of a model with mlps need moe, whose layer they repeat")

    def _check_mixers(self) -> None:
        if self.cached_layers < 1:
            owner = "linear.layers" if self.linear else "state_space.layers"
            raise ValueError(f"{owner} must leave a layer with a KV cache")
        if self.local_layers > self.cached_layers:
            raise ValueError(f"local and linear attention name more than {self.layers} layers")
        if self.own_mixers > self.layers:
            raise ValueError(f"attention and state space name more than {self.layers} layers")
        both = self.state_space is not None and self.state_space.beside_attention
        if both and self.state_space_layers > self.cached_layers:
            raise ValueError("state_space.beside_attention: more layers than have attention")

    @property
    def dense_mlps(self) -> tuple[DenseMlp, ...]:
        """The dense MLPs by width."""
        if self.mlps is not None:
            return self.mlps
        layers = self.layers - self.moe_layers
        return (DenseMlp(hidden=self.ffn_hidden, layers=layers),) if layers else ()

    @property
    def dense_layers(self) -> int:
        """Layers with a dense MLP."""
        return sum(mlp.layers for mlp in self.dense_mlps)

    @property
    def moe_layers(self) -> int:
        """Layers with experts."""
        return self.moe.layers if self.moe else 0

    @property
    def expert_input(self) -> int:
        """Elements of a token that routed experts work on."""
        return (self.moe.latent if self.moe else 0) or self.hidden

    @property
    def linear_layers(self) -> int:
        """Layers with a constant state instead of a KV cache."""
        return self.linear.layers if self.linear else 0

    @property
    def local_layers(self) -> int:
        """Layers that attend to part of the context only."""
        return self.local.layers if self.local else 0

    @property
    def state_space_layers(self) -> int:
        """Layers of Mamba."""
        return self.state_space.layers if self.state_space else 0

    @property
    def recurrent(self) -> bool:
        """Whether sequences have states that cannot be kept token by token."""
        return self.linear is not None or self.state_space is not None

    @property
    def cached_layers(self) -> int:
        """Layers that keep something of every token."""
        if self.attention_layers is not None:
            return self.attention_layers
        beside = self.state_space is not None and self.state_space.beside_attention
        return self.layers - self.linear_layers - (0 if beside else self.state_space_layers)

    @property
    def own_mixers(self) -> int:
        """Mixers with an input of their own; Mamba beside attention has none."""
        beside = self.state_space is not None and self.state_space.beside_attention
        mixers = self.cached_layers + self.linear_layers
        return mixers + (0 if beside else self.state_space_layers)

    @property
    def residual_blocks(self) -> int:
        """Mixers, MLPs and projections that add to the residual; two in a layer that has both."""
        return self.own_mixers + self.dense_layers + self.moe_layers + self.projections

    @property
    def summed_blocks(self) -> int:
        """Blocks whose outputs tensor parallelism adds up."""
        if self.parallel_block:
            return self.layers
        beside = self.state_space is not None and self.state_space.beside_attention
        return self.residual_blocks + (self.state_space_layers if beside else 0)

    @property
    def alike(self) -> bool:
        """Whether every layer is attention, linear or not, and one MLP on all elements of a token,
        of one width unless it has experts.
        """
        given = (self.state_space, self.attention_layers, self.mlps)
        latent = self.moe is not None and self.moe.latent > 0
        return given == (None, None, None) and not self.projections and not latent
