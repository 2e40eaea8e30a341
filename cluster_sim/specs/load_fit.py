"""What ``fit`` reads: a chip, a model, and engines with settings; no topology and no workload."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.specs.build import Source, build
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.effects import refuse_idle_facts
from cluster_sim.specs.engine_settings import apply_settings
from cluster_sim.specs.engines import AUTO, engine_for, exists, refuse
from cluster_sim.specs.find import FileRecord
from cluster_sim.specs.load import (
    apply_overrides,
    change_chip,
    load_spec,
    read,
    split_overrides,
)
from cluster_sim.specs.load_model import load_model
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software

_ROOTS = ("chip", "engine")


@dataclass(frozen=True, slots=True, kw_only=True)
class FitInput:
    """A chip, a model, and the engines that are asked, with the limits that they choose there."""

    chip: Chip
    model: Model
    engines: tuple[Software, ...]
    files: tuple[FileRecord, ...]


def load_fit(
    model: str,
    chip: str,
    software: Sequence[str] = (),
    overrides: Sequence[str] = (),
    settings: Mapping[str, Any] | None = None,
    *,
    like: str | None = None,
) -> FitInput:
    """A model and a chip by name or path, with the engines of the names, or with the one that a run
    on the chip takes.

    ``overrides`` are texts with the roots chip. and engine., ``settings`` flags of all engines.
    Raises SpecError for other roots and for an engine that does not exist on the chip.
    """
    parts = split_overrides(overrides)
    for root, changes in parts.items():
        if changes and root not in _ROOTS:
            key = f"{root}.{'.'.join(changes[0][0])}"
            raise SpecError(f"--set {key}: has no effect on fit, which reads chip. and engine.")
    record, facts, lines = read("chip", chip)
    source = Source(record.path, lines)
    refuse_idle_facts([keys for keys, _ in parts["chip"]])
    change_chip(facts, parts, source)
    found = build(Chip, facts, source, record.name)
    wanted: dict[str, Any] = {}
    apply_overrides(wanted, parts, "engine", source)
    engines = [_engine(name, found, wanted, settings or {}) for name in software or (AUTO,)]
    model_record, known = load_model(model, like)
    return FitInput(
        chip=found,
        model=known,
        engines=tuple({engine.name: engine for _, engine in engines}.values()),
        files=(record, model_record, *(profile for profile, _ in engines)),
    )


def _engine(
    name: str, chip: Chip, wanted: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[FileRecord, Software]:
    """The file of an engine, and it with what ``--set`` wants and with ``settings``; SpecError
    where both say the same key.
    """
    profile = engine_for(name, chip.vendor)
    record, base = load_spec("software", profile, Software)
    if not exists(base.vendors, chip.vendor):
        raise refuse(base.name, chip.vendor)
    for flag in wanted:
        ours = base.aliases.get(flag.replace("-", "_"), flag.replace("-", "_"))
        if ours in settings:
            option = f"--{ours.replace('_', '-')}"
            raise SpecError(f"--set engine.{flag}: {option} says it already; leave one of them out")
    software = apply_settings(base, read("software", profile)[1], {**settings, **wanted})
    return record, software.on_device(chip.device_memory, chip.name)
