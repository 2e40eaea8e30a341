"""A collective's rows as a table, CSV, JSON and a curve."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict

from cluster_sim.output.csv_text import format_csv
from cluster_sim.output.svg import Canvas
from cluster_sim.output.tables import grid, number
from cluster_sim.output.wrapping import fill
from cluster_sim.studies.collective import Row
from cluster_sim.studies.nccl_tests import Measured

LEFT, TOP, WIDTH, HEIGHT = 70.0, 60.0, 720.0, 360.0
BLUE, RED, GREY = "#1f6fb4", "#c0392b", "#bbb"


def table(rows: Sequence[Row], *, shared: bool) -> str:
    """Columns as nccl-tests has them, with the choice, the links' bound and the factor within which
    four of five measured times should lie.
    """
    head = ["size", "time us", "algbw GB/s", "busbw GB/s", "algorithm", "protocol", "bound us"]
    head.append("within")
    if shared:
        head += ["shared us", "slowdown"]
    cells = [head]
    for row in rows:
        line = [
            size_text(row.size_bytes),
            f"{row.time_us:.2f}",
            f"{row.algbw_gb_per_s:.2f}",
            f"{row.busbw_gb_per_s:.2f}",
            row.algorithm,
            row.protocol,
            f"{row.bound_us:.2f}",
            f"x {row.high_us / row.time_us:.2f}" if row.time_us else "-",
        ]
        if shared:
            line += [f"{row.shared_us:.2f}", f"{row.slowdown:.3f}"]
        cells.append(line)
    return grid(cells)


def constants_text(rows: Sequence[Row]) -> str:
    """By how many sizes the constants are measured, extrapolated and so on."""
    counts = Counter(row.provenance for row in rows)
    if len(counts) == 1:
        words = next(iter(counts))
    else:
        words = ", ".join(f"{word} at {count} of the sizes" for word, count in counts.items())
    text = f"Constants: {words}; four of five measured times lie within the factor"
    if "extrapolated" in counts:
        text += ", which grows with the distance from the ranks and sizes that were timed"
    return fill(text, rest="  ")


def csv_text(rows: Sequence[Row]) -> str:
    """All columns, floats to the last bit."""
    return format_csv([asdict(row) for row in rows])


def json_text(rows: Sequence[Row]) -> str:
    """All columns as a list."""
    return json.dumps([asdict(row) for row in rows], indent=1)


def errors_text(rows: Sequence[Row], measured: Sequence[Measured]) -> str:
    """Simulated beside measured times, and the errors' median and 90th percentile."""
    cells = [["size", "measured us", "simulated us", "error %"]]
    errors = []
    for row, case in zip(rows, measured, strict=True):
        error = row.shared_us / case.time_us - 1
        errors.append(abs(error))
        cells.append(
            [
                size_text(row.size_bytes),
                f"{case.time_us:.2f}",
                f"{row.shared_us:.2f}",
                f"{100 * error:+.1f}",
            ]
        )
    errors.sort()
    middle, high = _quantile(errors, 0.5), _quantile(errors, 0.9)
    return (
        f"{grid(cells)}\n"
        f"median error {number(100 * middle)} %, 90th percentile {number(100 * high)} %"
    )


def _quantile(ordered: Sequence[float], share: float) -> float:
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def size_text(size: int) -> str:
    """Bytes in the largest binary unit that leaves a whole number.

    >>> size_text(1048576)
    '1 MiB'
    """
    units = ["B", "KiB", "MiB", "GiB", "TiB"]
    place = 0
    while size % 1024 == 0 and size and place < len(units) - 1:
        size, place = size // 1024, place + 1
    return f"{size} {units[place]}"


def curve(rows: Sequence[Row], title: str) -> str:
    """Bus bandwidth over message size as SVG, alone and beside other traffic."""
    canvas = Canvas()
    top = max(_busbw_alone(row) for row in rows) or 1.0
    step = 10 ** math.floor(math.log10(top))
    top = math.ceil(top / step) * step
    low, high = math.log2(rows[0].size_bytes), math.log2(rows[-1].size_bytes)
    span = max(high - low, 1.0)

    def place(size: int, value: float) -> tuple[float, float]:
        across = (math.log2(size) - low) / span
        return LEFT + across * WIDTH, TOP + HEIGHT * (1 - value / top)

    canvas.text(LEFT, 28, title, size=15, bold=True)
    canvas.text(LEFT, 48, "bus bandwidth, GB/s, over bytes of message", size=12, fill="#555")
    for mark in range(6):
        value = top * mark / 5
        y = TOP + HEIGHT * (1 - mark / 5)
        canvas.line((LEFT, y), (LEFT + WIDTH, y), stroke=GREY, thick=0.6)
        canvas.text(LEFT - 8, y + 4, f"{value:g}", size=11, anchor="end")
    every = max(1, len(rows) // 8)
    for number_, row in enumerate(rows):
        x, _ = place(row.size_bytes, 0)
        if number_ % every == 0:
            canvas.line((x, TOP + HEIGHT), (x, TOP + HEIGHT + 5))
            canvas.text(x, TOP + HEIGHT + 20, size_text(row.size_bytes), size=11, anchor="middle")
    _line(canvas, [place(row.size_bytes, _busbw_alone(row)) for row in rows], BLUE)
    for row in rows:
        x, y = place(row.size_bytes, _busbw_alone(row))
        words = f"{size_text(row.size_bytes)}: {_busbw_alone(row):.1f} GB/s, {row.time_us:.1f} us"
        words += f", {row.algorithm} {row.protocol}"
        canvas.box(x - 3, y - 3, 6, 6, fill=BLUE, stroke=BLUE, title=words)
    if any(row.slowdown > 1 for row in rows):
        _line(canvas, [place(row.size_bytes, row.busbw_gb_per_s) for row in rows], RED)
        canvas.text(LEFT + WIDTH, 28, "red: beside other traffic", anchor="end", fill=RED)
    canvas.box(LEFT, TOP, WIDTH, HEIGHT, round_by=0)
    return canvas.svg(title)


def _busbw_alone(row: Row) -> float:
    return row.busbw_gb_per_s * row.slowdown


def _line(canvas: Canvas, points: Sequence[tuple[float, float]], colour: str) -> None:
    for start, stop in zip(points, points[1:], strict=False):
        canvas.line(start, stop, stroke=colour, thick=2)
