"""Results of benchmarks as measured cases: of vLLM and SGLang, statistics of AIPerf and GenAI-Perf.

Sources of the forms: vllm/benchmarks/serve.py of vllm-project/vllm (``--save-result``),
bench_serving of sgl-project/sglang, docs/tutorials/working-with-profile-exports.md of
ai-dynamo/aiperf.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from cluster_sim.errors import SpecError
from cluster_sim.serving.json_rows import first_object
from cluster_sim.text_file import csv_rows, json_value

# What a result does not say of the machine and the engine; the user does.
ASKED = ("chip", "n_chips", "model", "framework", "weights_dtype")
EXAMPLES = {
    "chip": "h100_sxm",
    "n_chips": "8",
    "model": "llama3.1-8b",
    "framework": "vllm",
    "weights_dtype": "bf16",
    "tp": "8",
    "mode": "closed_loop",
    "isl": "1024",
    "osl": "128",
    "concurrency": "64",
}
BACKENDS = {"vllm": "vllm", "tensorrt-llm": "trtllm", "trt": "trtllm", "lmdeploy": ""}
_RATES = {
    "request_throughput": "requests_per_s",
    "output_throughput": "output_tokens_per_s",
    "total_token_throughput": "total_tokens_per_s",
    "total_throughput": "total_tokens_per_s",
}
_LATENCIES = {"ttft_ms": "ttft", "tpot_ms": "tpot", "e2el_ms": "e2e", "e2e_latency_ms": "e2e"}
_STATS = {"mean": "mean", "median": "p50", "p99": "p99"}
_AIPERF_RATES = {
    "request_throughput": "requests_per_s",
    "output_token_throughput": "output_tokens_per_s",
    "total_token_throughput": "total_tokens_per_s",
}
_AIPERF_LATENCIES = {
    "time_to_first_token": "ttft",
    "ttft": "ttft",  # of the first versions
    "inter_token_latency": "tpot",  # of a request: (latency - TTFT) / (OSL - 1)
    "request_latency": "e2e",
}
_AIPERF_STATS = {"avg": "mean", "p50": "p50", "p99": "p99"}
_MS = {"ms": 1.0, "s": 1e3, "sec": 1e3, "us": 1e-3, "ns": 1e-6}
_LABEL = re.compile(r"\s*(.*?)\s*(?:\(([^)]*)\))?\s*")  # a metric and its unit in a CSV
Row = dict[str, str]


def is_result(text: str) -> bool:
    """Whether a text is a result of a benchmark rather than a table of cases."""
    head = text.lstrip()[:200]
    return head.startswith(("{", "[")) or head.lower().startswith("metric,")


def is_summary(text: str) -> bool:
    """Whether a text is a result of a benchmark that holds figures and no requests to replay."""
    if not is_result(text):
        return False
    try:
        first = first_object(text) if text.lstrip()[0] in "{[" else _statistics(text, "")
        return bool(first and not first.get("input_lens") and _figures(first)[1])
    except (ValueError, SpecError):
        return False


def count_figures(text: str, shown: str) -> int:
    """The measured values of a file of results; raises SpecError for what is none."""
    return sum(len(values) for *_, values in _measured(text, shown))


def result_rows(
    text: str, shown: str, name: str, filled: Mapping[str, str], columns: tuple[str, ...]
) -> list[tuple[int, Row]]:
    """The measured values of a file of results, a row each as in a table of cases, with its line;
    ``filled`` are cells that the results lack.

    Raises SpecError for what is no result, naming what is missing and how to give it.
    """
    rows: list[tuple[int, Row]] = []
    for number, (line, facts, values) in enumerate(_measured(text, shown), 1):
        run = name if number == 1 else f"{name}#{number}"
        facts = _filled(facts, filled, f"{shown}:{line}")
        missing = [key for key in _needed(facts) if not facts.get(key)]
        if missing:
            way = " ".join(f"--fill {key}={EXAMPLES[key]}" for key in missing)
            raise SpecError(
                f"{shown}:{line}: {', '.join(missing)}: not in this result; give what is true of "
                f"it, such as {way}"
            )
        rows += [
            (line, _row(facts, run, metric, value, columns)) for metric, value in values.items()
        ]
    return rows


def _measured(text: str, shown: str) -> Iterator[tuple[int, Row, dict[str, float]]]:
    """Line, facts and figures of each result of a file."""
    for line, result in _results(text, shown):
        try:
            facts, values = _figures(result)
        except ValueError as error:
            raise SpecError(f"{shown}:{line}: {error}") from None
        if not values:
            raise SpecError(
                f"{shown}:{line}: not a result of vLLM, SGLang, AIPerf or GenAI-Perf: it has none "
                f"of {', '.join([*_RATES, 'mean_ttft_ms', *_AIPERF_LATENCIES])}"
            )
        yield line, facts, values


def _figures(result: Mapping[str, Any]) -> tuple[Row, dict[str, float]]:
    """Facts and figures of a result."""
    if "experiments" in result:
        raise ValueError(
            "requests of GenAI-Perf; give the statistics, profile_export_genai_perf.json"
        )
    return _aiperf(result) if _is_aiperf(result) else _serving(result)


def _filled(facts: Row, filled: Mapping[str, str], where: str) -> Row:
    """Facts with what they lack; raises SpecError where a result says something else."""
    for key, cell in filled.items():
        if facts.get(key) and facts[key] != cell:
            raise SpecError(f"{where}: {key}: is {facts[key]} by the result, --fill says {cell}")
    return facts | dict(filled)


def _needed(facts: Mapping[str, str]) -> list[str]:
    mode = facts.get("mode")
    layout = [] if mode in ("offline", "open_loop") else ["tp"]
    load = ["concurrency"] if mode == "closed_loop" else []
    return [*ASKED, "mode", *layout, *load, "isl", "osl"]


def _row(
    facts: Mapping[str, str], run: str, metric: str, value: float, columns: tuple[str, ...]
) -> Row:
    cells = dict.fromkeys(columns, "") | dict(facts)
    return cells | {
        "case_id": f"{run}:{metric}",
        "run_id": run,
        "metric": metric,
        "value": repr(value),
    }


def _results(text: str, shown: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """The results of a file: one of many lines, one a line, a list, or a CSV of statistics."""
    if text.lstrip()[0] not in "{[":
        yield 1, _statistics(text, shown)
        return
    try:
        value = json_value(text, infinite=True)
        values = [(1, one) for one in (value if isinstance(value, list) else [value])]
    except ValueError:
        values = []
        for line, part in enumerate(text.split("\n"), 1):
            if part.strip():
                values.append((line, _loaded(part, f"{shown}:{line}")))
    if not values:
        raise SpecError(f"{shown}: an empty list, no result of a benchmark")
    for line, value in values:
        if not isinstance(value, dict):
            raise SpecError(f"{shown}:{line}: must be an object with the figures of a benchmark")
        yield line, value


def _loaded(text: str, where: str) -> Any:
    """The value in a line; what is not finite is for whoever reads it."""
    try:
        return json_value(text, infinite=True)
    except json.JSONDecodeError as error:
        raise SpecError(f"{where}: not valid JSON: {error.msg}") from None
    except ValueError as error:
        raise SpecError(f"{where}: not valid JSON: {error}") from None


def _statistics(text: str, shown: str) -> dict[str, Any]:
    """The CSV of AIPerf or GenAI-Perf in the form of their JSON: tables one behind the other, each
    with a header that begins with Metric.
    """
    found: dict[str, Any] = {}
    header: list[str] = []
    for _, cells in csv_rows(text, shown):
        if cells[0].strip().lower() == "metric":
            header = [cell.strip().lower() for cell in cells[1:]]
        elif header:
            label = _LABEL.fullmatch(cells[0])
            name, unit = label.groups() if label else (cells[0], "")
            stats = dict(zip(header, cells[1:], strict=False))
            entry = {"avg" if key == "value" else key: cell for key, cell in stats.items()}
            found[name.lower().replace(" ", "_")] = entry | {"unit": unit or ""}
    return found


def _serving(result: Mapping[str, Any]) -> tuple[Row, dict[str, float]]:
    """Facts and metrics of a result of vLLM or SGLang."""
    values = {
        metric: number
        for key, metric in _RATES.items()
        if (number := _number(result, key)) is not None
    }
    for key, latency in _LATENCIES.items():
        for stat, ours in _STATS.items():
            number = _number(result, f"{stat}_{key}")
            if number is not None:
                values[f"{latency}_ms_{ours}"] = number
    completed = _number(result, "completed")
    facts: Row = {}
    for key, ours in (("total_input_tokens", "isl"), ("total_output_tokens", "osl")):
        total = _number(result, key)
        if completed and total:
            facts[ours] = f"{total / completed:.10g}"
    if _number(result, "failed"):
        raise ValueError(
            f"failed: {result['failed']} requests failed, so that its rates are not those of the "
            "load that it states"
        )
    burstiness = _number(result, "burstiness")
    rate, limit = _rate(result.get("request_rate")), _number(result, "max_concurrency")
    if burstiness not in (None, 1.0) and rate is not None:
        raise ValueError(f"burstiness: {burstiness:g}; only Poisson arrivals are replayed")
    facts |= _load(rate, limit)
    facts |= {
        "model": _short_model(result.get("model_id") or result.get("model")),
        "framework": _framework(result.get("backend")),
    }
    for key, ours in (("tensor_parallel_size", "tp"), ("tp", "tp"), ("tp_size", "tp")):
        degree = _number(result, key)
        if degree:
            facts[ours] = f"{degree:g}"
    lengths = [result.get("input_lens"), result.get("output_lens")]
    if all(isinstance(one, list) and one and one.count(one[0]) == len(one) for one in lengths):
        facts["isl_dist"] = "fixed"
    return facts, values


def _load(rate: float | None, limit: float | None) -> Row:
    """How requests came: at a rate, as clients were free, or all at once."""
    if rate is not None and limit:  # the user says which of them was felt
        return {"request_rate_per_s": f"{rate:g}", "concurrency": f"{limit:g}"}
    if rate is not None:
        return {"mode": "open_loop", "request_rate_per_s": f"{rate:g}"}
    if limit:
        return {"mode": "closed_loop", "concurrency": f"{limit:g}"}
    return {"mode": "offline"}


def _rate(value: Any) -> float | None:
    """Requests a second; None for all at once, which is written as infinite."""
    if value in (None, "inf", "Infinity", "-1"):
        return None
    try:
        rate = float(value)
    except (TypeError, ValueError, OverflowError):
        raise ValueError(f"request_rate: must be a number or inf (got {value!r:.60})") from None
    return rate if math.isfinite(rate) and rate > 0 else None


def _framework(backend: Any) -> str:
    """The engine, where the name of the interface says it."""
    name = str(backend or "").lower()
    return "sglang" if name.startswith("sglang") else BACKENDS.get(name, "")


def _short_model(name: Any) -> str:
    """A model of Hugging Face by the name that it has here; empty if it has none."""
    from cluster_sim.specs.find import names

    bare = str(name or "").rsplit("/", 1)[-1].lower()
    bare = re.sub(r"^(meta-)?llama-?(?=\d)", "llama", bare)
    known = names("model")
    while bare:
        if bare in known:
            return bare
        bare = bare.rpartition("-")[0]
    return ""


def _is_aiperf(result: Mapping[str, Any]) -> bool:
    held = _held(result)
    return any(isinstance(held.get(key), dict) for key in (*_AIPERF_LATENCIES, *_AIPERF_RATES))


def _held(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Where the statistics stand: below ``records`` in the first versions of AIPerf."""
    inner = (result.get(key) for key in ("metrics", "records"))
    return next((one for one in inner if isinstance(one, dict)), result)


