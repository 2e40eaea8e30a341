"""Measured steps beside what the curves of a chip predict for them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from cluster_sim.errors import SpecError, UnknownNameError
from cluster_sim.kernels.layout import Layout, missing, recipe
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.specs.chip import BYTES_PER_ELEMENT, KvDtype, weakest
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.specs.load import load_spec, load_topology
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import HostTime, InSitu, Software
from cluster_sim.studies.measure_cases import CPU, PHASES, StepCase, shortened
from cluster_sim.text_file import csv_table

_COUNTS = ("layers", "batch", "seq_len", "glue_kernels_per_layer")
_NEEDED = ("chip", "model", "dtype", "kv_dtype", "phase", "metric", "value", *_COUNTS)
_USED = ("gemm_math", "gemm_weights", "attention_prefill", "attention_decode", "glue")


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredStep:
    """A row of a file of steps: case, chip, kernels of a layer beside products and attention, and
    the time.
    """

    case: StepCase
    chip: str
    kernels: int
    measured_s: float
    where: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """A measured step, the chip whose curves priced it, what they predict, and their weakest
    provenance.
    """

    step: MeasuredStep
    chip: str
    predicted_s: float
    provenance: str

    @property
    def error(self) -> float:
        """Predicted over measured, less one."""
        return self.predicted_s / self.step.measured_s - 1


def parse_steps(text: str, shown: str) -> list[MeasuredStep]:
    """The rows of a file of measured steps; raises SpecError with every problem."""
    header, rows = csv_table(text, shown)
    lacking = [name for name in _NEEDED if name not in header]
    if lacking:
        raise SpecError(
            f"{shown}: not a file of measured steps (no column {', '.join(lacking)}); "
            "'cluster-sim measure --steps' writes one"
        )
    problems: list[str] = []
    found: list[MeasuredStep] = []
    for line, row in rows:
        where = f"{shown}:{line}"
        try:
            found.append(_step(row, where))
        except ValueError as error:
            problems.append(f"{where}: {error}")
    if problems:
        raise SpecError(shortened(problems))
    if not found:
        raise SpecError(f"{shown}: holds no step")
    return found


def _step(row: Mapping[str, str | None], where: str) -> MeasuredStep:
    cells = {name: (row[name] or "").strip() for name in _NEEDED}
    if cells["metric"] != "step_us":
        raise ValueError(f"metric: must be step_us (got '{cells['metric']}')")
    if cells["phase"] not in PHASES:
        raise ValueError(f"phase: must be decode or prefill (got '{cells['phase']}')")
    for name, known in (("dtype", tuple(BYTES_PER_ELEMENT)), ("kv_dtype", get_args(KvDtype))):
        if cells[name] not in known:
            raise ValueError(f"{name}: must be one of {', '.join(known)} (got '{cells[name]}')")
    counts: dict[str, int] = {}
    for name in _COUNTS:
        if not cells[name].isdecimal() or int(cells[name]) < 1:
            text = f"{name}: must be a whole number of at least 1 (got '{cells[name]}')"
            raise ValueError(text)
        counts[name] = int(cells[name])
    try:
        value = float(cells["value"])
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise ValueError(f"value: must be a number > 0 (got '{cells['value']}')")
    case = StepCase(
        model=cells["model"],
        layers=counts["layers"],
        dtype=cells["dtype"],
        kv_dtype=cells["kv_dtype"],
        phase=cells["phase"],
        batch=counts["batch"],
        seq_len=counts["seq_len"],
    )
    kernels = counts["glue_kernels_per_layer"]
    return MeasuredStep(
        case=case, chip=cells["chip"], kernels=kernels, measured_s=value / 1e6, where=where
    )


def compare_steps(steps: Sequence[MeasuredStep], chip: str | None = None) -> list[Compared]:
    """Every step with the time that the curves of its chip (or of a given one) predict.

    Model: ``StepPrice.step_s`` on one device without host time, with as many kernels between the
    products as the measured code launches, and kernels at their bench time. Raises SpecError or
    UnknownNameError for what cannot be priced.
    """
    machines: dict[str, TopologyInput] = {}
    prices: dict[tuple[object, ...], StepPrice] = {}
    most = _limits(steps)
    found = []
    for step in steps:
        name, case = chip or step.chip, step.case
        try:
            if name not in machines:
                machines[name] = _machine(name)
            key = (name, case.model, case.layers, case.dtype, case.kv_dtype, step.kernels)
            if key not in prices:
                prices[key] = _price(machines[name], step, most)
        except (SpecError, UnknownNameError) as error:
            raise SpecError(f"{step.where}: {error}") from None
        price = prices[key]
        used = [family.provenance for family in price.families if family.name in _USED]
        found.append(
            Compared(
                step=step,
                chip=machines[name].chip.name,
                predicted_s=predicted_s(price, case),
                provenance=weakest(used),
            )
        )
    return found


def predicted_s(price: StepPrice, case: StepCase) -> float:
    """Seconds of a step; prompts begin with nothing cached."""
    if case.phase == "decode":
        return price.step_s(case.batch, case.batch * case.seq_len, 0, 0, 0, 0.0)
    prompts_s = case.batch * price.prefill_attention_s(0, case.seq_len)
    return price.step_s(0, 0, 0, case.batch * case.seq_len, case.batch, prompts_s)


def _limits(steps: Sequence[MeasuredStep]) -> tuple[int, int]:
    """The most sequences and prompt tokens of a step."""
    cases = [step.case for step in steps]
    prompts = [case.batch * case.seq_len for case in cases if case.phase == "prefill"]
    return max(case.batch for case in cases), max([1, *prompts])


def _machine(chip: str) -> TopologyInput:
    if chip == CPU:
        raise SpecError(
            "chip: there are no curves of a CPU; price it as another chip with --chip NAME"
        )
    return load_topology(f"1 x {chip}")


def _price(machine: TopologyInput, step: MeasuredStep, most: tuple[int, int]) -> StepPrice:
    case = step.case
    _, whole = load_spec("model", case.model, Model)
    if whole.moe or whole.mla or whole.local or whole.linear or not whole.alike:
        raise SpecError(f"model: {case.model} is not dense; such steps cannot be compared")
    model = replace(whole, layers=case.layers)
    wanted = recipe(machine.chip, model, case.dtype, case.kv_dtype)
    lacking = missing(machine.chip, machine.fits, model, wanted)
    if lacking:
        raise SpecError(f"dtype: {machine.chip.name} has no {lacking}")
    return compile_step_price(machine, model, _bare(step.kernels, most), Layout(), wanted)


def _bare(kernels: int, most: tuple[int, int]) -> Software:
    """Software that only launches kernels: a packaged profile (whose scheduler and memory no single
    step needs) without host time and without what an engine adds to kernels.
    """
    _, profile = load_spec("software", "vllm", Software)
    source = "plain torch in a CUDA graph: kernels counted, no host, bench times"
    return replace(
        profile,
        max_num_seqs=most[0],
        max_num_batched_tokens=most[1],
        host=HostTime(per_step=0.0, per_sequence=0.0, source=source),
        in_situ=InSitu(
            attention_floor_factor=1.0,
            all_reduce_factor=1.0,
            all_reduce_skew=0.0,
            glue_kernels_per_layer=kernels,
            source=source,
        ),
    )
