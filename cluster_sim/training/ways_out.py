"""Where a training job cannot run on a machine: presets and precisions with which it does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from typing import get_args

from cluster_sim.errors import ClusterSimError, DoesNotFitError, SpecError
from cluster_sim.specs.inputs import TopologyInput, TrainingInput
from cluster_sim.specs.load_training import load_training
from cluster_sim.specs.training import TrainDtype
from cluster_sim.training.job import make_job
from cluster_sim.training.memory import memory_of
from cluster_sim.training.priced import price

OFFERED = 2


def with_ways_out(
    machine: TopologyInput, given: TrainingInput, error: SpecError | DoesNotFitError
) -> SpecError | DoesNotFitError:
    """The same refusal with the presets of the workload, and other precisions of the same plan,
    with which the job runs on the machine; unchanged where none does.
    """
    ways = []
    presets = list(islice(_presets(machine, given), OFFERED))
    if presets:
        names = " or ".join(presets)
        ways.append(f"{given.workload.name} runs here as its preset alone, --plan {names}")
    precisions = list(islice(_precisions(machine, given), OFFERED))
    if precisions:
        ways.append(f"this plan runs with --precision {' or '.join(precisions)}")
    text = str(error).rstrip(".")
    if not ways:
        return error
    kind = DoesNotFitError if isinstance(error, DoesNotFitError) else SpecError
    return kind(f"{text}. What works: {'; '.join(ways)}.")


def _runs(machine: TopologyInput, given: TrainingInput) -> bool:
    try:
        return memory_of(price(make_job(machine, given))).missing <= 0
    except (ClusterSimError, ValueError):
        return False


def _presets(machine: TopologyInput, given: TrainingInput) -> Iterator[str]:
    """Presets that run as they stand."""
    file = given.files[0]
    for preset in given.workload.presets:
        try:
            other = load_training(file.path if file.origin == "path" else file.name, preset=preset)
        except ClusterSimError:
            continue
        if other.workload != given.workload and _runs(machine, other):
            yield preset


def _precisions(machine: TopologyInput, given: TrainingInput) -> Iterator[str]:
    """Precisions of all parts with which the plan runs, those of the wanted width first."""
    wanted = given.workload.precision
    for dtype in sorted(get_args(TrainDtype), key=lambda one: abs(_bits(one) - _bits(wanted))):
        changed = replace(given.workload, precision=dtype, precisions={})
        if dtype != wanted and _runs(machine, replace(given, workload=changed)):
            yield dtype


def _bits(dtype: str) -> int:
    return 16 if "16" in dtype else 8 if "8" in dtype else 4
