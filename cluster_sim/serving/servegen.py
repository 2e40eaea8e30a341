"""Client mixes in ServeGen's form: clients whose rate, burstiness and lengths change by windows.

A client is a pair of files: ``chunk-*-trace.csv`` without a header (start of a window in s,
requests/s, CV of the gaps, family of the gaps, its shape, its scale) and ``chunk-*-dataset.json``
(start of a window -> histograms of lengths). Source: github.com/alibaba/ServeGen.
"""

from __future__ import annotations

import ast
import math
from bisect import bisect_right
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.serving.requests import FloatArray, IntArray, Requests
from cluster_sim.serving.trace_rows import TraceOptions, read_text, refuse_bad, seconds, whole
from cluster_sim.specs.constraints import MOST_REQUESTS
from cluster_sim.specs.find import Files
from cluster_sim.text_file import csv_rows, parse_json

DEFAULT_REQUESTS = 10_000  # of two weeks of traffic, unless a number or a duration is given
LAST_WINDOW_S = 600.0  # length of a lone window: the trace gives starts only; assumed
SETTLING = 200.0  # mean gaps that a client's arrivals run before the first window counts
SHALLOW = 0.02  # the smallest shape: below it gaps are infinite or nothing
FAMILIES = ("Gamma", "Weibull", "")


@dataclass(frozen=True, slots=True)
class _Window:
    """Traffic of one client from ``start_s`` on; gaps of ``family`` and ``shape`` with mean
    1/rate.
    """

    start_s: float
    end_s: float
    rate: float
    family: str
    shape: float

    def gaps(self, count: int, rng: np.random.Generator) -> FloatArray:
        """Gaps in units of the mean gap."""
        if self.family == "Gamma":
            return rng.gamma(self.shape, 1.0 / self.shape, count)
        if self.family == "Weibull":
            return rng.weibull(self.shape, count) / math.gamma(1.0 + 1.0 / self.shape)
        return rng.exponential(1.0, count)


@dataclass(slots=True)
class _Client:
    """One client: its windows, its histograms, and where its arrivals stand.

    Arrivals are a renewal process in operational time (expected requests so far), so that windows
    join without a seam: ``next_at`` is the next arrival's distance from the current window's start.
    """

    windows: list[_Window]
    histograms: dict[str, list[tuple[float, str]]]
    rng: np.random.Generator
    next_at: float | None = None
    parsed: dict[tuple[str, float], tuple[IntArray, FloatArray]] = field(default_factory=dict)

    def arrivals(self, window: _Window) -> FloatArray:
        """Times (s) of the arrivals of the next window that has any traffic."""
        expected = window.rate * (window.end_s - window.start_s)
        if self.next_at is None:
            self.next_at = self._settled(window)
        points = [np.array([self.next_at])]
        while points[-1][-1] < expected:
            more = window.gaps(int(expected / 8) + 64, self.rng)
            points.append(points[-1][-1] + np.cumsum(more))
        every = np.concatenate(points)
        inside: FloatArray = every[every < expected]
        self.next_at = float(every[len(inside)]) - expected
        return window.start_s + inside / window.rate

    def _settled(self, window: _Window) -> float:
        at = -SETTLING
        while at < 0:
            ahead = at + np.cumsum(window.gaps(256, self.rng))
            past = ahead[ahead >= 0]
            at = float(past[0]) if len(past) else float(ahead[-1])
        return at

    def lengths(self, name: str, at_s: float, count: int) -> IntArray:
        """Token counts by the histogram in force: the latest that is not empty, else the first."""
        filled = self.histograms[name]
        place = max(0, bisect_right([start for start, _ in filled], at_s) - 1)
        key = (name, filled[place][0])
        if key not in self.parsed:
            self.parsed[key] = _parse_histogram(filled[place][1])
        tokens, upto = self.parsed[key]
        drawn: IntArray = tokens[np.searchsorted(upto, self.rng.random(count) * upto[-1], "right")]
        return drawn


def chunk_files(folder: Path) -> list[tuple[Path, Path]]:
    """The pairs of files of all clients, by name; raises SpecError if there are none."""
    traces = sorted(folder.glob("*chunk-*-trace.csv"))
    if not traces:
        raise SpecError(f"{folder}: a folder without chunk-*-trace.csv files is not a trace")
    return [(t, t.with_name(t.name.removesuffix("trace.csv") + "dataset.json")) for t in traces]


def read_servegen(folder: Path, options: TraceOptions, files: Files | None = None) -> Requests:
    """Requests of all clients together, in order of time, as many as are wanted.

    Model: each client's gaps are drawn from the family and shape of the window, scaled to its rate
    (an empty family is exponential); prompts and answers are drawn independently, since only their
    separate histograms are known. Windows are played as far as needed. A client that is broken, or
    has no histogram, is an error, or left out and counted.
    """
    clients: list[_Client] = []
    problems: list[str] = []
    pairs = chunk_files(folder)
    streams = np.random.SeedSequence(options.seed).spawn(len(pairs))
    for (trace, dataset), stream in zip(pairs, streams, strict=True):
        try:
            windows = _read_windows(trace, files)
            histograms = _read_histograms(dataset, files)
            clients.append(_Client(windows, histograms, np.random.default_rng(stream)))
        except SpecError as error:
            problems.append(str(error))
    bad = refuse_bad(problems, options)
    limit = options.limit
    if limit is None and options.until_s is None:
        limit = DEFAULT_REQUESTS
    at_s, isl, osl = _play(clients, limit, options.until_s)
    if not len(at_s):
        raise SpecError(f"{folder}: no usable request in this trace")
    return Requests(at_s - at_s[0], isl, osl, skipped_rows=bad)


