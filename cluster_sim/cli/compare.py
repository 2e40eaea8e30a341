"""``cluster-sim compare``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.params import FilePath
from cluster_sim.cli.rows import print_rows

if TYPE_CHECKING:
    from cluster_sim.studies.compare import BandRatio

WIDTH = 100  # of tables that do not go to a terminal


@click.command()
@click.argument("paths", metavar="PATHS...", nargs=-1, required=True, type=FilePath(path_type=Path))
@click.option("--band", is_flag=True, help="Say which differences to the first are significant.")
@click.option("--format", "form", type=click.Choice(["table", "csv", "json"]), default="table")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def compare(paths: tuple[Path, ...], band: bool, form: str, debug: bool) -> None:
    """Compare runs: main figures side by side, ratios to the first.

    PATHS are summary.csv files, folders of a run, or folders with runs below them.
    """
    from cluster_sim.studies.compare_runs import compare_runs, flat_rows

    found = _read(paths)
    rows = [row for _, mine in found for row in mine]
    if len(rows) < 2:
        raise click.UsageError(
            f"compare needs at least two runs, {paths[0]} holds one: name more summary.csv files, "
            "folders of a run, or a folder with several runs below it"
        )
    bands = _bands(found) if band else None
    runs, warnings = compare_runs(rows)
    for warning in warnings:
        click.echo(f"Note: {warning}", err=True)
    if form != "table":
        print_rows(flat_rows(runs, bands), form)
        return
    from cluster_sim.output.compare_text import bands_text, comparison_text

    width = shutil.get_terminal_size((WIDTH, 24)).columns
    click.echo(comparison_text(runs, width))
    for run, mine in zip(runs[1:], bands or (), strict=False):
        click.echo("\n" + bands_text(runs[0].heading, run.heading, mine, width))


def _read(paths: tuple[Path, ...]) -> list[tuple[Path, list[dict[str, str]]]]:
    """The rows of every summary.csv; raises SpecError with the problems of all."""
    from cluster_sim.errors import SpecError
    from cluster_sim.output.results import find_summaries, read_summary
    from cluster_sim.studies.compare_runs import check_runs

    found, problems = [], []
    for path in paths:
        try:
            files = find_summaries(path)
        except SpecError as error:
            problems += error.problems
            continue
        for file in files:
            try:
                rows = read_summary(file)
                check_runs(str(file), rows)
                found.append((file, rows))
            except SpecError as error:
                problems += error.problems
    if problems:
        raise SpecError(problems)
    return found


def _bands(found: list[tuple[Path, list[dict[str, str]]]]) -> list[list[BandRatio]]:
    """What the bands say of each run after the first."""
    from cluster_sim.output.results import read_bands
    from cluster_sim.studies.compare import compare_bands

    runs: list[tuple[dict[str, Any], dict[str, str]]] = [
        (read_bands(file, row.get("config_hash")), row) for file, rows in found for row in rows
    ]
    first, first_row = runs[0]
    return [compare_bands(first, other, first_row, row) for other, row in runs[1:]]
