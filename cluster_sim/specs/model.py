"""What a model is: the dimensions of a decoder, its kinds of attention and its experts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype, KvDtype
from cluster_sim.specs.constraints import (
    Count,
    Layers,
    LayersOrZero,
    NonNegativeInt,
    Parts,
    PositiveFloat,
    PositiveInt,
    Text,
    TokenCount,
)
from cluster_sim.specs.kept import Kept, check_kept

_STRICT: dict[str, Any] = {"extra": "forbid"}
MOST_BYTES = 10**14  # of a checkpoint
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
class Compressed:
    """Attention over entries of one head that all query heads share, each both key and value, of
    which the last ``rope_dim`` elements turn with the position.

    A layer reads the entries of the last ``window`` tokens, and of all tokens before one for every
    ``ratio`` (0: none), pooled with weights of its own; with ``overlap`` from twice as many tokens.
    Outputs pass one product per group of heads, ``output_groups`` to ``output_rank`` elements each,
    then one together. Source: DeepSeek-V4 in transformers.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    q_rank: PositiveInt
    rope_dim: PositiveInt
    window: PositiveInt
    ratio: NonNegativeInt = 0
    overlap: bool = False
    output_groups: PositiveInt
    output_rank: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """One kind of attention, in ``layers`` of the layers; ``local_layers`` of these see the part of
    the context that the model's local attention says.

    A head has ``head_dim`` elements in queries and keys, ``v_dim`` in values (0: as many). Without
    a ``value_projection`` values are the keys before their norm and rotation. With ``q_rank``
    queries pass so many elements that all heads share. Without a ``cache`` the layers read the keys
    and values of an earlier layer and compute none.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    layers: PositiveInt
    local_layers: NonNegativeInt = 0
    heads: PositiveInt
    kv_heads: PositiveInt
    head_dim: PositiveInt
    v_dim: NonNegativeInt = 0
    value_projection: bool = True
    q_rank: NonNegativeInt = 0
    cache: bool = True
    mla: Mla | None = None
    compressed: Compressed | None = None

    def __post_init__(self) -> None:
        if self.heads % self.kv_heads:
            raise ValueError(f"heads {self.heads} must be a multiple of kv_heads {self.kv_heads}")
        if self.local_layers > self.layers:
            raise ValueError(f"local_layers {self.local_layers} exceeds layers {self.layers}")
        if self.mla is not None and self.compressed is not None:
            raise ValueError("attention is either mla or compressed")
        if self.compressed is not None and self.heads % self.compressed.output_groups:
            raise ValueError(
                f"heads {self.heads} must be a multiple of output_groups "
                f"{self.compressed.output_groups}"
            )

    @property
    def value_dim(self) -> int:
        """Elements of a head's values."""
        return self.v_dim or self.head_dim

    @property
    def latent(self) -> bool:
        """Whether all heads read one vector of a token, which no device can cut."""
        return self.mla is not None or self.compressed is not None

    @property
    def output_dim(self) -> int:
        """Elements of a head's output."""
        return self.mla.v_dim if self.mla is not None else self.value_dim


