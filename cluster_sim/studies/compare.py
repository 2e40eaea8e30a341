"""Runs side by side: their main metrics and the ratios to the first."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from cluster_sim.columns import HEADLINES, STEP_HEADLINE
from cluster_sim.errors import SpecError
from cluster_sim.uncertainty import REACH, total_sigma

WORDS = ("plan", "weights_dtype")  # the metrics that are no numbers
METRICS = (
    *WORDS,
    "capacity_requests_per_s",
    "capacity_output_tokens_per_s_per_chip",
    "saturation_output_tokens_per_s_per_chip",
    "output_tokens_per_s",
    "output_tokens_per_s_per_chip",
    "ttft_mean_ms",
    "ttft_p99_ms",
    "tpot_mean_ms",
    "tpot_p99_ms",
    "e2e_p50_ms",
    "slo_attainment",
    "usd_per_m_output_tokens",
    "j_per_output_token",
    "step_time_s",
    "train_tokens_per_s_per_chip",
    "tflops_per_chip",
    "mfu",
    "mem_peak_gib",
    "usd_per_step",
    "power_w",
)
MOST_SHOWN = 6  # values in a warning
# Columns that must agree for a fair comparison, and what it means when they do not.
MUST_AGREE = {
    "schema": "metric definitions differ (schema)",
    "workload": "workloads differ",
    "model": "models differ",
    "slo": "SLOs differ",
    "isl_mean": "input lengths differ",
    "osl_mean": "output lengths differ",
    "load": "loads differ",
    "seed": "seeds differ",
}


def check_runs(file: str, rows: Sequence[Mapping[str, str]]) -> None:
    """Raise SpecError with every metric of a file that has no column or holds no number."""
    missing = [name for name in (*METRICS, *MUST_AGREE) if name not in rows[0]]
    problems = [f"{file}: no column {', '.join(missing)}"] if missing else []
    for line, row in enumerate(rows, start=2):
        for name in METRICS:
            text = row.get(name) or ""
            if name not in WORDS and text and _float(text) is None:
                problems.append(f"{file}:{line}: {name}: must be a number (got {text})")
    if problems:
        raise SpecError(problems)


def compare_runs(rows: Sequence[Mapping[str, str]]) -> tuple[list[list[str]], list[str]]:
    """A table (header, then a line a metric) and warnings where the runs are not alike.

    Each run after the first has two columns: its value, and the ratio to the first run's.
    """
    header = ["metric", _label(rows[0])]
    for row in rows[1:]:
        header += [_label(row), "ratio"]
    table = [header]
    for metric in METRICS:
        values = [row.get(metric, "") or "" for row in rows]
        if not any(values):
            continue
        line = [metric, _shown(values[0])]
        for value in values[1:]:
            line += [_shown(value), _ratio(value, values[0])]
        table.append(line)
    warnings = []
    for column, words in MUST_AGREE.items():
        found = list(dict.fromkeys(row.get(column, "") or "" for row in rows))
        if len(found) > 1:
            shown = [_shown(value) or "none" for value in found[:MOST_SHOWN]]
            more = [f"and {len(found) - MOST_SHOWN} more"] if len(found) > MOST_SHOWN else []
            warnings.append(f"{words}: {', '.join([*shown, *more])}")
    return table, warnings


def compare_bands(first: Mapping[str, Any], other: Mapping[str, Any]) -> list[list[str]]:
    """A table (header, then a line a headline) of the ratio of another run to the first and where
    it lies with 8 in 10 chance.

    Model: ln ratio has sigma^2 = sum over residuals of (effect there - effect here)^2: what both
    runs have in common cancels as far as it weighs the same. A difference is significant if the
    band of the ratio leaves out 1.
    """
    table = [["headline", "ratio", "low", "high", ""]]
    for name in (*HEADLINES, STEP_HEADLINE):
        here, there = first.get(name), other.get(name)
        if here is None or there is None or not here["base"] or not there["base"]:
            continue
        effects: dict[str, float] = {}
        for sign, band in ((-1.0, here), (1.0, there)):
            for part in band["contributions"]:
                effects[part["key"]] = effects.get(part["key"], 0.0) + sign * part["effect"]
        ratio = there["base"] / here["base"]
        reach = math.exp(REACH * total_sigma(effects.values()))
        table.append(
            [
                name,
                *(f"{value:.3f}" for value in (ratio, ratio / reach, ratio * reach)),
                verdict(ratio, reach),
            ]
        )
    return table


def verdict(ratio: float, reach: float) -> str:
    """What a ratio says that lies within a factor of ``reach`` with 8 in 10 chance."""
    if ratio == 1:
        return "no difference"
    if max(ratio, 1 / ratio) <= reach:
        return "not significant"
    return "higher" if ratio > 1 else "lower"


def _label(row: Mapping[str, str]) -> str:
    return f"{row['workload']}@{row['topology']}"


def _float(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _shown(text: str) -> str:
    value = _float(text)
    return text if value is None else f"{value:.4g}"


def _ratio(text: str, base: str) -> str:
    value, first = _float(text), _float(base)
    if value is None or not first:
        return ""
    return f"{value / first:.2f}"