def _aiperf(result: Mapping[str, Any]) -> tuple[Row, dict[str, float]]:
    """Facts and metrics of the statistics of AIPerf or GenAI-Perf."""
    held = _held(result)
    if "metadata" in result:
        raise ValueError("a record of a request; give the statistics, profile_export_aiperf.json")
    values: dict[str, float] = {}
    for key, metric in _AIPERF_RATES.items():
        number = _stat(held, key, "avg")
        if number is not None:
            values[metric] = number
    for key, latency in _AIPERF_LATENCIES.items():
        entry = held.get(key)
        unit = str(entry.get("unit") or "ms") if isinstance(entry, dict) else "ms"
        if unit not in _MS:
            raise ValueError(f"{key}.unit: must be one of {', '.join(_MS)} (got {unit!r:.40})")
        for stat, ours in _AIPERF_STATS.items():
            number = _stat(held, key, stat)
            if number is not None:
                values[f"{latency}_ms_{ours}"] = number * _MS[unit]
    facts: Row = {}
    for key, ours in (("input_sequence_length", "isl"), ("output_sequence_length", "osl")):
        number = _stat(held, key, "avg")
        if number:
            facts[ours] = f"{number:.10g}"
    config = result.get("input_config")
    rate, clients = (_first(config, name) for name in ("request_rate", "concurrency"))
    if rate is not None or clients is not None:
        facts |= _load(rate, clients)
    model = _first_text(config, ("model_names", "model", "models"))
    return facts | {"model": _short_model(model)}, values