@dataclass(frozen=True, slots=True, kw_only=True)
class Moe:
    """``experts`` of width ``expert_hidden``, ``top_k`` a token, in ``layers`` of the layers; the
    others are dense. ``shared_hidden`` is the width of all shared experts together, ``shared_gate``
    one more router output that scales them. ``latent``: routed experts work on so many elements of
    a token, which one product before them makes and one behind them turns back (0: on all).
    ``idle_hidden`` is the width of all experts together that images alone choose: they lie in
    memory.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    experts: Parts
    top_k: Parts
    expert_hidden: PositiveInt
    latent: NonNegativeInt = 0
    idle_hidden: NonNegativeInt = 0
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
    them, in ``index_layers`` of the layers (0: all); the others take the choice of one before.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["sliding", "chunked", "sparse"]
    tokens: TokenCount
    layers: Layers
    sinks: bool = False
    index_heads: NonNegativeInt = 0
    index_dim: NonNegativeInt = 0
    index_layers: NonNegativeInt = 0

    def __post_init__(self) -> None:
        if (self.kind == "sparse") != (self.index_heads > 0 and self.index_dim > 0):
            raise ValueError("index_heads and index_dim belong to kind sparse, and only there")
        if self.index_layers > (self.layers if self.kind == "sparse" else 0):
            raise ValueError(f"index_layers {self.index_layers} exceeds the sparse layers")

    @property
    def indexed_layers(self) -> int:
        """Layers that have an index."""
        return (self.index_layers or self.layers) if self.kind == "sparse" else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LinearAttention:
    """``layers`` of gated-delta attention: a state of ``value_heads`` x ``key_dim`` x ``value_dim``
    a sequence instead of keys and values, and a convolution over ``conv`` tokens.

    The state decays by head, or with ``decay_rank`` by element of the keys, which two products over
    so many elements say. The output's gate is one product, or with ``gate_rank`` two. Source: Kimi
    Linear in vLLM (both).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    layers: Layers
    key_heads: PositiveInt
    key_dim: PositiveInt
    value_heads: PositiveInt
    value_dim: PositiveInt
    conv: PositiveInt
    decay_rank: NonNegativeInt = 0
    gate_rank: NonNegativeInt = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSpace:
    """``layers`` of Mamba: a state of ``inner`` x ``state`` a sequence instead of keys and values,
    and a convolution over ``conv`` tokens.

    ``mamba2``: ``heads`` share the inner width, ``groups`` of them the products that write to and
    read from the state; ``gated_norm`` before the output. ``mamba1``: steps of time pass a product
    of rank ``dt_rank``, with ``inner_norms`` on its inputs. ``short_conv``: a convolution between
    two gates and no state (LFM2 in transformers). ``beside_attention``: in the same layers as
    attention, on the same input. Sources: arXiv 2405.21060 and 2312.00752.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["mamba1", "mamba2", "short_conv"]
    layers: PositiveInt
    inner: PositiveInt
    state: NonNegativeInt
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
        first, second = self.kind == "mamba1", self.kind == "mamba2"
        if second != (self.heads > 0 and self.groups > 0) or first != (self.dt_rank > 0):
            raise ValueError("heads and groups belong to kind mamba2, dt_rank to mamba1")
        if (first or second) != (self.state > 0):
            raise ValueError("state belongs to mamba1 and mamba2, and only there")
        if second and (self.inner % self.heads or self.heads % self.groups):
            raise ValueError(
                f"inner {self.inner} must be a multiple of heads {self.heads}, and those of "
                f"groups {self.groups}"
            )
        if self.inner_norms > first or self.gated_norm > second:
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
    ends) unless ``mla`` or ``compressed`` is given; the MLP is dense unless ``moe`` is given.

    Layers whose attention has another geometry are ``other_attention``; the rest of the layers with
    keys and values have the model's own, see ``Attention`` for its fields.

    A layer is a mixer (attention, linear attention, state space) and an MLP (dense or experts),
    unless counts say that some layers have one of them alone: ``attention_layers`` for attention
    (None: all that have no other mixer), ``mlps`` for the dense MLPs by width (None: one of
    ``ffn_hidden`` in all layers without experts), ``projections`` for products of hidden x hidden
    that stand for either. ``norms`` of a pair of mixer and MLP span the hidden width (one in some
    parallel blocks, four with norms behind both), ``qk_norm`` is one over a head.

    ``output_gate`` scales each element of attention's output, ``head_gate`` each head.
    ``residual_streams`` run beside each other and are mixed around mixers and MLPs
    (hyper-connections); with ``residual_kept_every`` both read the sums after every so many layers
    before them. ``layer_embedding`` is the width of one more embedding in each layer. ``biases``
    names the products and norms that have them (experts count as mlp). ``mtp_layers`` are for
    drafts, with ``mtp_dense`` their MLPs are the dense ones; they are no part of the ``layers``.

    The checkpoint is in ``native_dtype`` but for the parts in ``kept``; ``bytes_per_element`` are
    those of dtypes, scales included, where its scales are not the usual ones. ``kv_dtype`` is the
    one that it was calibrated for. ``checkpoint_bytes`` is its size, with ``checkpoint_drafts`` if
    the layers for drafts are in it. ``tower_parameters`` are the weights of a vision tower, in bf16
    and no part of the layers.
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
    v_dim: NonNegativeInt = 0
    value_projection: bool = True
    q_rank: NonNegativeInt = 0
    vocab: PositiveInt
    tied_embeddings: bool = False
    learned_positions: NonNegativeInt = 0
    norms: PositiveInt = 2
    qk_norm: bool = False
    output_gate: bool = False
    head_gate: bool = False
    parallel_block: bool = False
    residual_streams: PositiveInt = 1
    residual_kept_every: NonNegativeInt = 0
    layer_embedding: NonNegativeInt = 0
    biases: tuple[Bias, ...] = ()
    max_context: TokenCount
    mla: Mla | None = None
    compressed: Compressed | None = None
    other_attention: tuple[Attention, ...] = ()
    moe: Moe | None = None
    local: LocalAttention | None = None
    linear: LinearAttention | None = None
    state_space: StateSpace | None = None
    attention_layers: Layers | None = None
    mlps: tuple[DenseMlp, ...] | None = None
    projections: LayersOrZero = 0
    mtp_layers: LayersOrZero = 0
    mtp_dense: bool = False
    native_dtype: Dtype = "bf16"
    kept: tuple[Kept, ...] = ()
    bytes_per_element: dict[Dtype, PositiveFloat] = field(default_factory=dict)
    kv_dtype: KvDtype | None = None
    checkpoint_bytes: Annotated[int, Count(MOST_BYTES)] | None = None
    checkpoint_drafts: bool = False
    tower_parameters: Annotated[int, Count(MOST_BYTES, 0)] = 0
    notes: tuple[Text, ...] = ()
    published: Published | None = None
    sources: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
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
        if self.mtp_dense and not self.ffn_hidden:
            raise ValueError("mtp_dense needs ffn_hidden, the width of dense layers")

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
        self._check_kinds()
        check_kept(self)

    def _check_kinds(self) -> None:
        others = sum(kind.layers for kind in self.other_attention)
        if others >= self.cached_layers:
            raise ValueError(
                f"other_attention names {others} layers, which leaves none of the "
                f"{self.cached_layers} for the model's own"
            )
        others = sum(kind.local_layers for kind in self.other_attention)
        if others > self.local_layers:
            raise ValueError(
                f"other_attention names {others} local layers, local {self.local_layers}"
            )
        _ = self.kinds  # checks the model's own

    @property
    def kinds(self) -> tuple[Attention, ...]:
        """The kinds of attention over keys and values: the model's own, then the others."""
        own = Attention(
            layers=self.cached_layers - sum(kind.layers for kind in self.other_attention),
            local_layers=self.local_layers
            - sum(kind.local_layers for kind in self.other_attention),
            heads=self.heads,
            kv_heads=self.kv_heads,
            head_dim=self.head_dim,
            v_dim=self.v_dim,
            value_projection=self.value_projection,
            q_rank=self.q_rank,
            mla=self.mla,
            compressed=self.compressed,
        )
        return (own, *self.other_attention)

    @property
    def indexed(self) -> Attention | None:
        """The kind whose layers choose by an index."""
        if self.local is None or self.local.kind != "sparse":
            return None
        return next((kind for kind in self.kinds if kind.local_layers), None)

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
        """Whether every layer is one attention over keys and values as wide, or linear attention
        that decays by head, and one MLP on all elements of a token, of one width unless it has
        experts.
        """
        given = (self.state_space, self.attention_layers, self.mlps, self.compressed)
        counted = (
            *(self.projections, self.other_attention, self.v_dim, self.layer_embedding),
            *(self.residual_streams - 1, self.residual_kept_every, self.q_rank),
            self.moe and (self.moe.latent or self.moe.idle_hidden),
            self.linear and self.linear.decay_rank,
            self.local and self.local.index_layers,
        )
        return given == (None,) * 4 and self.value_projection and not any(counted)