def _play(
    clients: list[_Client], limit: int | None, until_s: float | None
) -> tuple[FloatArray, IntArray, IntArray]:
    """Window by window in order of their starts, until nothing that is still wanted can come."""
    busy = [
        (window.start_s, number, window)
        for number, client in enumerate(clients)
        for window in client.windows
        if window.rate > 0
    ]
    busy.sort(key=lambda entry: entry[:2])
    begin_s, total = (busy[0][0] if busy else 0.0), 0
    times: list[FloatArray] = []
    prompts: list[IntArray] = []
    answers: list[IntArray] = []
    for start_s, number, window in busy:
        if until_s is not None and start_s - begin_s > until_s:
            break
        if limit is not None and total >= limit:
            before = sum(int((part < start_s).sum()) for part in times)
            if before >= limit:
                break
        client = clients[number]
        expected = total + window.rate * (window.end_s - window.start_s)
        if expected > MOST_REQUESTS:
            raise SpecError(
                f"rate: {window.rate:g} requests/s from {start_s:g} s to {window.end_s:g} s make "
                f"more than {MOST_REQUESTS:,} requests in all; give a shorter --duration"
            )
        arrived = client.arrivals(window)
        total += len(arrived)
        times.append(arrived)
        prompts.append(client.lengths("input_tokens", start_s, len(arrived)))
        answers.append(client.lengths("output_tokens", start_s, len(arrived)))
    if not times:
        return np.empty(0), np.empty(0, np.int64), np.empty(0, np.int64)
    at_s = np.concatenate(times)
    order = np.argsort(at_s, kind="stable")[:limit]
    at_s = at_s[order]
    isl, osl = np.concatenate(prompts)[order], np.concatenate(answers)[order]
    keep = len(at_s) if until_s is None else int((at_s - begin_s <= until_s).sum())
    return at_s[:keep], isl[:keep], osl[:keep]


def _read_windows(path: Path, files: Files | None) -> list[_Window]:
    found: list[tuple[float, float, str, float]] = []
    for number, row in csv_rows(read_text(path, files), str(path)):
        try:
            found.append(_window_cells(row))
            if len(found) > 1 and found[-1][0] <= found[-2][0]:
                raise ValueError(f"start: must grow (got {row[0]!r})")
        except ValueError as error:
            raise SpecError(f"{path}:{number}: {error}") from None
    starts = [start for start, *_ in found]
    last = starts[-1] - starts[-2] if len(starts) > 1 else LAST_WINDOW_S
    ends = [*starts[1:], starts[-1] + last]
    return [
        _Window(start, end, rate, family, shape)
        for (start, rate, family, shape), end in zip(found, ends, strict=True)
    ]


def _window_cells(row: list[str]) -> tuple[float, float, str, float]:
    if len(row) != 6:
        raise ValueError(f"must be start,rate,cv,family,shape,scale (got {len(row)} cells)")
    start, rate, shape = seconds("start", row[0]), seconds("rate", row[1]), 1.0
    seconds("cv", row[2])
    family = row[3].strip()
    if family not in FAMILIES:
        raise ValueError(f"family: must be Gamma, Weibull or empty (got {row[3]!r})")
    if family:
        shape = seconds("shape", row[4])
        seconds("scale", row[5])
        if rate > 0 and shape < SHALLOW:
            raise ValueError(f"shape: must be at least {SHALLOW} (got {row[4]!r})")
    return start, rate, family, shape


def _read_histograms(path: Path, files: Files | None) -> dict[str, list[tuple[float, str]]]:
    """Per field: the windows whose histogram is not empty, with its text."""
    data = parse_json(read_text(path, files), str(path))
    if not isinstance(data, dict):
        raise SpecError(f"{path}: must be an object of windows (got a {type(data).__name__})")
    filled: dict[str, list[tuple[float, str]]] = {"input_tokens": [], "output_tokens": []}
    for start, fields in data.items():
        try:
            at_s = seconds("window", start)
            if not isinstance(fields, dict):
                raise ValueError(f"{start}: must be an object (got {fields!r:.60})")
            for name, windows in filled.items():
                text = fields.get(name)
                if not isinstance(text, str):
                    raise ValueError(f"{start}.{name}: must be a text of a histogram")
                if text.strip(" {}"):
                    _parse_histogram(text, f"{start}.{name}")
                    windows.append((at_s, text))
        except ValueError as error:
            raise SpecError(f"{path}: {error}") from None
    for name, windows in filled.items():
        if not windows:
            raise SpecError(f"{path}: {name}: no histogram in any window")
        windows.sort()
    return filled


def _parse_histogram(text: str, key: str = "") -> tuple[IntArray, FloatArray]:
    """``{length: probability}`` as lengths and cumulative probabilities."""
    try:
        pairs = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        pairs = None
    if not isinstance(pairs, dict) or not pairs:
        raise ValueError(f"{key}: must be a text such as '{{50: 0.2, 51: 0.8}}' (got {text!r:.60})")
    tokens = [whole(key, tokens) for tokens in pairs]
    upto = np.cumsum([seconds(key, share) for share in pairs.values()])
    if not upto[-1] > 0:
        raise ValueError(f"{key}: the probabilities add up to {upto[-1]:g}")
    return np.array(tokens, dtype=np.int64), upto
