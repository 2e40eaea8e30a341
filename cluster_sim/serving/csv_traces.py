"""Traces in CSV files: Azure LLM inference, BurstGPT, Vidur, Splitwise, and the neutral form."""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

from cluster_sim.errors import SpecError, nearest
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.trace_columns import as_requests
from cluster_sim.serving.trace_rows import (
    FailedRequestError,
    Row,
    TraceOptions,
    collect,
    seconds,
    whole,
)

AZURE = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
BURSTGPT = ("Timestamp", "Model", "Request tokens", "Response tokens", "Total tokens", "Log Type")
NEUTRAL = ("arrival_s", "isl", "osl")
NEUTRAL_OPTIONAL = ("session_id", "prefix_id", "prefix_tokens", "slo_class", "priority")
VIDUR = ("num_prefill_tokens", "num_decode_tokens")
SPLITWISE = ("prompt_size", "token_size")
Cells = dict[str | None, str | None]


def read_azure(path: Path, text: str, options: TraceOptions) -> Requests:
    """An Azure LLM inference trace: times to 100 ns, prompt and answer tokens.

    Source: github.com/Azure/AzurePublicDataset, AzureLLMInferenceDataset2023.
    """
    rows = collect(path, _cells(path, text, AZURE), _azure, options, time_key=AZURE[0])
    return as_requests(rows, options)


def read_burstgpt(path: Path, text: str, options: TraceOptions) -> Requests:
    """A BurstGPT trace; rows with 0 response tokens are failed requests, left out and counted.

    A ``Session ID``, where the file has it, makes rows the turns of a session.
    Source: github.com/HPMLL/BurstGPT.
    """
    lines = _cells(path, text, BURSTGPT)
    rows = collect(path, lines, _burstgpt, options, time_key=BURSTGPT[0])
    return as_requests(rows, options, coarse=True)


def read_neutral(path: Path, text: str, options: TraceOptions) -> Requests:
    """The project's own form: ``arrival_s,isl,osl`` and, where known, ``session_id`` (rows of one
    are turns), ``prefix_id`` and ``prefix_tokens`` (the first tokens of the request, which may
    reach into its answer, are shared by all of that id), ``slo_class`` (a class of the workload),
    ``priority``.
    """
    names = [part.name for part in options.classes]

    def parse(cells: Cells) -> Row:
        return _neutral(cells, names)

    lines = _cells(path, text, NEUTRAL, NEUTRAL_OPTIONAL)
    rows = collect(path, lines, parse, options, time_key=NEUTRAL[0])
    return as_requests(rows, options)


def read_vidur(path: Path, text: str, options: TraceOptions) -> Requests:
    """A trace of Vidur: tokens of prompts and answers, and arrivals in s where it has them.

    Source: github.com/microsoft/vidur, data/processed_traces and trace_replay_request_generator.
    """
    return _plain(path, text, options, ("arrived_at", *VIDUR))


def read_splitwise(path: Path, text: str, options: TraceOptions) -> Requests:
    """A trace of Splitwise's simulator: arrivals in s, tokens of prompts and answers.

    Source: github.com/mutinifni/splitwise-sim, traces.
    """
    return _plain(path, text, options, ("arrival_timestamp", *SPLITWISE))


def _plain(path: Path, text: str, options: TraceOptions, names: tuple[str, str, str]) -> Requests:
    """Rows of a time in s, which may be absent, and the lengths of prompt and answer."""
    time, isl, osl = names

    def parse(cells: Cells) -> Row:
        _check_width(cells)
        at = cells.get(time)
        return Row(
            at_s=seconds(time, at) if at else None,
            stamp=at,
            isl=whole(isl, _without_point(cells[isl])),
            osl=whole(osl, _without_point(cells[osl])),
        )

    rows = collect(path, _cells(path, text, (isl, osl)), parse, options, time_key=time)
    return as_requests(rows, options)


def _without_point(cell: str | None) -> str | None:
    """A whole number that was written as a float."""
    return cell.removesuffix(".0") if cell else cell


