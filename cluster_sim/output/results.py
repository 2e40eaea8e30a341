"""Folders of results written and read; see ``folders`` for how they appear."""

from __future__ import annotations

import gzip
import json
import os
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_sim.columns import SHORT_HASH
from cluster_sim.errors import SpecError
from cluster_sim.interrupts import held_back
from cluster_sim.output.csv_text import ROWS_AT_ONCE, csv_of_columns, format_csv
from cluster_sim.output.files import check_folder, check_name
from cluster_sim.output.folders import LOG, MANIFEST, PARTIAL, TIMELINE, Published, publish
from cluster_sim.text_file import csv_rows, json_value, read_text

if TYPE_CHECKING:
    import pandas as pd

    from cluster_sim.output.timeline import Timeline
    from cluster_sim.result import Result

SUMMARY = "summary.csv"
LEAST_BYTES, BYTES_A_REQUEST = 65_536, 64  # of a folder without requests.csv, and of a line there
# Columns and rows of a table.
Table = tuple[Iterable[str], Sequence[Mapping[str, object]]]


def check_writable(folder: Path, run: str = "", requests: int = 0) -> None:
    """Raise SpecError unless results can be written in ``folder``, of a run that begins its name so
    and has so many requests; the folder is not made yet.
    """
    check_folder(folder, "--out", LEAST_BYTES + requests * BYTES_A_REQUEST)
    check_name(folder / f"{run}-{'0' * 2 * SHORT_HASH}{PARTIAL}", "--out")


class ResultWriter:
    """Writes results below one folder; ``tell`` is told what stays of an earlier run, and why."""

    def __init__(self, folder: Path, tell: Callable[[str], None] = lambda _: None) -> None:
        self.folder, self.tell = folder, tell

    def write(
        self,
        result: Result,
        log: Mapping[str, object] | None = None,
        timeline: Timeline | None = None,
    ) -> Path:
        """Write requests.csv or steps.csv, manifest.json, run.log and, if there is one,
        timeline.json.gz, and summary.csv last; returns the folder.

        All but run.log have the same bytes for the same inputs. Files of an older run of the same
        inputs are replaced, but never those of a complete one by those of an interrupted one, which
        stands beside it as ``-partial``. Interrupts wait.
        """

        def fill(to: Path) -> None:
            _write(to / f"{result.table}.csv", csv_of_columns(result.requests))
            _fill_about(to, result.manifest, log or {}, timeline)
            _write(to / SUMMARY, [format_csv([result.summary])])

        return self._publish(result.summary, SUMMARY, fill, partial=result.partial)

    def write_tables(
        self,
        tables: Mapping[str, Table],
        manifest: Mapping[str, Any],
        log: Mapping[str, object] | None = None,
        timeline: Timeline | None = None,
        *,
        partial: bool = False,
    ) -> Path:
        """Write tables by the name of their file, manifest.json, run.log and, if there is one,
        timeline.json.gz; returns the folder. The first table sums the others up in a row: its file
        is the last, as summary.csv of ``write`` is.
        """

        def fill(to: Path) -> None:
            _fill_about(to, manifest, log or {}, timeline)
            for name, (columns, rows) in reversed(list(tables.items())):
                _write(to / name, [format_csv(rows, columns)])

        last, (_, rows) = next(iter(tables.items()))
        return self._publish(rows[0], last, fill, partial=partial)

    def _publish(
        self,
        row: Mapping[str, object],
        last: str,
        fill: Callable[[Path], None],
        *,
        partial: bool,
    ) -> Path:
        what = Published(str(row["run_id"]), str(row.get("config_hash") or ""), last, partial)
        with held_back():
            return publish(self.folder, what, fill, self.tell)


def _write(path: Path, blocks: Iterable[str]) -> None:
    # What is no text of any encoding can only come from the names in a trace.
    with path.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        file.writelines(blocks)


def _fill_about(
    to: Path, manifest: Mapping[str, Any], log: Mapping[str, object], timeline: Timeline | None
) -> None:
    """What every folder of results has beside its tables."""
    _write(to / MANIFEST, [json.dumps(manifest, indent=1, sort_keys=True), "\n"])
    if timeline is not None:
        _write_timeline(to / TIMELINE, timeline)
    _write(to / LOG, [_run_log(log)])


