"""Rows of numbers on stdout, as CSV or JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import click


def print_rows(rows: Sequence[Mapping[str, Any]], form: str) -> None:
    """Print rows as ``csv`` or ``json``; one row alone as an object."""
    from cluster_sim.output.results import format_csv

    if form == "csv":
        click.echo(format_csv(rows), nl=False)
    else:
        import json

        click.echo(json.dumps(rows[0] if len(rows) == 1 else rows, indent=1))
