"""Does a model fit: weights, cache and whether the engine starts, over TP and precisions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels.layout import Layout, check_layout, recipe
from cluster_sim.perf.memory import GIB, DeviceMemory, device_memory
from cluster_sim.perf.startup import why_not
from cluster_sim.perf.ways_to_start import Setup, smallest_change
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, PEAK_OF, Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

NARROWER = (("fp8", "int8"), ("fp4",), ("w4a16",))  # asked besides a model's own; one of each


@dataclass(frozen=True, slots=True, kw_only=True)
class FitRow:
    """One plan on one kind of device: GiB of a device, tokens and sequences of a replica.

    ``cache_low_gib`` and ``cache_high_gib`` are the band of the cache, in which four of five
    start-up logs that no constant was fitted to lie. ``sure`` is false where the band leaves open
    whether the engine starts; ``reason`` is the engine's, ``change`` what would help.
    """

    software: str
    chip: str
    model: str
    precision: str
    kv_dtype: str
    layout: str
    devices: int
    max_model_len: int
    weights_gib: float
    taken_gib: float
    cache_gib: float
    cache_low_gib: float
    cache_high_gib: float
    kv_tokens: int
    sequence_tokens: int
    sequences: int
    starts: bool
    sure: bool
    reason: str
    change: str


def precisions_of(chip: Chip, model: Model) -> list[str]:
    """A model's own dtype, and the narrower ones that the chip multiplies in."""
    native = model.native_dtype
    found: list[str] = [native]
    for alike in NARROWER:
        has = [name for name in alike if PEAK_OF[name] in chip.peak]
        found += [name for name in has[:1] if _bits(name) < _bits(native)]
    return found


def _bits(dtype: str) -> int:
    """Bits of an element without its share of the scales: fp4, mxfp4 and w4a16 all have 4."""
    return int(8 * BYTES_PER_ELEMENT[dtype])


def layouts_of(model: Model, devices: int) -> list[Layout]:
    """TP of powers of two on up to so many devices; of a model with experts also attention groups
    of one device each, with the experts spread over all.
    """
    sizes = [size for size in (2**n for n in range(devices.bit_length())) if size <= devices]
    found = [Layout(tp=size) for size in sizes]
    if model.moe is not None:
        found += [Layout(ep=size, attn_dp=size) for size in sizes if size > 1]
    return [layout for layout in found if not _uneven(model, layout)]


def _uneven(model: Model, layout: Layout) -> str:
    """Why a model cannot be cut this way; empty if it can."""
    try:
        check_layout(model, layout)
    except DoesNotFitError as error:
        return str(error)
    return ""


def memory_grid(
    chip: Chip,
    model: Model,
    engines: Sequence[Software],
    *,
    devices: int,
    precisions: Sequence[str],
    layouts: Sequence[Layout],
    length: int,
) -> list[FitRow]:
    """A row for every engine, precision and layout; raises SpecError where there is none."""
    if not layouts:
        raise SpecError(f"no TP from 1 to {devices} divides {model.name}; name one with --tp")
    ordered = sorted(precisions, key=lambda name: -BYTES_PER_ELEMENT[name])
    return [
        _row(chip, model, software, layout, name, ordered, devices=devices, length=length)
        for software in engines
        for name in precisions
        for layout in layouts
    ]


def _row(
    chip: Chip,
    model: Model,
    software: Software,
    layout: Layout,
    name: str,
    precisions: Sequence[str],
    *,
    devices: int,
    length: int,
) -> FitRow:
    dtypes = recipe(chip, model, name, software.cache_dtype(model, name))
    memory = device_memory(chip, model, software, layout, dtypes)
    parts = (chip, model, software, layout, dtypes)
    uneven = _uneven(model, layout)
    reason, change = uneven or why_not(*parts, memory), ""
    slack = software.memory.overhead.error
    if reason:
        narrower = [
            other for other in precisions if BYTES_PER_ELEMENT[other] < BYTES_PER_ELEMENT[name]
        ]
        setup = Setup(software=software, layout=layout, recipe=dtypes)
        found = smallest_change(
            chip, model, setup, devices=devices, precisions=narrower, length=length
        )
        change = found.words if found else ""
    at_ends = {bool(why_not(*parts, memory.shifted(by))) for by in (-slack, slack)}
    return FitRow(
        software=software.name,
        chip=chip.name,
        model=model.name,
        precision=name,
        kv_dtype=dtypes.kv,
        layout=str(layout),
        devices=layout.devices,
        max_model_len=software.longest(model),
        weights_gib=memory.weights / GIB,
        taken_gib=memory.counted / GIB,
        cache_gib=memory.room / GIB,
        cache_low_gib=(memory.room - slack) / GIB,
        cache_high_gib=(memory.room + slack) / GIB,
        kv_tokens=memory.tokens * layout.ranks,
        sequence_tokens=length,
        sequences=_sequences(memory, length) * layout.ranks,
        starts=not reason,
        sure=len(at_ends) == 1 or bool(uneven),
        reason=reason,
        change=change,
    )


def _sequences(memory: DeviceMemory, length: int) -> int:
    """Sequences of a length that the cache of a rank holds."""
    each = memory.state_blocks + -(-length // memory.block_tokens)
    return memory.blocks // each
