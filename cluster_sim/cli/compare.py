"""``cluster-sim compare``."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--band", is_flag=True, help="Say which differences to the first are significant.")
def compare(files: tuple[Path, ...], band: bool) -> None:
    """Compare runs: main metrics side by side, ratios to the first."""
    from cluster_sim.output.results import read_bands, read_summary
    from cluster_sim.output.tables import grid
    from cluster_sim.studies.compare import check_runs, compare_bands, compare_runs

    if len(files) < 2:
        raise click.UsageError("compare needs at least two summary.csv files or result folders")
    rows = []
    for file in files:
        found = read_summary(file)
        check_runs(str(file), found)
        rows += found
    bands = [read_bands(file) for file in files] if band else []
    table, warnings = compare_runs(rows)
    for warning in warnings:
        click.echo(f"Note: {warning}", err=True)
    click.echo(grid(table))
    for file, other in zip(files[1:], bands[1:], strict=False):
        click.echo(
            f"\n{file} to {files[0]}, 8 in 10 chance:\n{grid(compare_bands(bands[0], other))}"
        )
