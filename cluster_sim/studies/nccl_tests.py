"""Measured times of collectives as benchmarks print them: nccl-tests and what prints like it.

Taken are the table of nccl-tests and rccl-tests of any version, with whatever ``mpirun``, ``srun``
or a log puts before a line; their JSON (``-J`` of nccl-tests, ``-Z json`` of rccl-tests); the
tables of AWS's nccom-test and of Huawei's hccl_test. A file may hold several runs. Source:
NVIDIA/nccl-tests src/util.cu (columns, JSON versions 1 and 2), ROCm/rccl-tests (rows of JSON as
ROCm/cvs reads them), AWS Neuron and CANN documentation of the other two tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from cluster_sim.errors import SpecError

MOST_PROBLEMS = 8  # of a file that are shown
TRIED = (
    "nccl-tests or rccl-tests (rows 'size count type ... time algbw busbw', or its JSON), "
    "nccom-test, hccl_test (rows 'size | time | ...')"
)
# The operation in the name of a benchmark, all_reduce_perf or all_reduce_test -> ours.
OPERATIONS = {
    "all_reduce": "all_reduce",
    "allreduce": "all_reduce",
    "all_gather": "all_gather",
    "allgather": "all_gather",
    "reduce_scatter": "reduce_scatter",
    "reducescatter": "reduce_scatter",
    "all_to_all": "all_to_all",
    "alltoall": "all_to_all",
    "broadcast": "broadcast",
    "reduce": "reduce",
    "sendrecv": "send_recv",
    "alltoallv": "alltoallv",
    "gather": "gather",
    "scatter": "scatter",
    "hypercube": "hypercube",
}
_BENCHMARK = re.compile(rf"(?<![a-z_])({'|'.join(OPERATIONS)})_(?:perf|test)\b")
_COLOURS = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
# Tags of mpirun ([1,0]<stdout>: or XML) and the rank that srun --label puts first.
_TAGS = re.compile(r"</?std(?:out|err|diag)[^>]*>:?|&#0*1[03];|^\s*\d+:(?=\s|\d)")
_TYPES = r"u?int(?:8|32|64)?|u?char|half|float\w*|double|b?fp?\d+\w*|bfloat16"
_ROW = re.compile(rf"(?:^|[\s\]|:])(\d{{1,18}})\s+(\d{{1,18}})\s+({_TYPES})\s+(\S.*)$")
_HCCL = re.compile(
    r"(?:^|[\s\]>:])(\d{1,18})\s*\|\s*(\S+)\s*\|\s*(\S+)\s*\|\s*(success|failed|NULL)"
)
_HEADER = re.compile(r"\bsize\S*\s+count\S*\s+type\b(.*)$")
_RANK = re.compile(r"#\s+Rank\s+(\d{1,7})\s")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|[-+]?nan|[-+]?inf|n/a", re.IGNORECASE)
_TIMES = ("time", "cputime")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """One row: size and time of the out-of-place run (of the in-place one where there is no other).

    ``operation`` and ``ranks`` are those of its run, empty and 0 where the file does not say.
    """

    size_bytes: int
    time_us: float
    operation: str = ""
    ranks: int = 0


def parse_nccl_tests(text: str, shown: str) -> list[Measured]:
    """The rows of a benchmark's output in the order of the file; rows of no bytes are left out.

    Raises SpecError where there are none, naming what was tried, and for times that are not
    positive and finite.
    """
    rows, problems = _of_json(text, shown) if _is_json(text) else _of_table(text, shown)
    if problems:
        more = len(problems) - MOST_PROBLEMS
        rest = [f"and {more} more like these"] if more > 0 else []
        raise SpecError([*problems[:MOST_PROBLEMS], *rest])
    if not rows:
        raise SpecError(f"{shown}: no rows of measured collectives; tried: {TRIED}")
    return rows


def is_benchmark(text: str) -> bool:
    """Whether a text has a row, or the JSON keys, of such a benchmark."""
    if _is_json(text):
        return any(key in text for key in ('"out_of_place"', '"in_place"', '"inPlace"'))
    lines = (_TAGS.sub(" ", _COLOURS.sub("", line)) for line in text.splitlines())
    return any(_cells(line, _Run())[0] is not None for line in lines)


@dataclass(slots=True)
class _Run:
    """What the lines before a row say of it."""

    operation: str = ""
    ranks: int = 0
    columns: list[str] = field(default_factory=list)  # behind the type

    def see(self, line: str) -> None:
        """Take what a line says of the rows that follow."""
        if found := _BENCHMARK.search(line):
            self.operation = OPERATIONS[found[1]]
        if found := _RANK.search(line):
            rank = int(found[1])
            self.ranks = 1 if rank == 0 else max(self.ranks, rank + 1)
        if found := _HEADER.search(line):
            self.columns = [name.partition("(")[0] for name in found[1].lower().split()]

    def time_in(self, numbers: Sequence[str]) -> str:
        """The first time among the numbers behind type and operation of a row: a root may stand
        before it.

        Numbers come once or twice as many as a half of the header has; four without a header.
        """
        half = 4
        times = [place for place, name in enumerate(self.columns) if name in _TIMES]
        if times:
            ends = [place for place, name in enumerate(self.columns) if name == "timestamp"]
            half = [*times, *ends, len(self.columns)][1] - times[0]
        return numbers[len(numbers) % half == 1]


def _of_table(text: str, shown: str) -> tuple[list[Measured], list[str]]:
    rows: list[Measured] = []
    problems: list[str] = []
    run, unnamed = _Run(), 0  # rows from here on have no operation yet
    for number, raw in enumerate(text.splitlines(), 1):
        line = _TAGS.sub(" ", _COLOURS.sub("", raw))
        size, time = _cells(line, run)
        if size is None:
            run.see(line)
            if "concluded" in line and run.operation:  # older versions say it at the end alone
                rows[unnamed:] = [_named(row, run.operation) for row in rows[unnamed:]]
            if "concluded" in line or "starting" in line:
                unnamed = len(rows)
        elif size and time.upper() != "N/A":
            _add(rows, problems, f"{shown}:{number}: time", size, time, run)
    return rows, problems


def _cells(line: str, run: _Run) -> tuple[int | None, str]:
    """Size and time of a row, as they stand there; None for another line."""
    if found := _HCCL.search(line):
        return int(found[1]), found[2]
    found = _ROW.search(line)
    if found is None:
        return None, ""
    words = found[4].split()
    while words and not _NUMBER.fullmatch(words[0]) and words[0].isalpha():
        words.pop(0)  # sum, none ...
    numbers = []
    for word in words:
        if not _NUMBER.fullmatch(word):
            break  # a time stamp
        numbers.append(word)
    return (int(found[1]), run.time_in(numbers)) if len(numbers) >= 3 else (None, "")


def _named(row: Measured, operation: str) -> Measured:
    return Measured(
        size_bytes=row.size_bytes,
        time_us=row.time_us,
        operation=row.operation or operation,
        ranks=row.ranks,
    )


def _add(
    rows: list[Measured], problems: list[str], where: str, size: int, time: object, run: _Run
) -> None:
    """Add a row, or the problem of its time."""
    try:
        value = float(str(time))
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        problems.append(f"{where}: must be > 0 and finite (got {time}); leave the row out")
        return
    rows.append(Measured(size_bytes=size, time_us=value, operation=run.operation, ranks=run.ranks))


def _of_json(text: str, shown: str) -> tuple[list[Measured], list[str]]:
    rows: list[Measured] = []
    problems: list[str] = []
    for document in _documents(text, shown):
        run, results = _Run(), document
        if isinstance(document, dict):
            config = _dict(document, "config")
            for word in (*_list(document, "args")[:1], config.get("collective")):
                run.see(f"{word}_perf" if word in OPERATIONS else str(word))
            run.ranks = len(_list(document, "devices") or _list(config, "devices"))
            results = _list(document, "results")
        found = [row for row in results if isinstance(row, dict)]
        apart = any(row.get("inPlace") in (0, "0", False) for row in found)
        for number, row in enumerate(found):
            where, size = f"{shown}: results.{number}", row.get("size")
            if not isinstance(size, int) or isinstance(size, bool) or size < 0:
                problems.append(f"{where}.size: must be a whole number of bytes (got {size!r})")
                continue
            if apart and row.get("inPlace") in (1, "1", True):
                continue  # rccl-tests has a row for either run
            if isinstance(row.get("name"), str):
                run.see(f"{row['name'].lower()}_perf")
            half = _dict(row, "out_of_place") or _dict(row, "in_place") or row
            time = next((half[key] for key in ("time", "cpu_time") if key in half), None)
            if size and time != "N/A":
                _add(rows, problems, f"{where}.time", size, time, run)
    return rows, problems


def _is_json(text: str) -> bool:
    return re.match(r"\s*(?:\{|\[\s*\{)", text) is not None


def _documents(text: str, shown: str) -> Iterator[Any]:
    """The JSON values of a text, one after the other."""
    decoder, place = json.JSONDecoder(), 0
    while place < len(text):
        if text[place].isspace():
            place += 1
            continue
        try:
            value, place = decoder.raw_decode(text, place)
        except json.JSONDecodeError as error:
            raise SpecError(f"{shown}:{error.lineno}: not valid JSON: {error.msg}") from None
        except (RecursionError, ValueError) as error:
            raise SpecError(f"{shown}: not valid JSON: {error}") from None
        if not isinstance(value, dict | list):
            raise SpecError(f"{shown}: not an object or a list of rows (got {value!r})")
        yield value


def _list(data: dict[str, Any], key: str) -> list[Any]:
    value = data.get(key)
    return value if isinstance(value, list) else []


def _dict(data: dict[str, Any], key: str) -> dict[str, Any]:
    value = data.get(key)
    return value if isinstance(value, dict) else {}