def _write_timeline(path: Path, timeline: Timeline) -> None:
    """The trace as gzipped JSON, an event a line; no clock time in it."""
    encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
    head = f'{{"displayTimeUnit":"ms","otherData":{encode(timeline.about)},"traceEvents":['
    lines = map(encode, timeline.events)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        file.write(head.encode())
        joint = "\n"
        while block := list(islice(lines, ROWS_AT_ONCE)):
            file.write((joint + ",\n".join(block)).encode())
            joint = ",\n"
        file.write(b"\n]}\n")


def _run_log(log: Mapping[str, object]) -> str:
    facts = {
        **log,
        "python": sys.version.split()[0],
        "host": platform.node(),
        "platform": platform.platform(),
    }
    return "".join(f"{key}: {value}\n" for key, value in facts.items())


def find_summaries(path: Path) -> list[Path]:
    """The summary.csv files that a path means: itself if it is no folder, that of a run's folder,
    or all below a folder, sorted; raises SpecError if there are none.
    """
    try:
        if not path.is_dir():
            return [path]
        if (path / SUMMARY).exists():
            return [path / SUMMARY]
        found = sorted(_below(path), key=lambda file: file.relative_to(path))
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    if not found:
        raise SpecError(f"{path}: no summary.csv here or below")
    return found


def _below(path: Path) -> Iterator[Path]:
    """Every summary.csv below a folder, also behind links. Hidden folders are none of results: in
    them results are made ready.
    """

    def fail(error: OSError) -> None:
        raise error

    seen: set[str] = set()
    for folder, below, files in os.walk(path, onerror=fail, followlinks=True):
        real = os.path.realpath(folder)
        if real in seen:  # links may lead in circles
            below.clear()
            continue
        seen.add(real)
        below[:] = [name for name in below if not name.startswith(".")]
        if SUMMARY in files:
            yield Path(folder) / SUMMARY


def read_summary(path: Path) -> list[dict[str, str]]:
    """The rows of a summary.csv (or of a run's folder) as text cells; raises SpecError if it is
    none, or broken.
    """
    file = path / SUMMARY if path.is_dir() else path
    text = read_text(file)
    lines = list(csv_rows(text, str(file)))
    header = lines[0][1] if lines else []
    missing = [name for name in ("run_id", "workload", "topology", "schema") if name not in header]
    if missing:
        raise SpecError(f"{path}: not a summary.csv (no column {', '.join(missing)})")
    if len(lines) == 1:
        raise SpecError(f"{path}: holds no run")
    problems = [
        f"{file}:{line}: {len(cells)} cells, the header has {len(header)}; the file is broken"
        for line, cells in lines
        if len(cells) != len(header)
    ]
    if not problems and not text.endswith("\n"):
        problems = [f"{file}: ends in the middle of a line; the file is broken"]
    if problems:
        raise SpecError(problems)
    return [dict(zip(header, cells, strict=True)) for _, cells in lines[1:]]


def read_bands(path: Path, config_hash: str | None = None) -> dict[str, Any]:
    """The bands of the headlines in the manifest.json of a run's folder, or beside its summary.csv;
    raises SpecError if there are none, or if they are of another run than ``config_hash``.
    """
    file = (path if path.is_dir() else path.parent) / "manifest.json"
    try:
        manifest = json_value(read_text(file))
        found = manifest["bands"]["headlines"]
        parts = [part for band in found.values() for part in band["contributions"]]
        numbers = [band[key] for band in found.values() for key in ("base", "sigma")]
        numbers += [part["effect"] for part in parts]
        if not all(isinstance(number, int | float) for number in numbers):
            raise TypeError
        if not all(isinstance(part["key"], str) for part in parts):
            raise TypeError
    except SpecError as error:
        raise SpecError(f"{error}; --band needs it") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise SpecError(
            f"{file}: holds no bands; run the workload again with this version"
        ) from None
    if config_hash and manifest.get("config_hash", config_hash) != config_hash:
        raise SpecError(
            f"{file}: is of another run than a row of {path}; --band needs the folder of each run"
        )
    return dict(found)


def read_results(path: str | Path) -> pd.DataFrame:
    """The summary rows of a run's folder, a summary.csv, or all runs below a results folder, as a
    DataFrame; raises SpecError if there are none, or if a file is broken.
    """
    import pandas as pd

    files = find_summaries(Path(path))
    for file in files:
        read_summary(file)
    # Only what is empty is missing: a workload may be called NA.
    frames = [pd.read_csv(file, keep_default_na=False, na_values=[""]) for file in files]
    return pd.concat(frames, ignore_index=True)
