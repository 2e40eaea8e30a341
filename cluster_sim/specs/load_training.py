"""From names, files and options to a training job."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from typing import Any

from cluster_sim.errors import SpecError, meant
from cluster_sim.specs.build import Source, build
from cluster_sim.specs.inputs import TrainingInput
from cluster_sim.specs.load import apply_overrides, assign, load_spec, read, split_overrides
from cluster_sim.specs.load_model import load_model
from cluster_sim.specs.training import TrainingWorkload
from cluster_sim.specs.training_software import TrainingSoftware

KIND = "training"
DEGREES = ("tp", "pp", "vpp", "cp", "ep", "etp", "dp")
PLAN_FORM = "tp8-pp16-vpp8-dp128"


def load_training(
    name: str,
    overrides: Sequence[str] = (),
    replacements: Mapping[str, Any] | None = None,
    *,
    preset: str | None = None,
) -> TrainingInput:
    """A training workload by name or path, with model and software profile.

    ``preset`` is the name of one of its plans, or a plan in short such as ``tp8-pp16-dp128``.
    ``overrides`` are texts with the roots workload. and plan.; ``replacements`` maps dotted keys to
    values as a file would hold them. Raises SpecError for anything else.
    """
    record, data, lines = read("workload", name)
    source = Source(record.path, lines)
    if data.get("kind") != KIND:
        raise SpecError(f"{record.path}: is no training workload (kind: {KIND})")
    if preset is not None:
        _take(data, source, record.name, preset)
    for key, value in (replacements or {}).items():
        assign(data, key.split("."), value)
        source.options[key] = f"--{key.rsplit('.', 1)[-1].replace('_', '-')}"
    parts = split_overrides(overrides)
    if parts["engine"]:
        raise SpecError("--set engine: has no effect on training; see workload.software and plan")
    for root, inside in (("workload", ()), ("plan", ("plan",))):
        apply_overrides(data, parts, root, source, inside)
    workload = build(TrainingWorkload, data, source, record.name)
    with source.naming("model"):
        model_record, model = load_model(workload.model, workload.model_like)
    with source.naming("software"):
        software_record, software = load_spec("training", workload.software, TrainingSoftware)
    return TrainingInput(
        workload=workload,
        model=model,
        software=software,
        files=(record, model_record, software_record),
    )


def _take(data: dict[str, Any], source: Source, name: str, preset: str) -> None:
    """Put a named plan, or one in short, in place of the file's own; a preset may change keys of
    the workload too.
    """
    presets = data.get("presets") or {}
    if preset in presets:
        chosen = copy.deepcopy(presets[preset])
        if not isinstance(chosen, dict):
            raise SpecError(source.problem(("presets", preset), "must be a mapping"))
        if "presets" in chosen:
            raise SpecError(source.problem(("presets", preset, "presets"), "has no effect here"))
        data.update(chosen)
        source.move(("presets", preset), presets[preset])
        return
    degrees = _short(preset)
    if degrees is None:
        known = ", ".join(presets) or "none"
        hint = meant(preset, presets) or f"; {name} has {known}"
        raise SpecError(
            f"--plan {preset}: no preset of that name, and not a plan like {PLAN_FORM}{hint}"
        )
    plan = dict(data.get("plan") or {})
    for key in (*DEGREES, "layers", "placement"):
        plan.pop(key, None)
    data["plan"] = {**plan, **degrees}
    source.options["plan"] = "--plan"


def _short(text: str) -> dict[str, int] | None:
    """``tp8-pp16-dp128`` as degrees; None if it is none."""
    found: dict[str, int] = {}
    for part in text.lower().split("-"):
        match = re.fullmatch(r"([a-z]+)([1-9]\d{0,6})", part)
        if match is None or match[1] not in DEGREES or match[1] in found:
            return None
        found[match[1]] = int(match[2])
    return found
