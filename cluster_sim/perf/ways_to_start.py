"""The smallest change with which an engine that does not start does: flags, TP, precision.

Every way out was tried. Flags are changed before devices are added, devices before a checkpoint is
changed, one change before two; the length of sequences is cut last, to the longest that fits.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.layout import Layout, Recipe, check_layout, recipe
from cluster_sim.perf.memory import device_memory
from cluster_sim.perf.startup import FRACTION, LENGTH, why_not
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

FRACTIONS = (0.92, 0.95)  # of the memory that engines are given by hand; above, graphs lack room
SEQUENCES = {"vllm": "max_num_seqs", "sglang": "max_running_requests", "trtllm": "max_batch_size"}
TOKENS = {
    "vllm": "max_num_batched_tokens",
    "sglang": "chunked_prefill_size",
    "trtllm": "max_num_tokens",
}
OPTIONS = ("tp", "pp", "ep", "attn_dp", "precision")
LEAST_SEQUENCES, LEAST_TOKENS = 64, 2048  # smaller batches are not offered
LEAST_LENGTH = 4096  # tokens; a shorter limit is no way out
DEGREES = 2  # how many larger numbers of devices are tried


@dataclass(frozen=True, slots=True, kw_only=True)
class Setup:
    """What is started; ``changes`` lead to it: flags of the engine, degrees, the precision, each
    with its value.
    """

    software: Software
    layout: Layout
    recipe: Recipe
    changes: tuple[tuple[str, str], ...] = ()

    @property
    def words(self) -> str:
        """The changes for reading."""
        return ", ".join(f"{name} {value}" for name, value in self.changes)

    @property
    def options(self) -> str:
        """The changes as ``run`` takes them."""
        return " ".join(
            f"--{name.replace('_', '-')} {value}"
            if name in OPTIONS
            else f"--set engine.{name}={value}"
            for name, value in self.changes
        )


def smallest_change(
    chip: Chip,
    model: Model,
    setup: Setup,
    *,
    devices: int,
    precisions: Sequence[str] = (),
    length: int = LEAST_LENGTH,
) -> Setup | None:
    """The set-up with the fewest changes with which the engine starts, on at most so many devices,
    and takes sequences of a ``length``; None if nothing that was tried does.
    """
    flags, other = list(_flags(setup)), list(_others(chip, model, setup, devices, precisions))
    for tried in (
        [setup, *flags],
        [more for flag in flags for more in _flags(flag)],
        other,
        [more for one in other for more in _flags(one)],
    ):
        for one in tried:
            found = _started(chip, model, one, length)
            if found is not None and found.changes:
                return found
    return None


def _started(chip: Chip, model: Model, setup: Setup, length: int) -> Setup | None:
    """The set-up if it starts, or if it does once the longest sequence is cut to what fits."""
    software, parts = setup.software, (setup.layout, setup.recipe)
    try:
        check_layout(model, setup.layout)
    except DoesNotFitError:
        return None
    memory = device_memory(chip, model, software, *parts)
    if not why_not(chip, model, software, *parts, memory):
        return setup
    longest = min(memory.longest, model.max_context)
    if longest < length:
        return None
    shorter = replace(software, max_model_len=longest)
    if why_not(chip, model, shorter, *parts, memory):
        return None
    change = (LENGTH[software.framework], str(longest))
    return replace(setup, software=shorter, changes=(*setup.changes, change))


def _flags(setup: Setup) -> Iterator[Setup]:
    """One flag changed: a larger share of the memory, a smaller batch, a cache in fp8."""
    software = setup.software
    named, rule = software.framework, software.memory
    for fraction in FRACTIONS:
        if rule.fraction is None or fraction > rule.fraction:
            wider = replace(software, memory=replace(rule, fraction=fraction))
            yield _changed(setup, (FRACTION[named], f"{fraction:g}"), software=wider)
    for key, words, least in (
        ("max_num_seqs", SEQUENCES[named], LEAST_SEQUENCES),
        ("max_num_batched_tokens", TOKENS[named], LEAST_TOKENS),
    ):
        size = getattr(software, key) // 2
        while size >= least:
            smaller = replace(software, **{key: size})
            yield _changed(setup, (words, str(size)), software=smaller)
            size //= 2
    if setup.recipe.kv == "bf16":
        narrow = replace(setup.recipe, kv="fp8")
        yield _changed(setup, ("kv_cache_dtype", "fp8"), recipe=narrow)


def _others(
    chip: Chip, model: Model, setup: Setup, devices: int, precisions: Sequence[str]
) -> Iterator[Setup]:
    """Whole experts on each device, more devices, another TP (of a model that this one cuts where
    it cannot be cut), then a narrower precision.
    """
    layout = setup.layout
    if model.moe is not None and layout.ep < layout.stage_devices:
        spread = replace(layout, ep=layout.stage_devices)
        yield _changed(setup, ("ep", str(spread.ep)), layout=spread)
    for factor in (2**n for n in range(1, DEGREES + 1)):
        grown = "attn_dp" if layout.attn_dp > 1 else "tp"
        ep = layout.ep * factor if layout.ep > 1 else 1
        wider = replace(layout, ep=ep, **{grown: getattr(layout, grown) * factor})
        if wider.devices <= devices:
            grew = (name for name in OPTIONS[:4] if getattr(wider, name) != getattr(layout, name))
            yield _changed(setup, *((n, str(getattr(wider, n))) for n in grew), layout=wider)
    if layout.attn_dp == 1 and layout.ep == 1:
        for tp in _near(layout.tp, devices // layout.pp):
            yield _changed(setup, ("tp", str(tp)), layout=replace(layout, tp=tp))
    for name in precisions:
        dtype = setup.software.cache_dtype(model, name)
        other = recipe(chip, model, name, dtype)
        yield _changed(setup, ("precision", name), recipe=other)


def _near(tp: int, most: int) -> list[int]:
    """The other powers of two up to so many devices, the nearest first, of equals the larger."""
    powers = (2**n for n in range(most.bit_length()))
    return sorted((p for p in powers if p != tp), key=lambda p: (max(p / tp, tp / p), -p))


def _changed(
    setup: Setup,
    *changes: tuple[str, str],
    software: Software | None = None,
    layout: Layout | None = None,
    recipe: Recipe | None = None,
) -> Setup:
    return Setup(
        software=software or setup.software,
        layout=layout or setup.layout,
        recipe=recipe or setup.recipe,
        changes=(*setup.changes, *changes),
    )
