"""What an inference engine does apart from kernels: scheduler, memory rule, host time, limits under
its own names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from annotated_types import Gt, Le

from cluster_sim.specs.chip import Dtype, KvDtype
from cluster_sim.specs.constraints import PositiveInt, Text
from cluster_sim.units import BytesOrZero, BytesPerSecond, SecondsOrZero

SchedulerName = Literal["vllm_v1", "trtllm_no_evict", "trtllm_max_utilization", "sglang", "static"]
RouterName = Literal["round_robin", "least_outstanding", "power_of_two"]
Utilisation = Annotated[float, Gt(0), Le(1)]
_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryRule:
    """How much memory becomes KV blocks.

    ``of_total``: fraction x total - weights - reserve. ``of_free``: fraction x (total - weights -
    reserve). The reserve is ``overhead`` bytes + ``activation_bytes_per_token_hidden`` x max tokens
    per step x hidden / TP. ``host_link`` is what one device moves to and from the host.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    rule: Literal["of_total", "of_free"]
    fraction: Utilisation
    overhead: BytesOrZero
    activation_bytes_per_token_hidden: Annotated[float, Gt(0)]
    block_tokens: PositiveInt
    host_link: BytesPerSecond
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class HostTime:
    """CPU time that delays the next step: per step and per running sequence."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    per_step: SecondsOrZero
    per_sequence: SecondsOrZero
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class InSitu:
    """What kernels cost inside the engine over their bench timing."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    attention_floor_factor: Annotated[float, Gt(0)]
    all_reduce_factor: Annotated[float, Gt(0)]
    all_reduce_skew: SecondsOrZero
    glue_kernels_per_layer: PositiveInt
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Software:
    """A software profile; ``name`` carries the version, ``engine_args`` maps its own flag names to
    ours.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    framework: Literal["trtllm", "vllm", "sglang"]
    version: Text
    scheduler: SchedulerName
    max_num_seqs: PositiveInt
    max_num_batched_tokens: PositiveInt
    kv_dtype: dict[Dtype, KvDtype]
    preemption: Literal["recompute", "swap"] = "recompute"
    prefix_cache: bool = True
    new_token_ratio: Annotated[float, Gt(0), Le(1)] = 1.0
    memory: MemoryRule
    host: HostTime
    in_situ: InSitu
    all_reduce: tuple[Literal["one_shot", "ring", "in_switch"], ...]
    aliases: dict[str, str]
    sources: dict[str, str]
