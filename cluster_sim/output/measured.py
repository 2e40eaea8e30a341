"""Files of measurements, to which rows are added one by one, and measured beside predicted steps as
a table.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster_sim.errors import SpecError
from cluster_sim.interrupts import held_back
from cluster_sim.output.csv_text import cell, csv_line
from cluster_sim.output.files import check_name, unwritable
from cluster_sim.output.tables import grid, number
from cluster_sim.studies.measure_compare import Compared
from cluster_sim.text_file import csv_table, read_text


def finished(path: Path, columns: Sequence[str]) -> set[str]:
    """The case_id of every row of a file, whose last line may be cut off; none if it is not there.

    Raises SpecError for a file of something else.
    """
    text = _text(path)
    whole = text[: text.rfind("\n") + 1]
    if not whole:
        return set()
    header, rows = csv_table(whole, str(path))
    if header != list(columns):
        raise SpecError(
            f"{path}: holds something else (its columns are not {', '.join(columns[:4])} ... "
            f"{columns[-1]}); choose another file with --out"
        )
    return {row["case_id"] for _, row in rows}


@contextmanager
def appending(
    path: Path, columns: Sequence[str]
) -> Iterator[Callable[[Mapping[str, object]], None]]:
    """A function that adds a row to a file, at once on disk; a new file gets its header, a last
    line that was cut off goes, and so does a row that does not fit on the disk. Interrupts wait for
    the end of a row.
    """
    check_name(path, "--out")
    kept = _text(path).encode()
    size = kept.rfind(b"\n") + 1
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if size < len(kept):
            os.truncate(path, size)
        file = path.open("ab", buffering=0)
    except OSError as error:
        raise unwritable(path, error, "--out") from None
    with file:

        def write(cells: Iterable[str]) -> None:
            nonlocal size
            line = csv_line(cells).encode()
            try:
                with held_back():
                    written = file.write(line)
                    if written < len(line):  # the rest says why it does not fit
                        file.write(line[written:])
                    size += len(line)
            except OSError as error:
                with suppress(OSError):
                    os.truncate(path, size)
                raise unwritable(path, error, "--out") from None

        if not size:
            write(columns)
        yield lambda row: write(cell(row[name]) for name in columns)


def _text(path: Path) -> str:
    try:
        path.stat()
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    return read_text(path)


def compared_text(compared: Sequence[Compared]) -> str:
    """Measured and predicted times, and by phase the errors' median and 90th percentile."""
    import numpy as np

    cells = [["step", "batch", "seq_len", "measured ms", "predicted ms", "error %"]]
    for row in compared:
        case = row.step.case
        cells.append(
            [
                f"{case.phase} {case.model} x {case.layers} {case.dtype}",
                f"{case.batch:,}",
                f"{case.seq_len:,}",
                f"{row.step.measured_s * 1e3:.3f}",
                f"{row.predicted_s * 1e3:.3f}",
                f"{100 * row.error:+.1f}",
            ]
        )
    lines = [grid(cells)]
    for phase in dict.fromkeys(row.step.case.phase for row in compared):
        errors = [100 * abs(row.error) for row in compared if row.step.case.phase == phase]
        middle, high = np.percentile(errors, [50, 90])
        lines.append(
            f"{phase}: median error {number(middle)} %, 90th percentile {number(high)} %, "
            f"{len(errors)} steps"
        )
    kinds = dict.fromkeys((row.chip, row.provenance) for row in compared)
    lines += [f"Curves of {chip}: {provenance}" for chip, provenance in kinds]
    return "\n".join(lines)
