"""``cluster-sim measure``."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.params import Amount, FilePath, Whole
from cluster_sim.interrupts import EXIT_INTERRUPTED
from cluster_sim.specs.constraints import MOST_LAYERS

if TYPE_CHECKING:
    from cluster_sim.studies.measure_torch import Device

OUT = {"ops": "measured_ops.csv", "steps": "measured_steps.csv"}
# A case that is finished: what it is, its row, or why there is none.
Done = tuple[str, dict[str, object] | None, str]


@click.command()
@click.option("--chip", metavar="NAME", help="What the device is; else known by its name.")
@click.option("--device", type=click.Choice(["auto", "cuda", "cpu"]), default="auto")
@click.option("--ops", metavar="LIST", help="Operators: gemm,attention_decode ... (all).")
@click.option("--dtypes", metavar="LIST", help="bf16,fp8,int8 (all).")
@click.option("--quick", is_flag=True, help="A small grid of shapes or steps.")
@click.option("--shapes", type=FilePath(path_type=Path), help="A CSV of shapes instead.")
@click.option("--steps", is_flag=True, help="Whole steps of a decoder instead of operators.")
@click.option("--model", "models", multiple=True, metavar="NAME", help="Whose steps.")
@click.option("--layers", type=Whole(MOST_LAYERS), help="Steps of so many layers.")
@click.option("--seconds", type=Amount(0.001, 1e9), help="Stop after these.")
@click.option("--out", type=FilePath(path_type=Path), help="CSV to which rows are added.")
@click.option("--compare", type=FilePath(path_type=Path), help="Predict the steps of a file.")
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def measure(**options: Any) -> None:
    """Time operators, or whole steps, on the GPU at hand, for 'calibrate' and for comparison."""
    _check(options)
    if options["compare"]:
        _compare(options)
        return
    kind = "steps" if options["steps"] else "ops"
    out = options["out"] or Path(OUT[kind])
    counts = _measure_steps(options, out) if options["steps"] else _measure_ops(options, out)
    click.echo(f"{counts['measured']} measured, {counts['before']} there before: {out}")
    if counts["skipped"]:
        click.echo(f"{counts['skipped']} cannot be measured here, see stderr")
    if counts["left"]:
        click.echo(f"{counts['left']} left: the same command goes on")
    if counts["interrupted"]:
        raise SystemExit(EXIT_INTERRUPTED)


def _check(options: dict[str, Any]) -> None:
    """Options that exclude each other or would have no effect."""
    given = {name for name, value in options.items() if value not in (None, False, ())}
    if options["device"] == "auto":
        given.discard("device")
    names = {"models": "--model"}
    if options["compare"]:
        allowed, because = {"compare", "chip", "debug"}, "with --compare"
    elif options["steps"]:
        allowed, because = given - {"ops", "shapes"}, "with --steps"
    else:
        allowed, because = given - {"models", "layers"}, "without --steps"
    for name in options:
        if name in given - allowed:
            raise click.UsageError(f"{names.get(name, '--' + name)} has no effect {because}")
    if options["quick"] and options["shapes"]:
        raise click.UsageError("--quick and --shapes exclude each other")


def _measure_ops(options: dict[str, Any], out: Path) -> dict[str, int]:
    from cluster_sim.studies import measure_cases as cases
    from cluster_sim.text_file import read_text

    ops = cases.parse_names("--ops", options["ops"], list(cases.SHAPES))
    dtypes = cases.parse_names("--dtypes", options["dtypes"], cases.DTYPES)
    wanted = None
    if options["shapes"]:
        chosen = (ops if options["ops"] else None, dtypes if options["dtypes"] else None)
        shown = str(options["shapes"])
        wanted = cases.parse_shapes(read_text(options["shapes"]), shown, *chosen)
    device, chip = _open(options)

    from cluster_sim.studies.measure_grid import cpu_grid, grid, with_peaks
    from cluster_sim.studies.measure_run import run_ops

    if device.kind != "cpu":
        # A figure in a dtype without a peak could not be fitted to anything.
        dtypes, absent = with_peaks(chip, dtypes)
        if absent:
            click.echo(f"Left out: {chip} has no peak in {', '.join(absent)}", err=True)
    if wanted is not None:
        wanted = [case for case in wanted if case.dtype in dtypes]
    if wanted is None and device.kind == "cpu":
        wanted = cpu_grid(ops, dtypes)
    elif wanted is None:
        wanted = grid(ops, dtypes, quick=options["quick"])
    if not wanted:
        raise click.UsageError(f"no case of {', '.join(ops)} in {', '.join(dtypes)}")
    ordered = cases.in_hash_order(chip, wanted)
    return _run(options, out, cases.OP_COLUMNS, chip, ordered, run_ops(device, chip))


def _measure_steps(options: dict[str, Any], out: Path) -> dict[str, int]:
    from cluster_sim.studies import measure_cases as cases
    from cluster_sim.studies.measure_decoder import DTYPES, step_model
    from cluster_sim.studies.measure_grid import STEP_MODELS, step_grid
    from cluster_sim.studies.measure_run import run_steps

    dtypes = cases.parse_names("--dtypes", options["dtypes"], DTYPES)
    models = []
    for name, slice_ in [(name, None) for name in options["models"]] or STEP_MODELS:
        layers, whole = options["layers"] or slice_, step_model(name).layers
        if layers is not None and layers > whole:
            raise click.UsageError(f"--layers {layers}: {name} has {whole}")
        models.append((name, layers or whole))
    device, chip = _open(options)
    cpu = device.kind == "cpu"
    if cpu and not options["models"]:
        raise click.UsageError("on the CPU name a tiny model with --model; the others take hours")
    wanted = step_grid(models, dtypes, quick=options["quick"], cpu=cpu)
    return _run(options, out, cases.STEP_COLUMNS, chip, wanted, run_steps(device, chip))


def _open(options: dict[str, Any]) -> tuple[Device, str]:
    """The device and the chip that it is."""
    from cluster_sim.studies.measure_cases import chip_id
    from cluster_sim.studies.measure_torch import open_device

    device = open_device(options["device"])
    return device, chip_id(options["chip"], device.name if device.kind == "cuda" else None)


def _run(
    options: dict[str, Any],
    out: Path,
    columns: tuple[str, ...],
    chip: str,
    wanted: list[Any],
    measured: Any,
) -> dict[str, int]:
    """Measure what the file does not have yet, until the budget is spent or somebody interrupts."""
    from cluster_sim.output.measured import appending, finished
    from cluster_sim.studies.measure_cases import case_id

    had = finished(out, columns)
    todo = [case for case in wanted if case_id(chip, case) not in had]
    counts = dict.fromkeys(("measured", "skipped", "interrupted"), 0)
    counts |= {"before": len(wanted) - len(todo), "left": len(todo)}
    begun = time.perf_counter()
    done: Iterator[Done] = measured(todo)
    with appending(out, columns) as add:
        try:
            while counts["left"]:
                if options["seconds"] and time.perf_counter() - begun > options["seconds"]:
                    break
                name, row, reason = next(done)
                counts["left"] -= 1
                if row is not None:
                    add(row)
                counts["measured" if row is not None else "skipped"] += 1
                place = f"{len(todo) - counts['left']}/{len(todo)} {name}: "
                if row is None or not options["quiet"]:
                    click.echo(place + (reason if row is None else f"{row['value']} us"), err=True)
        except KeyboardInterrupt:
            counts["interrupted"] = 1
            click.echo("Interrupted: what was measured is kept.", err=True)
    return counts


def _compare(options: dict[str, Any]) -> None:
    from cluster_sim.output.measured import compared_text
    from cluster_sim.studies.measure_compare import compare_steps, parse_steps
    from cluster_sim.text_file import read_text

    file = options["compare"]
    steps = parse_steps(read_text(file), str(file))
    click.echo(compared_text(compare_steps(steps, options["chip"])))
