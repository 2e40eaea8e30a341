"""Requests of a benchmark as a trace: results of vLLM and SGLang, records of AIPerf."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.serving.json_rows import as_object, json_rows, short
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

LENGTHS = ("input_lens", "output_lens")


def read_benchmark(path: Path, text: str, options: TraceOptions) -> Requests:
    """The requests of a result of vLLM's ``bench serve`` (``--save-result --save-detailed``) or of
    SGLang's ``bench_serving`` (``--output-details``), at their ``start_times`` where it has them.

    Requests with an error or without an answer are left out and counted. Raises SpecError for a
    result that has totals only, and for a file of several.
    """
    results = list(json_rows(text, str(path)))
    if len(results) > 1:
        raise SpecError(
            f"{path}: holds {len(results)} results; keep one of them in a file to replay it"
        )
    place, value = results[0]
    try:
        result = as_object(value, form=LENGTHS)
        columns = {key: result.get(key) for key in (*LENGTHS, "start_times", "errors")}
        if any(columns[key] is None for key in LENGTHS):
            raise ValueError(
                f"{' and '.join(LENGTHS)}: missing, these are totals alone; save each request with "
                "--save-detailed (vLLM) or --output-details (SGLang)"
            )
        count = _common_length(columns)
    except ValueError as error:
        raise SpecError(f"{path}:{place}: {error}") from None

    def parse(number: int) -> Row:
        return _request(columns, number)

    lines = ((place, number) for number in range(count))
    rows = collect(path, lines, parse, options, time_key="start_times", order="none")
    return as_requests(rows, options)


def _common_length(columns: dict[str, Any]) -> int:
    """How many requests there are; raises ValueError where lists differ."""
    for key, values in columns.items():
        if values is not None and not isinstance(values, list):
            raise ValueError(f"{key}: must be a list (got {short(values)})")
    counts = {key: len(values) for key, values in columns.items() if values}
    if len(set(counts.values())) > 1:
        told = ", ".join(f"{key} {count}" for key, count in counts.items())
        raise ValueError(f"its lists have different lengths: {told}")
    return max(counts.values(), default=0)


def _request(columns: dict[str, Any], number: int) -> Row:
    at = columns["start_times"][number] if columns["start_times"] else None
    isl, osl = (
        whole(f"{key}[{number}]", columns[key][number], least=least)
        for key, least in zip(LENGTHS, (1, 0), strict=True)
    )
    if osl == 0 or (columns["errors"] and columns["errors"][number]):
        raise FailedRequestError
    at_s = None if at is None else seconds(f"start_times[{number}]", at)
    return Row(at_s=at_s, stamp=at, isl=isl, osl=osl)


def read_aiperf(path: Path, text: str, options: TraceOptions) -> Requests:
    """The records of a run of AIPerf (profile_export.jsonl): starts in ns, counted tokens, turns of
    sessions; requests that failed or were cancelled are left out and counted.

    Source: github.com/ai-dynamo/aiperf, docs/tutorials/working-with-profile-exports.md.
    """
    lines = json_rows(text, str(path))
    rows = collect(path, lines, _record, options, time_key="request_start_ns", order="none")
    return as_requests(rows, options)


def _record(line: object) -> Row:
    value = as_object(line, ("metadata", "metrics"))
    about, metrics = value["metadata"], value["metrics"]
    if not isinstance(about, dict) or not isinstance(metrics, dict):
        raise ValueError("metadata and metrics: must be objects")
    if value.get("error") or about.get("was_cancelled"):
        raise FailedRequestError
    session = about.get("x_correlation_id") or about.get("conversation_id") or ""
    at = about.get("request_start_ns")
    return Row(
        at_s=None if at is None else seconds("metadata.request_start_ns", at) / 1e9,
        stamp=at,
        isl=_tokens(metrics, "input_sequence_length"),
        osl=_tokens(metrics, "output_sequence_length"),
        session=str(session),
    )


def _tokens(metrics: dict[str, Any], name: str) -> int:
    entry = metrics.get(name)
    number = entry.get("value") if isinstance(entry, dict) else entry
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    return whole(f"metrics.{name}", number)
