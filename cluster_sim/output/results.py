"""The one place that writes files: a run's folder appears whole or not at all."""

from __future__ import annotations

import contextlib
import csv
import gzip
import json
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster_sim.errors import SpecError
from cluster_sim.text_file import csv_rows, json_value, read_text

if TYPE_CHECKING:
    import pandas as pd

    from cluster_sim.output.timeline import Timeline
    from cluster_sim.result import Result

ROWS_AT_ONCE = 65_536


def check_writable(folder: Path) -> None:
    """Raise SpecError unless result folders can be made in ``folder``; it is not made yet."""
    present = next(path for path in (folder, *folder.absolute().parents) if os.path.lexists(path))
    try:
        with tempfile.TemporaryFile(dir=present):
            pass
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> SpecError:
    return SpecError(f"--out: cannot write to '{folder}': {error.strerror}; choose another folder")


class ResultWriter:
    """Writes results below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(
        self,
        result: Result,
        log: Mapping[str, object] | None = None,
        timeline: Timeline | None = None,
    ) -> Path:
        """Write summary.csv, requests.csv or steps.csv, manifest.json, run.log and, if there is
        one, timeline.json.gz; returns the folder.

        All but run.log have the same bytes for the same inputs. An older folder of the same run is
        replaced, but none that is complete by an interrupted one, which stands beside it as
        ``-partial``.
        """
        name = str(result.summary["run_id"])
        if result.partial and _is_complete(self.folder / name):
            name += "-partial"
        return self._publish(name, lambda to: _fill(to, result, log or {}, timeline))

    def write_tables(
        self,
        run_id: str,
        tables: Mapping[str, Sequence[Mapping[str, object]]],
        manifest: Mapping[str, Any],
        log: Mapping[str, object] | None = None,
        timeline: Timeline | None = None,
    ) -> Path:
        """Write tables by the name of their file, manifest.json, run.log and, if there is one,
        timeline.json.gz; returns the folder, which is as ``write`` makes it.
        """

        def fill(to: Path) -> None:
            for name, rows in tables.items():
                (to / name).write_text(format_csv(rows) if rows else "", encoding="utf-8")
            _fill_about(to, manifest, log or {}, timeline)

        return self._publish(run_id, fill)

    def _publish(self, name: str, fill: Callable[[Path], None]) -> Path:
        """Fill a temporary folder and give it its name; it goes away if that fails."""
        final = self.folder / name
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            staging = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=self.folder))
            try:
                fill(staging)
                staging.chmod(0o755)
            except BaseException:
                shutil.rmtree(staging, ignore_errors=True)
                raise
            _swap(staging, final)
        except OSError as error:
            raise _unwritable(self.folder, error) from None
        return final


def _is_complete(folder: Path) -> bool:
    """Whether a folder holds a run that was not interrupted."""
    try:
        with (folder / "summary.csv").open(encoding="utf-8", newline="") as file:
            return any(row.get("partial") == "false" for row in csv.DictReader(file))
    except (OSError, csv.Error):
        return False


def _fill(to: Path, result: Result, log: Mapping[str, object], timeline: Timeline | None) -> None:
    """The files of a run."""
    with (to / "summary.csv").open("w", newline="", encoding="utf-8") as file:
        file.write(format_csv([result.summary]))
    with (to / f"{result.table}.csv").open("w", newline="", encoding="utf-8") as file:
        _write_columns(file.write, result.requests)
    _fill_about(to, result.manifest, log, timeline)


def _fill_about(
    to: Path, manifest: Mapping[str, Any], log: Mapping[str, object], timeline: Timeline | None
) -> None:
    """What every folder of results has beside its tables."""
    text = json.dumps(manifest, indent=1, sort_keys=True)
    (to / "manifest.json").write_text(text + "\n", encoding="utf-8")
    if timeline is not None:
        _write_timeline(to / "timeline.json.gz", timeline)
    (to / "run.log").write_text(_run_log(log), encoding="utf-8")


def _swap(staging: Path, final: Path) -> None:
    """Give the finished folder its name; an older one is put aside first, then removed.

    Two processes may write the same run: the second finds the first's folder and tries again.
    """
    aside = staging.with_name(f"{staging.name}.old")
    try:
        for _ in range(100):
            try:
                os.replace(staging, final)
                break
            except OSError:
                if not final.is_dir():
                    raise
            with contextlib.suppress(FileNotFoundError):
                os.replace(final, aside)
                shutil.rmtree(aside)
        else:
            raise OSError(0, f"'{final.name}' keeps being rewritten by others")
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def cell(value: object) -> str:
    """A value as a CSV cell: floats by repr, None and NaN empty, booleans in lower case."""
    if value is None or value != value:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else str(value)


def format_csv(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows with equal keys as CSV text with a header."""
    import io

    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(rows[0])
    writer.writerows([cell(value) for value in row.values()] for row in rows)
    return text.getvalue()


