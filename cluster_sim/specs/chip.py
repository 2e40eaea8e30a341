"""What a chip is (facts of its datasheet) and what its kernels reach (fitted curves)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.constraints import (
    MOST_DEVICES_PER_CHIP,
    Chance,
    Chips,
    Count,
    Factor,
    FactorOrZero,
    Fraction,
    OneOrMore,
    PositiveInt,
    Share,
    Text,
    TokenCount,
)
from cluster_sim.specs.fabric import Board
from cluster_sim.specs.topology import ScaleUp
from cluster_sim.units import (
    Bytes,
    BytesPerSecond,
    FlopPerSecond,
    Percent,
    Seconds,
    SecondsOrZero,
    Usd,
    UsdPerHour,
    Watts,
    WattsOrZero,
)

PeakDtype = Literal["bf16", "fp8", "int8", "fp6", "fp4"]
Dtype = Literal["bf16", "fp8", "fp8_block", "int8", "fp4", "mxfp4", "w8a16", "w4a16"]
KvDtype = Literal["bf16", "fp8", "int8"]
# extrapolated: used at ranks, sizes or with software that were not timed
Provenance = Literal["measured", "transferred", "extrapolated", "datasheet", "assumed"]
_RANK = {"measured": 0, "datasheet": 1, "transferred": 2, "extrapolated": 3, "assumed": 4}
Distance = Literal["architecture", "generation", "other"]  # of a curve from where it was fitted
Status = Literal["shipping", "announced", "roadmap", "rumoured"]
# Scales counted: nvfp4 one byte per 16 elements, mxfp4 one per 32, w4a16 two per 128.
# Of the driver's capacity, what a process sees: the median of the chips here that give both.
VISIBLE_SHARE = 0.994
BYTES_PER_ELEMENT: dict[str, float] = {
    "bf16": 2,
    "fp8": 1,
    "fp8_block": 1,
    "int8": 1,
    "fp4": 0.5625,
    "mxfp4": 0.53125,
    "w8a16": 1,
    "w4a16": 0.515625,
}
# The peak that a GEMM of a dtype runs against; weight-only dtypes multiply in bf16.
PEAK_OF: dict[str, PeakDtype] = {
    "bf16": "bf16",
    "fp8": "fp8",
    "fp8_block": "fp8",
    "int8": "int8",
    "fp4": "fp4",
    "mxfp4": "fp4",
    "w8a16": "bf16",
    "w4a16": "bf16",
}
BITS: dict[PeakDtype, int] = {"bf16": 16, "fp8": 8, "int8": 8, "fp6": 6, "fp4": 4}
_STRICT: dict[str, Any] = {"extra": "forbid"}


def weakest(provenances: Iterable[str]) -> str:
    """The least trustworthy of some provenances; ``assumed`` when there is none."""
    return max(provenances, key=lambda name: _RANK[name], default="assumed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Device memory: ``capacity`` as the driver's tool (nvidia-smi) reports it, not as marketed,
    what of it is ``visible`` to a process (torch's ``total_memory``), peak bandwidth, and the share
    of it that was measured at best (``ceiling``).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    capacity: Bytes
    visible: Bytes | None = None
    bandwidth: BytesPerSecond
    ceiling: Share | None = None

    def __post_init__(self) -> None:
        if self.visible is not None and self.visible > self.capacity:
            raise ValueError("visible is a part of capacity: it cannot be more")


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """What one chip costs: rent per hour, purchase, both optional, what each figure means, and when
    it was published (year, or year and month).
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    rent: UsdPerHour | None = None
    rent_basis: str = ""
    rent_date: str | None = None
    purchase: Usd | None = None
    purchase_basis: str = ""
    purchase_date: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """The machine that a chip usually comes in: ``chips`` of them, the power per chip of all the
    rest of it, and what is on its board.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    chips: Chips
    power: WattsOrZero | None = None
    board: Board | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Chip:
    """A chip as bought and counted. Peaks are dense; ``sources`` names where each group of facts
    was read, ``notes`` where published figures differ. Memory, peaks, links and powers are of the
    whole package; software sees ``devices_per_chip`` equal shares. What nobody published is left
    out: without a bf16 peak no run is possible, without a TDP power and energy stay empty.
    ``scale_up`` and ``host`` are what a topology of the chip has unless it says otherwise.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    vendor: Text
    year: PositiveInt
    architecture: Text
    status: Status = "shipping"
    process: str = ""
    dies: PositiveInt | None = None
    die_area_mm2: PositiveInt | None = None
    devices_per_chip: Annotated[int, Count(MOST_DEVICES_PER_CHIP)] = 1
    memory: Memory
    peak: dict[PeakDtype, FlopPerSecond] = field(default_factory=dict)
    scale_up: ScaleUp | None = None
    nic: BytesPerSecond | None = None
    host: Host | None = None
    tdp: Watts | None = None
    idle_power: Watts | None = None
    sm_count: PositiveInt | None = None
    price: Price = field(default_factory=Price)
    sources: dict[str, str]
    notes: tuple[Text, ...] = ()

    def __post_init__(self) -> None:
        if (self.tdp is None) != (self.idle_power is None):
            raise ValueError("tdp and idle_power come together: give both or neither")
        package = self.scale_up and self.scale_up.package_bandwidth
        if self.devices_per_chip > 1 and self.scale_up and not package:
            raise ValueError("a chip of several devices needs scale_up.package_bandwidth")

    @property
    def device_memory(self) -> float:
        """Bytes of memory that one device has, as the driver's tool reports it."""
        return self.memory.capacity / self.devices_per_chip

    @property
    def visible_memory(self) -> float:
        """Bytes of one device's memory that a process sees; where nobody printed them, the share
        that other chips show.
        """
        visible = self.memory.visible or VISIBLE_SHARE * self.memory.capacity
        return visible / self.devices_per_chip

    @property
    def device_bandwidth(self) -> float:
        """Bytes/s between one device and its memory."""
        return self.memory.bandwidth / self.devices_per_chip

    def device_peak(self, dtype: PeakDtype) -> float:
        """Dense FLOP/s of one device in a dtype."""
        return self.peak[dtype] / self.devices_per_chip

    def distance(self, other: Chip) -> Distance:
        """How far another chip is from this one, by vendor and the words of the architecture."""
        if self.vendor != other.vendor:
            return "other"
        ours, theirs = (re.findall(r"[A-Za-z]\w+", chip.architecture) for chip in (self, other))
        return "architecture" if set(ours) & set(theirs) else "generation"

    @property
    def incomplete(self) -> str:
        """What a run of the chip would lack, in words; empty if nothing."""
        peak = "no bf16 peak" if self.peak else "no peak"
        lacks = [] if "bf16" in self.peak else [peak]
        return ", ".join(lacks if self.scale_up else [*lacks, "no scale_up"])

    @property
    def tpp(self) -> float | None:
        """Total processing performance: the largest dense TOP/s x bits of the operands."""
        scores = [flop / 1e12 * BITS[dtype] for dtype, flop in self.peak.items()]
        return max(scores, default=None)

    @property
    def performance_density(self) -> float | None:
        """TPP per square millimetre of die; None without the area."""
        if self.tpp is None or self.die_area_mm2 is None:
            return None
        return self.tpp / self.die_area_mm2


