"""Rows of numbers on stdout, as CSV or JSON; notes beside them on stderr."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import click

from cluster_sim.interrupts import EXIT_INTERRUPTED


def print_rows(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Print rows as ``csv`` or ``json``; one row alone as an object."""
    from cluster_sim.output.csv_text import format_csv

    if form == "csv":
        click.echo(format_csv(rows), nl=False)
    else:
        import json

        click.echo(json.dumps(rows[0] if len(rows) == 1 else rows, indent=1))


def note(text: str) -> None:
    """Say on stderr what must be known beside the results."""
    click.echo(f"Note: {text}", err=True)


def end_interrupted(*, partial: bool) -> NoReturn:
    """Say what there is after an interrupt, and leave."""
    kept = "the results are partial" if partial else "what is finished is written"
    click.echo(f"Interrupted: {kept}.", err=True)
    raise SystemExit(EXIT_INTERRUPTED)