def _stat(held: Mapping[str, Any], key: str, stat: str) -> float | None:
    entry = held.get(key)
    return _number(entry, stat) if isinstance(entry, dict) else None


def _number(held: Mapping[str, Any], key: str) -> float | None:
    """A figure that was measured; None where it is missing or was not. Raises ValueError for what
    is no number.
    """
    value = held.get(key)
    if value is None or value in ("", "N/A"):
        return None
    try:
        number = math.nan if isinstance(value, bool) else float(str(value).replace(",", ""))
    except (ValueError, OverflowError):
        number = math.nan
    if math.isinf(number) or number < 0 or (math.isnan(number) and not isinstance(value, float)):
        raise ValueError(f"{key}: must be a number of at least 0 (got {value!r:.60})")
    return None if math.isnan(number) or number == 0 else number


def _inside(config: Any, depth: int = 6) -> Iterator[tuple[str, Any]]:
    """The keys of nested settings, outer ones first."""
    if depth and isinstance(config, dict):
        yield from config.items()
        for value in config.values():
            yield from _inside(value, depth - 1)
    elif depth and isinstance(config, list):
        for value in config:
            yield from _inside(value, depth - 1)


def _first(config: Any, name: str) -> float | None:
    """The first number of a name in nested settings, in a list of one or not."""
    for key, value in _inside(config):
        if key == name:
            one = value[0] if isinstance(value, list) and len(value) == 1 else value
            if isinstance(one, int | float) and not isinstance(one, bool) and 0 < one < math.inf:
                return float(one)
    return None


def _first_text(config: Any, names: tuple[str, ...]) -> str:
    for key, value in _inside(config):
        one = value[0] if isinstance(value, list) and value else value
        if key in names and isinstance(one, str):
            return one
    return ""
