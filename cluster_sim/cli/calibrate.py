"""``cluster-sim calibrate``."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from cluster_sim.cli.params import FilePath, Name


@click.command()
@click.option(
    "--ops", type=FilePath(path_type=Path), required=True, help="Measured kernels, a CSV file."
)
@click.option("--chip", type=Name("chip"), required=True, help="Chip, name or file.")
@click.option("--framework", help="Kernels of this framework; the one with most rows unless given.")
@click.option("--write", is_flag=True, help="Write the new curves.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def calibrate(ops: Path, chip: str, framework: str | None, write: bool, debug: bool) -> None:
    """Fit the curves of a chip to measured timings of its kernels."""
    from cluster_sim.output.fits_text import calibration_report, with_curves, write_fits
    from cluster_sim.specs.chip import Chip
    from cluster_sim.specs.find import FOLDERS, names
    from cluster_sim.specs.load import load_spec, read
    from cluster_sim.specs.load_curves import load_fits
    from cluster_sim.studies.calibrate import calibrate as fitted
    from cluster_sim.studies.calibrate_rows import read_timings
    from cluster_sim.text_file import is_file, read_text

    facts = load_spec("chip", chip, Chip)[1]
    timings = read_timings(read_text(ops), str(ops), facts, {*names("chip"), facts.name})
    effective = load_fits(facts)[0]
    record, own, _ = read("fits", facts.name)
    done = fitted(facts, timings, own, effective, framework)
    click.echo(calibration_report(done))
    target = Path(FOLDERS["fits"]) / f"{facts.name}.yaml"
    new = with_curves(record.text, done.curves, record.path)
    load_fits(facts, replace(record, text=new, path=str(target)))  # raises if it cannot be read
    present = read_text(target) if is_file(target) else None
    if not write:
        click.echo(f"Nothing written; --write puts the new curves into {target}", err=True)
    elif new == present:
        click.echo(f"{target} holds these curves already", err=True)
    else:
        write_fits(target, new)
        click.echo(f"Written to {target}", err=True)
