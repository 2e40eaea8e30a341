"""What an inference engine does apart from kernels: scheduler, memory rule, host time, limits under
its own names.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.chip import Dtype, KvDtype, Provenance
from cluster_sim.specs.constraints import (
    MOST_TOKENS,
    Chance,
    Count,
    Factor,
    FactorOrZero,
    Number,
    PositiveInt,
    Running,
    Text,
    TokenCount,
)
from cluster_sim.specs.model import Model
from cluster_sim.specs.registered import Registered
from cluster_sim.units import Bytes, BytesOrZero, BytesPerSecond, SecondsOrZero

SchedulerName = Annotated[str, Registered("scheduler")]
RouterName = Annotated[str, Registered("router")]
Utilisation = Annotated[float, Number(0.001, 1)]
StepTokens = Annotated[int, Count(MOST_TOKENS, 16)]  # a step; engines take far more
AllReduceLibrary = Literal["vllm_custom", "trtllm_custom", "sglang_custom", "nccl", "hccl"]
ExpertLibrary = Literal[
    "deepep_low_latency",
    "deepep_normal",
    "trtllm_nvlink_one_sided",
    "trtllm_nvlink_two_sided",
    "nccl",
    "hccl",
]
MOST_DRAFTS = 16  # a step; engines take fewer
# Chance that a draft of DeepSeek-V3's own MTP layer is accepted if all before it were: 3.1 to 3.2
# tokens a step with 7 drafts on MT-bench, HumanEval and GSM8K (model card of nebius/MTP-DeepSeek-
# V3-0324). The first draft alone: 0.85 to 0.9 (DeepSeek-V3 report, arXiv 2412.19437, 5.4.3).
DRAFT_ACCEPTANCE = 0.7
_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Overhead:
    """What an engine takes of a device beside weights and cache.

    ``context``: the driver's context, loaded kernels, what the allocator cannot use; ``peers``
    besides where a replica has several devices (NCCL, all-reduce buffers), ``experts`` where the
    model has experts (workspaces of their kernels), which take ``expert_tokens`` at a time.
    Activations are those of the engine's profile run: ``forward`` bytes for each token of a step
    and element that it has on the device (residual, normed state, widest layer), or instead of that
    layer, where it is more, ``sampling`` bytes for each sequence of the largest batch and element
    of the vocabulary. ``graphs``: bytes of a captured graph for each layer, outside of what the
    rule counts. ``error``: within so many bytes lie four of five start-up logs that no constant was
    fitted to.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    context: BytesOrZero
    peers: BytesOrZero = 0.0
    experts: BytesOrZero = 0.0
    expert_tokens: PositiveInt = 1 << 15
    forward: FactorOrZero = 0.0
    sampling: FactorOrZero = 0.0
    graphs: BytesOrZero = 0.0
    error: BytesOrZero = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Padding:
    """Multiples that a kernel wants the hidden width and the width of an expert's slice to be; the
    weights are stored as if they were.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    hidden: PositiveInt = 1
    width: PositiveInt = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Reserve:
    """What rule ``reserved`` keeps free: ``base`` + ``per_batched_token`` x
    max_num_batched_tokens + ``per_device`` x TP x PP + ``graphs``, and at least ``minimum`` on
    devices of more than ``minimum_above``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    base: BytesOrZero
    per_batched_token: BytesOrZero
    per_device: BytesOrZero
    graphs: BytesOrZero
    minimum: BytesOrZero
    minimum_above: BytesOrZero


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRule:
    """How much memory becomes KV blocks, of what a process sees.

    ``of_total`` (vLLM): fraction x visible - weights - overhead. ``of_free`` (TensorRT-LLM):
    fraction x (visible - weights - overhead). ``reserved`` (SGLang): fraction x (visible - context
    - peers) - weights; where no fraction is set it is 1 - ``reserve`` / capacity, and what it
    leaves has to hold the rest of ``overhead``. Graphs need room in what any rule leaves.
    ``padding``: by the dtype of experts. ``host_link`` is what one device moves to and from the
    host.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    rule: Literal["of_total", "of_free", "reserved"]
    fraction: Utilisation | None = None
    overhead: Overhead
    reserve: Reserve | None = None
    padding: dict[Dtype, Padding] = field(default_factory=dict)
    block_tokens: PositiveInt
    host_link: BytesPerSecond
    source: Text

    def __post_init__(self) -> None:
        if (self.rule == "reserved") != (self.reserve is not None):
            raise ValueError("reserve belongs to rule reserved, and only there")
        if self.rule != "reserved" and self.fraction is None:
            raise ValueError(f"fraction is needed by rule {self.rule}")


@dataclass(frozen=True, slots=True, kw_only=True)
class SmallDevice:
    """Limits that the framework sets lower on devices with less memory than ``below``, and on
    ``chips`` whatever they have.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    below: Bytes
    chips: tuple[Text, ...] = ()
    max_num_seqs: Running | None = None
    max_num_batched_tokens: StepTokens | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """CPU time that delays the next step: per step and per running sequence.

    ``measured_on`` names the vendors of the chips that it was fitted on; on others it is assumed.
    ``provenance`` is what it is on those.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    per_step: SecondsOrZero
    per_sequence: SecondsOrZero
    measured_on: tuple[Text, ...] = ()
    provenance: Provenance = "measured"
    source: Text

    def on(self, vendor: str) -> Provenance:
        """The provenance on a vendor's chips."""
        return self.provenance if vendor in self.measured_on else "assumed"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTime:
    """How much later than the engine has them clients see the tokens of a request.

    ``idle``: all tokens, whatever the load (API server, tokenizer, detokenizer, HTTP).
    ``loaded_steps``: the first token besides, in times between two tokens (with drafts in decode
    steps), where others keep the engine busy (polls, waits for a fuller batch, streaming in
    groups).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    idle: SecondsOrZero
    loaded_steps: FactorOrZero
    source: Text


IN_PROCESS = ClientTime(idle=0.0, loaded_steps=0.0, source="assumed: called in its own process")


@dataclass(frozen=True, slots=True, kw_only=True)
class InSitu:
    """What kernels cost inside the engine over their bench timing."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    attention_floor_factor: Factor
    all_reduce_factor: Factor
    all_reduce_skew: SecondsOrZero
    glue_kernels_per_layer: PositiveInt
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheDefault:
    """The dtype of the cache that the framework chooses for models with an index of sparse
    attention (``indexed``) or with compressed entries, on ``chips`` or, if none are named, on all.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    attention: Literal["indexed", "compressed"]
    kv_dtype: KvDtype
    chips: tuple[Text, ...] = ()
    source: Text

    def holds_for(self, model: Model) -> bool:
        """Whether a model has that attention and the rule counts on all chips that are left."""
        if self.chips:
            return False
        if self.attention == "compressed":
            return any(kind.compressed is not None for kind in model.kinds)
        return any(kind.mla is not None and kind == model.indexed for kind in model.kinds)


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A software profile; ``name`` carries the version, ``aliases`` maps its own flag names to
    ours, ``alias_values`` the values of a flag (in lower case) to ours.

    ``kv_dtype`` is that of the cache by the dtype of the weights, unless one is
    ``kv_dtype_given`` or ``kv_dtype_of`` has one for the attention of the model.
    ``max_model_len`` is the longest sequence that it takes, auto: the model's.
    ``draft_tokens`` are drafted a step and sequence by the model's own MTP layers, each accepted
    with chance ``draft_acceptance`` if all before it were. ``cuda_graph_sizes``: the batches that
    decode steps are captured for and filled up to; none: no filling. ``vendors``: whose chips the
    engine exists on (none: not said); ``constants_of``: the engine whose constants stand in for its
    own, if another's. ``all_reduce``: the library of the first entry that the chip has constants
    of sums over tensor-parallel ranks; ``experts``: the fastest of these moves tokens to experts.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    framework: Literal["trtllm", "vllm", "sglang"]
    version: Text
    vendors: tuple[Text, ...] = ()
    constants_of: str = ""
    scheduler: SchedulerName
    max_num_seqs: Running
    max_num_batched_tokens: StepTokens
    max_model_len: TokenCount | Literal["auto"] = "auto"
    small_devices: tuple[SmallDevice, ...] = ()
    kv_dtype: dict[Dtype, KvDtype]
    kv_dtype_given: KvDtype | None = None
    kv_dtype_of: tuple[CacheDefault, ...] = ()
    preemption: Literal["recompute", "swap"] = "recompute"
    prefix_cache: bool = True
    new_token_ratio: Annotated[float, Number(0.001, 1)] = 1.0
    draft_tokens: Annotated[int, Count(MOST_DRAFTS, 0)] = 0
    draft_acceptance: Chance = DRAFT_ACCEPTANCE
    cuda_graph_sizes: tuple[Running, ...] = ()
    memory: MemoryRule
    host: HostTime
    client: ClientTime = IN_PROCESS
    in_situ: InSitu
    all_reduce: tuple[AllReduceLibrary, ...]
    experts: tuple[ExpertLibrary, ...] = ("deepep_low_latency", "deepep_normal", "nccl", "hccl")
    aliases: dict[str, str]
    alias_values: dict[str, dict[str, Any]] = field(default_factory=dict)
    sources: dict[str, str]

    def __post_init__(self) -> None:
        sizes = self.cuda_graph_sizes
        if any(one >= other for one, other in pairwise(sizes)):
            raise ValueError(f"cuda_graph_sizes must rise (got {list(sizes)})")

    def cache_dtype(self, model: Model, weights: str) -> KvDtype:
        """The dtype of the cache for weights of a dtype: the given one, else the one that the
        checkpoint was calibrated for where they are its own, else by the engine's default for
        the attention of the model, or for the weights. ``on_device`` knows the defaults of chips.
        """
        if self.kv_dtype_given is not None:
            return self.kv_dtype_given
        if model.kv_dtype is not None and weights == model.native_dtype:
            return model.kv_dtype
        for rule in self.kv_dtype_of:
            if rule.holds_for(model):
                return rule.kv_dtype
        return self.kv_dtype.get(weights, "bf16")  # type: ignore[call-overload,no-any-return]

    def longest(self, model: Model) -> int:
        """The longest sequence, prompt and answer, that the engine takes of a model."""
        return model.max_context if self.max_model_len == "auto" else self.max_model_len

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a decoding sequence gets of a step in the mean.

        Model: 1 + a + ... + a^k for k drafts and acceptance a: the model's own token after the
        accepted drafts.
        """
        return sum((self.draft_acceptance**n for n in range(1, self.draft_tokens + 1)), 1.0)

    def stands_in(self, vendor: str) -> str | None:
        """Whose constants stand in for the engine's own on a vendor's chips; None where its own
        were measured.
        """
        if vendor in self.host.measured_on and not self.constants_of:
            return None
        fitted = " and ".join(self.host.measured_on)
        where = f", fitted on chips of {fitted}," if fitted else ""
        return (
            f"no constant of {self.title} was measured on chips of {vendor}: those of "
            f"{self.constants_of or self.title}{where} stand in (host time, memory rule, limits)"
        )

    def on_device(self, memory_bytes: float, chip: str = "") -> Software:
        """The profile with the limits that the framework chooses for a device of so much memory, or
        of a chip that it names: of the ``small_devices`` that it is, the smallest decides.
        """
        limits: dict[str, int] = {}
        for small in sorted(self.small_devices, key=lambda small: -small.below):
            if memory_bytes < small.below or chip in small.chips:
                for key in ("max_num_seqs", "max_num_batched_tokens"):
                    value = getattr(small, key)
                    if value is not None:
                        limits[key] = value
        defaults = tuple(
            replace(rule, chips=())
            for rule in self.kv_dtype_of
            if not rule.chips or chip in rule.chips
        )
        return replace(self, small_devices=(), kv_dtype_of=defaults, **limits)  # type: ignore[arg-type]
