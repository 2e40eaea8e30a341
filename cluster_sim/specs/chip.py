"""What a chip is (facts of its datasheet) and what its kernels reach (fitted curves)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.constraints import Fraction, PositiveInt, Text
from cluster_sim.units import (
    Bytes,
    BytesPerSecond,
    FlopPerSecond,
    Seconds,
    SecondsOrZero,
    Usd,
    UsdPerHour,
    Watts,
)

Dtype = Literal["bf16", "fp8", "int8"]
Provenance = Literal["measured", "transferred", "datasheet", "assumed"]
BYTES_PER_ELEMENT: dict[str, int] = {"bf16": 2, "fp8": 1, "int8": 1}
_STRICT: dict[str, Any] = {"extra": "forbid"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Device memory: capacity as software reports it (not as marketed) and peak bandwidth."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    capacity: Bytes
    bandwidth: BytesPerSecond


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one chip costs: rent per hour, purchase, both optional; ``power_all_in`` is utility
    power per chip.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    rent: UsdPerHour | None = None
    rent_basis: str = ""
    purchase: Usd | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A chip as bought and counted. Peaks are dense; ``sources`` names where each group of facts
    was read.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    vendor: Text
    year: PositiveInt
    architecture: Text
    devices_per_chip: PositiveInt = 1
    memory: Memory
    peak: dict[Dtype, FlopPerSecond]
    tdp: Watts
    idle_power: Watts
    sm_count: PositiveInt
    price: Price = field(default_factory=Price)
    sources: dict[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmCurve:
    """``floor + max(FLOP / (peak compute), bytes / (bandwidth memory)) + quantise bytes /
    (bandwidth quantise)``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    compute: Fraction
    memory: Fraction
    quantise: Annotated[float, "share of bandwidth"] | None = None
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCurve:
    """``floor + causal FLOP / (bf16 peak x compute) x (1 + half_length / context)``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    compute: Fraction
    half_length: PositiveInt
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCurve:
    """``floor + bytes / (bandwidth x memory)``: decode attention, and the small kernels between
    GEMMs.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    memory: Fraction
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveCurve:
    """``latency + latency_per_peer x (n - 2) + bytes on the busiest link / (link bandwidth x
    efficiency)``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    latency: Seconds
    latency_per_peer: SecondsOrZero
    efficiency: Fraction
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerCurve:
    """Chip power while an operator family runs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    gemm_compute_bound: Watts
    gemm_memory_bound: Watts
    attention_prefill: Watts
    attention_decode: Watts
    communication: Watts
    host: Watts
    provenance: Provenance
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """Fitted curves of one chip: GEMM and attention per dtype, glue kernels, all-reduce per
    algorithm, power.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    chip: str
    gemm: dict[Dtype, GemmCurve]
    attention_prefill: dict[Dtype, PrefillCurve]
    attention_decode: dict[Dtype, StreamCurve]
    glue: StreamCurve
    all_reduce: dict[Literal["one_shot", "ring", "in_switch"], CollectiveCurve]
    power: PowerCurve
