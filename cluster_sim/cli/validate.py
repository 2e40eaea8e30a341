"""``cluster-sim validate``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cluster_sim.cli.live import Bar
from cluster_sim.cli.params import FilePath, Whole
from cluster_sim.cli.rows import note
from cluster_sim.interrupts import EXIT_INTERRUPTED, hold_back, was_interrupted
from cluster_sim.specs.constraints import MOST_REQUESTS

if TYPE_CHECKING:
    from cluster_sim.studies.validate_scores import Replayed

MOST_WORKERS = 1_024  # processes; more than the cores of any machine only take turns


class _Where(click.ParamType[Any]):
    """``column=value``."""

    name = "column=value"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Column and value."""
        if isinstance(value, tuple):
            return value
        column, equals, wanted = str(value).partition("=")
        if not equals or not column.strip() or not wanted.strip():
            self.fail(f"write column=value, for example chip=h200_sxm (got {value})", param, ctx)
        return column.strip(), wanted.strip()


@click.command()
@click.option(
    "--against",
    multiple=True,
    type=FilePath(path_type=Path),
    help="Measured cases: CSV, or a result of vLLM's, SGLang's or AIPerf's benchmark; may be "
    "repeated. Without it those that come with the program.",
)
@click.option(
    "--fill",
    multiple=True,
    type=_Where(),
    help="What cases do not say of themselves, such as chip=h100_sxm; may be repeated.",
)
@click.option("--where", multiple=True, type=_Where(), help="Only cases such as chip=h200_sxm.")
@click.option(
    "--include",
    multiple=True,
    type=click.Choice(["suspect", "duplicate_run", "simulated", "restated", "metric_ambiguous"]),
    help="Score rows with this flag too.",
)
@click.option("--strict", is_flag=True, help="Refuse rows of chips and models not known here.")
@click.option("--limit", type=Whole(MOST_REQUESTS), help="A seeded sample of so many runs.")
@click.option("--workers", type=Whole(MOST_WORKERS), help="Processes (default: one a core).")
@click.option("--out", type=FilePath(path_type=Path), help="Write a row for every case.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["table", "json", "csv", "markdown"]),
    default="table",
)
@click.option("--quiet", is_flag=True, help="No progress on stderr.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
def validate(**options: Any) -> None:
    """Replay measured cases and print the errors."""
    from cluster_sim.output import validate_text as text
    from cluster_sim.output.files import check_file
    from cluster_sim.studies.validate import select
    from cluster_sim.studies.validate_cases import read_cases
    from cluster_sim.studies.validate_scores import scorecard

    out: Path | None = options["out"]
    if out is not None:
        if os.path.isdir(out) or not os.path.isdir(out.parent):
            raise click.UsageError(f"--out {out}: must be a file in a folder that is there")
        check_file(out, "--out")
    found = read_cases(options["against"], dict(options["fill"]), strict=options["strict"])
    cases = select(found, options["where"])
    replayed, partial = _replay(cases, options)
    place = {id(case): number for number, case in enumerate(cases)}
    replayed.sort(key=lambda one: place[id(one.case)])
    if out is not None:
        written = text.write_cases(out, replayed)
        if written != out:
            note(f"{out} stays; what was finished of this validation is in {written}")
    if options["form"] == "markdown":
        click.echo(text.markdown(replayed))
    else:
        show = {"table": text.table, "json": text.json_text, "csv": text.csv_text}
        click.echo(show[options["form"]](scorecard(replayed)).rstrip("\n"))
    if was_interrupted() or partial:
        scored = "only finished runs are scored" if partial else "all runs were finished"
        click.echo(f"Interrupted: {scored}.", err=True)
        raise SystemExit(EXIT_INTERRUPTED)


def _replay(cases: list[Any], options: dict[str, Any]) -> tuple[list[Replayed], bool]:
    """Every case once, and whether an interrupt from the keyboard ended it early."""
    from cluster_sim.studies.validate import play, prepare
    from cluster_sim.studies.validate_scores import INTERRUPTED, Replayed

    prepared = prepare(cases, include=options["include"], limit=options["limit"])
    replayed, done, bar = list(prepared.refused), 0, Bar(options["quiet"])
    running = play(prepared, workers=options["workers"] or _cores())
    try:
        for results in running:
            replayed += results
            done += 1
            bar.update("validate", done / len(prepared.tasks))
        hold_back()
    except KeyboardInterrupt:
        left = list(prepared.tasks.values())[done:]
        replayed += [Replayed(case=case, reason=INTERRUPTED) for mine in left for case in mine]
        return replayed, True
    finally:
        running.close()
        bar.close()
    return replayed, False


def _cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
