"""Keeps new results of runs, with the reason: ``python -m tests.golden.regenerate --reason WHY``.

Names of runs behind it limit it to these. A run whose results are the same to the tolerance stays
as it is. The reason, the date, and the largest change of every column go to the end of REASONS.md.
"""

from __future__ import annotations

import datetime
import textwrap
from collections.abc import Sequence

import click

from .compare import KEPT, Difference, compare_run, keep, kept_file, message
from .runs import RUNS

REASONS = KEPT.parent / "REASONS.md"
ONE_SIDED = ("new", "gone")
COLUMNS = 8  # of a run that are named, those that changed most first


@click.command()
@click.option("--reason", required=True, help="Why the results are others now.")
@click.argument("names", nargs=-1, type=click.Choice(list(RUNS)), metavar="[NAME]...")
def regenerate(reason: str, names: Sequence[str]) -> None:
    """Keep new results of all runs, or of those that are named."""
    if len(reason.split()) < 3:
        raise click.UsageError("--reason: say in a few words what changed and why")
    KEPT.mkdir(exist_ok=True)
    lines, added = [], []
    for name in names or RUNS:
        is_new = not kept_file(name).exists()
        result, found = compare_run(name)
        if not found:
            continue
        keep(name, result)
        click.echo(message(found))
        if is_new:
            added.append(name)
        else:
            lines.append(f"- {name}: {changes(found)}")
    for file in [] if names else sorted(KEPT.iterdir()):
        if file != kept_file(file.stem) or file.stem not in RUNS:
            file.unlink()
            lines.append(f"- {file.stem}: no longer run")
    if added:
        lines.append(textwrap.fill(f"- new: {', '.join(added)}", 100, subsequent_indent="  "))
    if not lines:
        click.echo("Nothing changed.")
        return
    today = datetime.date.today().isoformat()
    with REASONS.open("a", encoding="utf-8") as log:
        log.write(f"\n## {today}: {reason}\n\n" + "".join(f"{line}\n" for line in lines))
    click.echo(f"The reason and what changed stand in {REASONS.name}")


def changes(found: Sequence[Difference]) -> str:
    """The largest relative change of each column, and what else changed, in a line."""
    largest: dict[str, float] = {}
    others: dict[str, None] = {}
    for one in found:
        column = f"{one.place} {one.column}".strip()
        if one.relative is None:
            others[f"{column} {one.new}" if one.new in ONE_SIDED else column] = None
        elif abs(one.relative) >= abs(largest.get(column, 0.0)):
            largest[column] = one.relative
    ordered = sorted(largest, key=lambda column: -abs(largest[column]))
    told = [f"{column} {largest[column]:+.2g}" for column in ordered[:COLUMNS]]
    told += list(others)[:COLUMNS]
    left = len(ordered) + len(others) - len(told)
    return "; ".join(told) + (f"; and {left} more" if left else "")


if __name__ == "__main__":
    regenerate(prog_name="python -m tests.golden.regenerate")
