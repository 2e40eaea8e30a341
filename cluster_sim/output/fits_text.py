"""Fitted curves as text: the comparison of a calibration, and the file with new curves in place of
the old.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_sim.errors import counted
from cluster_sim.output.files import unwritable, write_whole
from cluster_sim.output.wrapping import fill
from cluster_sim.specs.fits import FITTED
from cluster_sim.specs.yaml_text import parse

if TYPE_CHECKING:
    from cluster_sim.studies.calibrate import Calibration, FittedCurve, LeftOut

FILE_WIDTH = 98
TIMES = {"floor": 1e-6, "per_k": 1e-6, "row": 1e-9}  # unit in which a time is written
ORDER = (*FITTED, "glue", "power")
CASES_SHOWN = 3
PEAK_NOTE = "  # of the bf16 peak"


def calibration_report(done: Calibration) -> str:
    """Old against new, curve by curve, and what was left out."""
    parts = [f"{done.chip}, timings of {done.framework}".ljust(60) + "   median     p90"]
    parts += [_comparison(curve) for curve in done.curves]
    parts += [
        "Old errors are over all points, new ones over points whose shape the fit did not see.",
        "Both are of kernels alone: what in_engine changes comes on top.",
    ]
    if done.left_out:
        parts.append("Left out:")
        parts += [_left_out(part) for part in done.left_out]
    return "\n".join(parts)


def _comparison(curve: FittedCurve) -> str:
    mark = "" if curve.meets_target else ", over the target"
    lines = [
        f"{curve.name}: {counted(curve.points, 'point')} of {counted(curve.shapes, 'shape')}{mark}"
    ]
    if curve.old is not None and curve.old_errors is not None:
        lines += _valued("old", curve.old, curve.old_errors)
    return "\n".join(lines + _valued("new", curve.new, curve.new_errors))


def _valued(label: str, values: Mapping[str, float], errors: tuple[float, float]) -> list[str]:
    words = ", ".join(f"{name} {_value(name, value)}" for name, value in values.items())
    lines = fill(words, f"  {label}  ", " " * 7, width=53).splitlines()
    lines[0] = lines[0].ljust(60) + f"{errors[0] * 100:7.1f} %{errors[1] * 100:6.1f} %"
    return lines


def _left_out(part: LeftOut) -> str:
    cases = ", ".join(f"{row.case_id} (line {row.line})" for row in part.rows[:CASES_SHOWN])
    more = f" and {len(part.rows) - CASES_SHOWN} more" if len(part.rows) > CASES_SHOWN else ""
    text = f"{counted(len(part.rows), 'row')}: {part.reason}: {cases}{more}"
    return fill(text, "  ", "    ")


def _value(name: str, value: float) -> str:
    """A value as a file holds it."""
    if name in TIMES:
        return f"{value / TIMES[name]:.3g} {'ns' if name == 'row' else 'us'}"
    return f"{value:.4g}"


def with_curves(text: str, curves: Iterable[FittedCurve], shown: str) -> str:
    """The text of a fits file with new curves in place of the old; all other lines stay."""
    for curve in curves:
        text = _with_curve(text, curve, shown)
    return text


def _with_curve(text: str, curve: FittedCurve, shown: str) -> str:
    lines = text.splitlines()
    places = parse(text, shown)[1]
    section = (curve.section,)
    path = (*section, curve.key) if curve.key else section
    block = _block(curve)
    if path in places:
        start = places[path] - 1
        end = _end(places, path, lines)
    elif section in places:
        start = end = _end(places, section, lines)
    else:
        later = ORDER[ORDER.index(curve.section) + 1 :]
        starts = [places[(name,)] - 1 for name in later if (name,) in places]
        start = end = min(starts, default=len(lines))
        block = [f"{curve.section}:", *block] if curve.key else block
    return "\n".join([*lines[:start], *block, *lines[end:]]) + "\n"


def _end(
    places: Mapping[tuple[str | int, ...], int], path: tuple[str, ...], lines: list[str]
) -> int:
    """The line after a key's block; comments before the next key belong to that."""
    start = places[path]
    others = [line for key, line in places.items() if line > start and key[: len(path)] != path]
    end = min(others, default=len(lines) + 1) - 1
    while end > start and (not lines[end - 1].strip() or lines[end - 1].lstrip().startswith("#")):
        end -= 1
    return end


def _block(curve: FittedCurve) -> list[str]:
    """The lines of a curve, as deep as its place in the file."""
    pad = "    " if curve.key else "  "
    attention = curve.section.startswith(("attention", "mla"))
    lines = [f"  {curve.key}:"] if curve.key else [f"{curve.section}:"]
    for name, value in curve.new.items():
        note = PEAK_NOTE if attention and name == "compute" else ""
        lines.append(f"{pad}{name}: {_value(name, value)}{note}")
    lines.append(f"{pad}provenance: measured")
    median, p90 = (f"{max(0.1, round(error * 100, 1)):g} %" for error in curve.new_errors)
    more = f', date: "{curve.date}"' if curve.date else ""
    more += f", framework: {curve.framework}" if curve.framework else ""
    lines.append(f"{pad}fit: {{points: {curve.points}, median: {median}, p90: {p90}{more}}}")
    lines.append(f"{pad}source: >-")
    return lines + textwrap.wrap(
        curve.source,
        FILE_WIDTH,
        initial_indent=pad + "  ",
        subsequent_indent=pad + "  ",
        break_long_words=False,
        break_on_hyphens=False,
    )


def write_fits(path: Path, text: str) -> None:
    """Put a fits file in place whole or not at all; raises SpecError if that fails."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise unwritable(path, error, "--write") from None
    write_whole(path, text, "--write")
