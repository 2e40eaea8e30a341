"""Cases measured one after another, as rows of their files."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Sequence

from cluster_sim import __version__
from cluster_sim.studies.measure_cases import OpCase, StepCase, op_row, step_row
from cluster_sim.studies.measure_decoder import measure_steps
from cluster_sim.studies.measure_operators import measure_op
from cluster_sim.studies.measure_torch import Device, first_line, recover

SOURCE = f"cluster-sim measure {__version__}"
# What a case is, its row, or without one the reason.
Done = tuple[str, dict[str, object] | None, str]


def run_ops(device: Device, chip: str) -> Callable[[Sequence[OpCase]], Iterator[Done]]:
    """A function that measures operators on a device, filed under a chip."""

    def run(cases: Sequence[OpCase]) -> Iterator[Done]:
        for case in cases:
            try:
                row = op_row(chip, case, measure_op(device, case), SOURCE, _today())
            except RuntimeError as error:
                recover(device, error)
                yield str(case), None, first_line(error)
            else:
                yield str(case), row, ""

    return run


def run_steps(device: Device, chip: str) -> Callable[[Sequence[StepCase]], Iterator[Done]]:
    """The same for steps."""

    def run(cases: Sequence[StepCase]) -> Iterator[Done]:
        for step in measure_steps(device, cases):
            if step.figure is None:
                yield str(step.case), None, step.reason
            else:
                row = step_row(chip, step.case, step.kernels, step.figure, SOURCE, _today())
                yield str(step.case), row, ""

    return run


def _today() -> str:
    return datetime.datetime.now(datetime.UTC).date().isoformat()
