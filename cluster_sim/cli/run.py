"""``cluster-sim run``."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from cluster_sim.cli.again import Remembering, next_line
from cluster_sim.cli.live import Bar, Panel
from cluster_sim.cli.options import max_memory, note_shadows, resolve_inputs, run_options
from cluster_sim.cli.params import FilePath, Whole, Window
from cluster_sim.cli.rows import end_interrupted, note, print_rows
from cluster_sim.cli.training import is_training, run_training
from cluster_sim.interrupts import EXIT_INTERRUPTED, interruptible, was_interrupted
from cluster_sim.specs.constraints import MOST_SEEDS

if TYPE_CHECKING:
    from cluster_sim.output.timeline import Timeline
    from cluster_sim.result import Result


@click.command(cls=Remembering)
@run_options
@click.option("--seeds", type=Whole(MOST_SEEDS), help="Repeat with so many seeds.")
@click.option("--out", type=FilePath(path_type=Path), default=Path("results"), show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
@click.option("--step-by-step", is_flag=True, help="The slow reference; same results.")
@click.option("--timeline", is_flag=True, help="Write a trace that Perfetto opens.")
@click.option("--timeline-window", type=Window(), help="Only this part of it, such as 10s..20s.")
@click.option(
    "--band",
    type=click.Choice(["run", "capacity"]),
    is_flag=False,
    flag_value="run",
    help="Run it 16 more times with other constants (capacity: the search for it too).",
)
@click.option("--background", multiple=True, metavar="SPEC", help="Other traffic at the same time.")
@max_memory
@click.option("--live", is_flag=True, help="Show the replicas while the run goes on.")
def run(
    seeds: int | None,
    out: Path,
    form: str,
    quiet: bool,
    step_by_step: bool,
    timeline: bool,
    timeline_window: tuple[float, float] | None,
    band: Literal["run", "capacity"] | None,
    background: tuple[str, ...],
    live: bool,
    max_memory: float,
    **options: Any,
) -> None:
    """Simulate a workload on a topology."""
    import dataclasses

    if is_training(options):
        _refuse_for_training(
            seeds=seeds,
            step_by_step=step_by_step,
            timeline_window=timeline_window,
            band=band,
            background=background,
            live=live,
        )
        run_training(
            options, out=out, form=form, quiet=quiet, timeline=timeline, most_bytes=max_memory
        )
        return
    from cluster_sim.output.results import ResultWriter, check_writable
    from cluster_sim.simulation import simulate

    if timeline_window and not timeline:
        raise click.UsageError("--timeline-window has no effect without --timeline")
    for name, given in (("--seeds", seeds), ("--background", background)):
        if band and given:
            raise click.UsageError(f"--band and {name} exclude each other")
    machine, job, economics = resolve_inputs(options, shared=bool(background))
    arrivals = job.workload.arrivals
    if band == "capacity" and (arrivals.load is None or arrivals.replays):
        text = "--band capacity needs traffic at a share of the capacity; write --band run"
        raise click.UsageError(text)
    check_writable(
        out,
        f"{job.workload.name}@{machine.topology.name}",
        (job.workload.stated_requests or 0) * (seeds or 1),
    )
    if not quiet:
        note_shadows((*machine.files, *job.files))
    results: list[Result] = []
    writer, bar, interrupted = ResultWriter(out, note), _display(live, quiet), False
    base = job.workload.seed
    for seed in range(base, base + (seeds or 1)):
        seeded = dataclasses.replace(job, workload=dataclasses.replace(job.workload, seed=seed))
        started = time.perf_counter()
        try:
            result = simulate(
                machine,
                seeded,
                economics=economics,
                step_by_step=step_by_step,
                skip_bad_rows=options["skip_bad_rows"],
                progress=bar.update,
                live=bar.watch if isinstance(bar, Panel) else None,
                record=timeline,
                keep=band is not None,
                background=background,
                most_bytes=max_memory,
            )
        except KeyboardInterrupt:
            interrupted = True
            break
        finally:
            bar.close()
        # What is simulated is written: from here on interrupts wait, but for what is beside it.
        whole = not band or result.partial or _add_band(result, band, bar)
        seconds = time.perf_counter() - started
        trace = _timeline(result, timeline_window) if timeline else None
        folder = writer.write(result, {"simulated_s": f"{seconds:.3f}"}, trace)
        if trace is not None and not quiet:
            click.echo(f"Timeline: {folder / 'timeline.json.gz'}, {trace.note}", err=True)
        # What it was recorded for is written; its tapes would fill the memory seed by seed.
        results.append(dataclasses.replace(result, facts=None))
        if form == "table" and not seeds:
            _print_table(result, seconds, folder)
        interrupted = was_interrupted() or result.partial or not whole or (timeline and not trace)
        if interrupted:
            break
    if not results:
        click.echo("Interrupted before the run itself began: nothing to write.", err=True)
        raise SystemExit(EXIT_INTERRUPTED)
    if form != "table":
        print_rows([result.summary for result in results], form)
        if not quiet:
            _print_notes(results)
    elif seeds:
        _print_spread([result for result in results if not result.partial])
        if not quiet:
            _print_notes(results)
    if interrupted:
        end_interrupted(partial=results[-1].partial)


def _refuse_for_training(**given: Any) -> None:
    for name, value in given.items():
        if value:
            flag = f"--{name.replace('_', '-')}"
            raise click.UsageError(f"{flag} has no effect on a workload of training")


def _add_band(result: Result, band: Literal["run", "capacity"], bar: Bar | Panel) -> bool:
    """Put the band of the replications into the manifest; false if an interrupt leaves it out."""
    from cluster_sim.studies.band import band_study

    found = interruptible(lambda: band_study(result, band, progress=bar.update))
    bar.close()
    if found is None:
        click.echo("Interrupted: the run is complete, its --band is left out.", err=True)
        return False
    result.manifest["bands"]["again"] = found
    return True


def _display(live: bool, quiet: bool) -> Bar | Panel:
    """The panel if it is wanted and can be shown, else the bar."""
    if live and quiet:
        raise click.UsageError("--live and --quiet exclude each other")
    if live and sys.stderr.isatty():
        return Panel()
    if live:
        click.echo("Note: --live needs a terminal on stderr; the run goes on without.", err=True)
    return Bar(quiet)


def _timeline(result: Result, window: tuple[float, float] | None) -> Timeline | None:
    """The timeline; None if an interrupt leaves it out."""
    from cluster_sim.output.timeline import timeline

    found = interruptible(lambda: timeline(result, window))
    if found is None:
        click.echo("Interrupted: the --timeline is left out.", err=True)
    return found


def _print_table(result: Result, seconds: float, folder: Path) -> None:
    from cluster_sim.cli.inspect import explain
    from cluster_sim.output.tables import run_report

    click.echo(run_report(result, simulated_s=seconds, folder=str(folder)))
    click.echo(next_line(explain))


def _print_notes(results: list[Result]) -> None:
    """What must be known before the rows are used, on stderr, each note once."""
    for text in dict.fromkeys(text for result in results for text in result.manifest["notes"]):
        note(text)


SPREAD_METRICS = (
    "capacity_requests_per_s",
    "saturation_output_tokens_per_s_per_chip",
    "output_tokens_per_s",
    "ttft_mean_ms",
    "ttft_p99_ms",
    "tpot_mean_ms",
    "tpot_p99_ms",
    "slo_attainment",
    "usd_per_m_output_tokens",
    "j_per_output_token",
)


def _print_spread(results: list[Result]) -> None:
    """Mean and range of the main metrics over the seeds."""
    from cluster_sim.output.tables import grid, number

    if not results:
        return
    rows = [["metric", "mean", "lowest", "highest"]]
    for metric in SPREAD_METRICS:
        values = [r.summary[metric] for r in results if r.summary[metric] is not None]
        if values:
            mean = sum(values) / len(values)
            rows.append([metric, number(mean), number(min(values)), number(max(values))])
    seeds = ", ".join(str(result.summary["seed"]) for result in results)
    click.echo(
        f"{results[0].summary['workload']} on {results[0].summary['topology']}, seeds {seeds}"
    )
    click.echo(grid(rows))