def csv_objects(text: str, shown: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV text as objects, without what is empty."""
    for line, cells in _cells(Path(shown), text, ()):
        try:
            _check_width(cells)
        except ValueError as error:
            raise SpecError(f"{shown}:{line}: {error}") from None
        yield line, {str(name): cell for name, cell in cells.items() if cell}


def header_of(text: str) -> list[str]:
    """The column names in the first line of a CSV text."""
    try:
        return [name.strip() for name in next(csv.reader(io.StringIO(text)), [])]
    except csv.Error:
        return []


def _cells(
    path: Path, text: str, needed: tuple[str, ...], known: tuple[str, ...] | None = None
) -> Iterator[tuple[int, Cells]]:
    """Lines as cells by column; ``known``: no columns but these and the needed ones."""
    header = header_of(text)
    missing = [name for name in needed if name not in header]
    if missing:
        raise SpecError(
            f"{path}:1: missing column {', '.join(missing)} (found {', '.join(header)}); "
            f"this format has {','.join(needed)}"
        )
    for name in header if known is not None else ():
        if name not in (*needed, *(known or ())):
            near = nearest(name, (*needed, *(known or ())))
            hint = f"; did you mean '{near[0]}'?" if near else ""
            raise SpecError(f"{path}:1: unknown column '{name}'{hint}")
    twice = {name for name, count in Counter(header).items() if count > 1}
    if twice:
        raise SpecError(f"{path}:1: column '{min(twice)}' stands there twice")
    return _lines(path, text, header)


def _lines(path: Path, text: str, header: list[str]) -> Iterator[tuple[int, Cells]]:
    reader = csv.DictReader(io.StringIO(text), fieldnames=header)
    try:
        next(reader)
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:
        raise SpecError(f"{path}:{reader.line_num}: not valid CSV: {error}") from None


def _check_width(cells: Cells) -> None:
    if None in cells:
        raise ValueError(f"more cells than columns (got {cells[None]!r} behind the last)")


def _azure(cells: Cells) -> Row:
    _check_width(cells)
    stamp = cells["TIMESTAMP"]
    try:
        moment = datetime.fromisoformat((stamp or "").strip())
    except ValueError:
        raise ValueError(f"TIMESTAMP: not a time (got {stamp!r})") from None
    return Row(
        at_s=(moment.replace(tzinfo=None) - datetime(2000, 1, 1)).total_seconds(),
        stamp=stamp,
        isl=whole("ContextTokens", cells["ContextTokens"]),
        osl=whole("GeneratedTokens", cells["GeneratedTokens"]),
    )


def _burstgpt(cells: Cells) -> Row:
    _check_width(cells)
    stamp = cells["Timestamp"]
    at_s = seconds("Timestamp", stamp)
    isl = whole("Request tokens", cells["Request tokens"])
    osl = whole("Response tokens", cells["Response tokens"], least=0)
    if osl == 0:
        raise FailedRequestError
    session = (cells.get("Session ID") or "").strip()
    return Row(at_s=at_s, stamp=stamp, isl=isl, osl=osl, session=session)


def _neutral(cells: Cells, classes: list[str]) -> Row:
    _check_width(cells)

    def text(name: str) -> str:
        return (cells.get(name) or "").strip()

    isl, osl = whole("isl", cells["isl"]), whole("osl", cells["osl"])
    prefix = None
    if bool(text("prefix_id")) != bool(text("prefix_tokens")):
        raise ValueError("prefix_id and prefix_tokens: give both or neither")
    if text("prefix_id"):
        tokens = whole("prefix_tokens", text("prefix_tokens"))
        if tokens > isl + osl:
            raise ValueError(f"prefix_tokens: longer than isl + osl = {isl + osl} (got {tokens})")
        prefix = (text("prefix_id"), tokens)
    slo_class = text("slo_class")
    if classes and "slo_class" in cells and slo_class not in classes:
        near = nearest(slo_class, classes)
        hint = f"; did you mean '{near[0]}'?" if near else f"; it has {', '.join(classes)}"
        raise ValueError(f"slo_class: not a class of the workload (got {slo_class!r}){hint}")
    urgency = text("priority")
    return Row(
        at_s=seconds("arrival_s", cells["arrival_s"]),
        stamp=cells["arrival_s"],
        isl=isl,
        osl=osl,
        session=text("session_id"),
        prefix=prefix,
        slo_class=slo_class,
        priority=whole("priority", urgency, least=0) if urgency else None,
    )