def _write_columns(write: Any, columns: Mapping[str, Sequence[object]]) -> None:
    """Columns as CSV; none of the values of requests.csv needs quotes."""
    write(",".join(columns) + "\n")
    texts: list[Iterable[str]] = [_texts(values) for values in columns.values()]
    rows = map(",".join, zip(*texts, strict=True))
    while block := list(islice(rows, ROWS_AT_ONCE)):
        write("\n".join(block) + "\n")


def _write_timeline(path: Path, timeline: Timeline) -> None:
    """The trace as gzipped JSON, an event a line; no clock time in it."""
    encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode
    head = f'{{"displayTimeUnit":"ms","otherData":{encode(timeline.about)},"traceEvents":['
    lines = map(encode, timeline.events)
    with (
        path.open("wb") as raw,
        gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=raw, mtime=0) as file,
    ):
        joint = f"{head}\n"
        while block := list(islice(lines, ROWS_AT_ONCE)):
            file.write((joint + ",\n".join(block)).encode())
            joint = ",\n"
        file.write(b"\n]}\n")


def _texts(values: Sequence[object]) -> Iterable[str]:
    if hasattr(values, "tolist"):  # an array: convert a block at a time, to keep memory low
        blocks = range(0, len(values), ROWS_AT_ONCE)
        return chain.from_iterable(
            _texts(values[at : at + ROWS_AT_ONCE].tolist())  # type: ignore[attr-defined]
            for at in blocks
        )
    first = values[0] if len(values) else None
    if isinstance(first, str):
        return values  # type: ignore[return-value]
    if isinstance(first, float):
        return ("" if value != value else repr(value) for value in values)
    if isinstance(first, bool):
        return ("true" if value else "false" for value in values)
    return map(str, values)


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
        if (path / "summary.csv").exists():
            return [path / "summary.csv"]
        below = [file.relative_to(path) for file in path.rglob("summary.csv") if file.is_file()]
    except OSError as error:
        raise SpecError(f"{path}: cannot be read: {error.strerror}") from None
    # Hidden folders are of runs that are still being written.
    shown = sorted(file for file in below if not any(part.startswith(".") for part in file.parts))
    if not shown:
        raise SpecError(f"{path}: no summary.csv here or below")
    return [path / file for file in shown]


def read_summary(path: Path) -> list[dict[str, str]]:
    """The rows of a summary.csv (or of a run's folder) as text cells; raises SpecError if it is
    none, or broken.
    """
    file = path / "summary.csv" if path.is_dir() else path
    lines = list(csv_rows(read_text(file), str(file)))
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
    DataFrame.
    """
    import pandas as pd

    root = Path(path)
    files = [root] if root.is_file() else sorted(root.glob("summary.csv"))
    files = files or sorted(root.glob("*/summary.csv"))
    if not files:
        raise SpecError(f"{path}: no summary.csv here")
    return pd.concat([pd.read_csv(file) for file in files], ignore_index=True)
