"""The page of ``fit``: a table for every engine and precision, and what helps where none starts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from itertools import groupby

from cluster_sim.output.csv_text import format_csv
from cluster_sim.output.tables import grid, number
from cluster_sim.output.wrapping import fill
from cluster_sim.perf.checkpoint import size_note
from cluster_sim.perf.memory import GIB
from cluster_sim.specs.chip import Chip
from cluster_sim.specs.model import Model
from cluster_sim.studies.memory_grid import FitRow


def csv_text(rows: Sequence[FitRow]) -> str:
    """All columns, floats to the last bit."""
    return format_csv([asdict(row) for row in rows])


def json_text(rows: Sequence[FitRow]) -> str:
    """All columns as a list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def page(chip: Chip, model: Model, rows: Sequence[FitRow]) -> str:
    """One table an engine and precision, GiB of a device, tokens and sequences of a replica; what
    does not start, and what to know of the model.
    """
    first = rows[0]
    parts = [
        fill(
            f"{first.model} on {chip.title}: a process sees {chip.visible_memory / GIB:.2f} of the "
            f"{chip.device_memory / GIB:.2f} GiB of a device. GiB are of one device, tokens and "
            f"sequences of {first.sequence_tokens:,} tokens of one replica."
        )
    ]
    groups = groupby(rows, key=lambda row: (row.software, row.precision, row.kv_dtype))
    for (software, precision, kv_dtype), mine in groups:
        parts.append(_table(software, precision, kv_dtype, list(mine)))
    notes = [*model.notes, *filter(None, [size_note(model)])]
    said = "\n".join(fill(note, "Note  ", "      ") for note in notes)
    return "\n\n".join([*parts, *_reasons(rows), *filter(None, [said])])


def _table(software: str, precision: str, kv_dtype: str, rows: Sequence[FitRow]) -> str:
    cells = [["plan", "weights", "engine", "cache", "", "tokens", "sequences", "starts"]]
    for row in rows:
        slack = row.cache_high_gib - row.cache_gib
        cells.append(
            [
                f"  {row.layout}",
                f"{row.weights_gib:.2f}",
                f"{row.taken_gib:.2f}",
                f"{row.cache_gib:.2f}",
                f"+-{number(slack, 2)}" if slack else "",
                f"{row.kv_tokens:,}",
                f"{row.sequences:,}",
                _verdict(row),
            ]
        )
    longest = rows[0].max_model_len
    title = f"{software}, {precision} weights, {kv_dtype} cache, sequences to {longest:,} tokens"
    return f"{fill(title, rest='  ')}\n{grid(cells)}"


def _verdict(row: FitRow) -> str:
    word = "yes" if row.starts else "no"
    return word if row.sure else f"likely {'' if row.starts else 'not'}".strip()


def _reasons(rows: Sequence[FitRow]) -> list[str]:
    """Why plans do not start and the smallest change with which they do: of each engine and
    precision the plan of most devices.
    """
    lines = []
    failed = [row for row in rows if not row.starts]
    for _, group in groupby(failed, key=lambda row: (row.software, row.precision)):
        row = max(group, key=lambda row: row.devices)
        way = f"What works: {row.change}." if row.change else "No change that was tried helps."
        where = f"{row.software}, {row.precision}, {row.layout}:"
        lines.append(fill(f"{where} {row.reason} {way}", "  ", "    "))
    head = "Why the largest plan that does not start does not, and the smallest change:"
    return ["\n".join([head, *lines])] if lines else []