@dataclass(frozen=True, slots=True, kw_only=True)
class FitError:
    """How far a curve is from timings of shapes that its fit did not see: median and 90th
    percentile of the absolute error over all ``points``, of when the timings are, and the framework
    whose kernels were timed.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    points: PositiveInt
    median: Percent
    p90: Percent
    date: str = ""
    framework: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Where a curve comes from that is another's, filled in when files are read: the curve that was
    fitted (``of``), how far from here it was, and its error if this curve does not carry it.

    ``distance``: a chip of the same architecture, of another generation of the same vendor, or
    ``other``: of another vendor, or a curve of another dtype.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    of: Text
    distance: Distance
    fit: FitError | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmCurve:
    """``floor + per_k k / 1000 + norm(FLOP / (peak compute), bytes / (bandwidth memory)) + quantise
    bytes / (bandwidth quantise)``.

    The norm is the larger of both, or of exponent ``knee`` where they overlap imperfectly;
    ``tiles`` is the share of the last, partly filled wave of 128 x 128 tiles that is waited for.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    per_k: SecondsOrZero = 0.0
    compute: Fraction
    memory: Fraction
    knee: OneOrMore | None = None
    tiles: Chance | None = None
    quantise: Factor | None = None
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCurve:
    """``floor + FLOP / (peak x compute) + weight bytes / (bandwidth x memory) + activation bytes /
    (bandwidth x activations)``: grouped expert GEMMs with the kernels around them that sort,
    quantise and sum up tokens.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    compute: Fraction
    memory: Fraction
    activations: Fraction
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentCurve:
    """``floor + query bytes / (bandwidth x queries) + max(FLOP / (bf16 peak x compute), cache bytes
    / (bandwidth x memory))``: decode attention over latents. ``queries`` is ``memory`` unless
    given.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    compute: Fraction
    memory: Fraction
    queries: Fraction | None = None
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillCurve:
    """``floor + causal FLOP / (bf16 peak x compute) x (1 + half_length / context)``."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    compute: Fraction
    half_length: TokenCount
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeCurve:
    """``floor + row x sequences x KV heads + bytes / (bandwidth x memory)``: decode attention."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    row: SecondsOrZero = 0.0
    memory: Fraction
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamCurve:
    """``floor + bytes / (bandwidth x memory)``: the small kernels between GEMMs."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds
    memory: Fraction
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
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
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingRate:
    """What long training steps reach of short kernel timings: ``sustained`` of the rate of products
    and attention (power and clocks over minutes), ``precision`` of it in dense products of a dtype,
    ``attention`` of it in attention kernels.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    sustained: Fraction
    precision: dict[str, Fraction] = field(default_factory=dict)
    attention: FactorOrZero = 1.0
    provenance: Provenance
    fit: FitError | None = None
    taken: Taken | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What replaces a fitted value inside engines, and where that was seen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floor: Seconds | None = None
    per_k: SecondsOrZero | None = None
    row: SecondsOrZero | None = None
    compute: Fraction | None = None
    memory: Fraction | None = None
    activations: Fraction | None = None
    quantise: Fraction | None = None
    queries: Fraction | None = None
    half_length: TokenCount | None = None
    provenance: Provenance | None = None
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class Overlap:
    """What is left of every kernel's floor where launches overlap, and where that was seen."""

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    floors: Fraction
    source: Text


