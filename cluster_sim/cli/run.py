"""``cluster-sim run``."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.options import resolve_inputs, run_options

if TYPE_CHECKING:
    from cluster_sim.simulation import Result

PROGRESS_AFTER_S = 1.0


@click.command()
@run_options
@click.option("--seeds", type=click.IntRange(min=1), help="Repeat with so many seeds.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("results"), show_default=True)
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--quiet", is_flag=True, help="No progress and no notes on stderr.")
@click.option("--step-by-step", is_flag=True, help="The slow reference; same results.")
def run(
    seeds: int | None, out: Path, form: str, quiet: bool, step_by_step: bool, **options: Any
) -> None:
    """Simulate a workload on a topology."""
    import dataclasses

    from cluster_sim.output.results import ResultWriter, check_writable
    from cluster_sim.simulation import simulate

    machine, job, economics = resolve_inputs(options)
    check_writable(out)
    if not quiet:
        for file in (*machine.files, *job.files):
            if file.shadows:
                click.echo(f"Note: {file.path} is used instead of the packaged one.", err=True)
    writer, results, bar = ResultWriter(out), [], _Bar(quiet)
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
            )
        except KeyboardInterrupt:
            bar.close()
            click.echo("Interrupted before the run itself began: nothing to write.", err=True)
            raise SystemExit(130) from None
        bar.close()
        seconds = time.perf_counter() - started
        folder = writer.write(result, {"simulated_s": f"{seconds:.3f}"})
        results.append(result)
        if form == "table" and not seeds:
            _print_table(result, seconds, folder, options)
        if result.partial:
            break
    if form != "table":
        _print_rows(results, form)
    elif seeds:
        _print_spread(results)
    if results[-1].partial:
        click.echo("Interrupted: the results are partial.", err=True)
        raise SystemExit(130)


def _print_table(result: Result, seconds: float, folder: Path, options: dict[str, Any]) -> None:
    from cluster_sim.output.tables import labelled, run_report

    click.echo(run_report(result, simulated_s=seconds, folder=str(folder)))
    topo, workload = options["topo"], options["workload"]
    click.echo(labelled("Next", f"cluster-sim explain --topo {topo} --workload {workload}"))


def _print_rows(results: list[Result], form: str) -> None:
    from cluster_sim.output.results import format_csv

    rows = [result.summary for result in results]
    if form == "csv":
        click.echo(format_csv(rows), nl=False)
    else:
        import json

        click.echo(json.dumps(rows[0] if len(rows) == 1 else rows, indent=1))


SPREAD_METRICS = (
    "capacity_requests_per_s",
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


class _Bar:
    """A progress bar on stderr for runs of over a second; nothing when stderr is no terminal."""

    def __init__(self, quiet: bool) -> None:
        import sys

        self.wanted = not quiet and sys.stderr.isatty()
        self.started = time.perf_counter()
        self.bar: Any = None
        self.task: Any = None

    def update(self, stage: str, share: float) -> None:
        """Show how far a stage is."""
        if not self.wanted or time.perf_counter() - self.started < PROGRESS_AFTER_S:
            return
        if self.bar is None:
            from rich.console import Console
            from rich.progress import Progress

            self.bar = Progress(console=Console(stderr=True), transient=True)
            self.task = self.bar.add_task(stage, total=1.0)
            self.bar.start()
        self.bar.update(self.task, description=stage, completed=share)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.stop()
            self.bar = None