@dataclass(frozen=True, slots=True, kw_only=True)
class InEngine:
    """What kernels show in engines and not when timed alone; a new fit does not touch it.

    ``every`` stands for all curves of the file in a section. Changes come first, the overlap of
    launches after them. The curves of ``Fits`` contain both.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    launch_overlap: Overlap | None = None
    gemm: dict[Dtype | Literal["every"], Change] = field(default_factory=dict)
    moe: dict[Dtype | Literal["every"], Change] = field(default_factory=dict)
    attention_prefill: dict[KvDtype | Literal["every"], Change] = field(default_factory=dict)
    attention_decode: dict[KvDtype | Literal["every"], Change] = field(default_factory=dict)
    mla_prefill: dict[KvDtype | Literal["every"], Change] = field(default_factory=dict)
    mla_decode: dict[KvDtype | Literal["every"], Change] = field(default_factory=dict)
    glue: Change | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fits:
    """Fitted curves of one chip: GEMM, expert GEMM and attention per dtype, glue kernels,
    power. A chip without timings of its own ``borrows`` all that it does not give
    itself from a relative: same shares of peak and floors, marked transferred, power scaled by TDP
    (none if a TDP is unknown). In files a curve may also be ``like`` another of its section.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    chip: str
    borrows: str = ""
    in_engine: InEngine | None = None
    gemm: dict[Dtype, GemmCurve]
    moe: dict[Dtype, ExpertCurve] = field(default_factory=dict)
    attention_prefill: dict[KvDtype, PrefillCurve]
    attention_decode: dict[KvDtype, DecodeCurve]
    mla_prefill: dict[KvDtype, PrefillCurve] = field(default_factory=dict)
    mla_decode: dict[KvDtype, LatentCurve] = field(default_factory=dict)
    glue: StreamCurve
    training: TrainingRate | None = None
    power: PowerCurve | None = None
