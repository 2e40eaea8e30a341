"""Runs side by side: what each was, its figures, ratios to the first, and where runs are unlike."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cluster_sim.columns import SCHEMA
from cluster_sim.errors import SpecError
from cluster_sim.studies.compare import (
    FOLLOWS,
    JUDGED,
    STATUSES,
    BandRatio,
    Figure,
    Ratio,
    Row,
    as_number,
    figure,
    ratio_of,
    same_run,
)
from cluster_sim.studies.compare_names import Heading, headings, precision

METRICS = (
    "capacity_requests_per_s",
    "capacity_output_tokens_per_s_per_chip",
    "saturation_output_tokens_per_s_per_chip",
    "output_tokens_per_s",
    "output_tokens_per_s_per_chip",
    "tokens_per_s_per_user",
    "ttft_mean_ms",
    "ttft_p99_ms",
    "tpot_mean_ms",
    "tpot_p99_ms",
    "e2e_p50_ms",
    "slo_attainment",
    "usd_per_m_output_tokens_within_slo",
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
LIMITS = {  # share of the time that each refused work
    "limit_reserved_blocks": "reserved blocks",
    "limit_max_num_seqs": "max_num_seqs",
    "limit_token_budget": "token budget",
    "limit_kv_cache": "KV cache",
    "limit_other_ranks": "other ranks",
}
MONEY = {  # what a price rests on, and what it means when it differs
    "price_basis": "prices differ in basis",
    "price_date": "prices differ in date",
    "price_currency": "prices differ in currency",
    "electricity_usd_per_kwh": "prices of electricity differ",
    "pue": "PUEs differ",
}
OLDEST, JUDGING = 3, 5  # schema that is still read, and the first one with statuses
# Columns of schema 5 that older files lack: they count as empty.
NEW = (
    "usd_per_m_output_tokens_within_slo",
    "rate_asked_per_s",
    "prov_extrapolated",
    *LIMITS,
    *MONEY,
    *(f"{name}_{what}" for name in JUDGED for what in ("status", "error")),
)
MOST_SHOWN = 6  # values in a warning
ROUNDED = ("isl_mean", "osl_mean", "electricity_usd_per_kwh", "pue")  # in a warning
LEAST_SHARE = 0.005  # that is named: less rounds to 0 %
# Columns that must agree for a fair comparison, and what it means when they do not.
MUST_AGREE = {
    "schema": "metric definitions differ (schema)",
    "version": "versions of the program differ",
    "kind": "kinds differ",
    "workload": "workloads differ",
    "model": "models differ",
    "slo": "SLOs differ",
    "isl_mean": "input lengths differ",
    "osl_mean": "output lengths differ",
    "load": "loads differ",
    "seed": "seeds differ",
}
SAMPLED, SAMPLED_ALIKE = ("isl_mean", "osl_mean"), 1.03  # means of what is drawn; 1 % is usual
Cell = str | int | float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ComparedRun:
    """A run: its heading, its row of summary.csv, what it was in words, its figures, and their
    ratios to the first run's (none of the first).
    """

    heading: Heading
    row: Row
    words: Mapping[str, str]
    figures: Mapping[str, Figure]
    ratios: Mapping[str, Ratio]


def check_runs(file: str, rows: Sequence[Row]) -> None:
    """Raise SpecError with every metric of a file that has no column or holds no number, every
    status that is none, and schemas that are not read.
    """
    needed = [name for name in (*METRICS, *MUST_AGREE) if name not in NEW]
    missing = [name for name in needed if name not in rows[0]]
    problems = [f"{file}: no column {', '.join(missing)}"] if missing else []
    errors = [f"{name}_error" for name in JUDGED]
    for line, row in enumerate(rows, start=2):
        schema = as_number(row.get("schema"))
        if schema is None or schema < OLDEST:
            problems.append(
                f"{file}:{line}: schema: must be {OLDEST} or later (got {row.get('schema')}); "
                "run the workload again with this version"
            )
        for name in (*METRICS, *errors):
            text = row.get(name) or ""
            if text and as_number(text) is None:
                problems.append(f"{file}:{line}: {name}: must be a number (got {text})")
        for name, text in row.items():
            if name and name.endswith("_status") and text and text not in STATUSES:
                words = ", ".join(STATUSES)
                problems.append(f"{file}:{line}: {name}: must be one of {words} (got {text})")
    if problems:
        raise SpecError(problems)


def compare_runs(rows: Sequence[Row]) -> tuple[list[ComparedRun], list[str]]:
    """The runs with ratios to the first, and warnings where they are not alike or cannot tell."""
    runs: list[ComparedRun] = []
    for heading, row in zip(headings(rows), rows, strict=True):
        figures = {metric: figure(row, metric) for metric in METRICS}
        ratios = {}
        if runs:
            same = same_run(rows[0], row)
            ratios = {
                metric: ratio_of(runs[0].figures[metric], one, same=same)
                for metric, one in figures.items()
            }
        runs.append(
            ComparedRun(heading=heading, row=row, words=_words(row), figures=figures, ratios=ratios)
        )
    return runs, _warnings(runs)


def _words(row: Row) -> dict[str, str]:
    """What a run was, beside its figures."""
    return {
        "config_hash": row.get("config_hash", "")[:6],
        "plan": row.get("plan", ""),
        "concurrency": row.get("concurrency", ""),
        "rate_asked_per_s": row.get("rate_asked_per_s", ""),
        "requests": row.get("requests", ""),
        "software": row.get("software", ""),
        "precision": precision(row),
        "n_chips": row.get("n_chips", ""),
        "limited_by": limited_by(row),
        "extrapolated": _share(row, "prov_extrapolated"),
    }


def limited_by(row: Row) -> str:
    """What refused work for the largest share of the time, with that share; '' if nothing did."""
    worst = max(LIMITS, key=lambda name: as_number(row.get(name)) or 0.0)
    share = _share(row, worst)
    return f"{LIMITS[worst]} {share}" if share else ""


def _share(row: Row, column: str) -> str:
    share = as_number(row.get(column)) or 0.0
    return f"{share * 100:.0f} %" if share >= LEAST_SHARE else ""


def _near(column: str, values: Sequence[str]) -> bool:
    """Whether mean lengths differ no more than draws of the same distribution do."""
    found = [as_number(value) for value in values] if column in SAMPLED else []
    known = [value for value in found if value is not None]
    return len(known) == len(values) and max(known) <= min(known) * SAMPLED_ALIKE


def _warnings(runs: Sequence[ComparedRun]) -> list[str]:
    """Where runs are not alike, and what their files do not say."""
    found = [
        f"{words}: {_listed(values)}"
        for column, words in MUST_AGREE.items()
        if len(values := _values(runs, column)) > 1 and not _near(column, values)
    ]
    priced = [run for run in runs if any(_priced(run, metric) for metric in METRICS)]
    found += [
        f"{words}: {_listed(values)}"
        for column, words in MONEY.items()
        if len(values := _values(priced, column)) > 1
    ]
    doubts = {
        "schema is newer than this program, columns may mean something else": _newer,
        "statuses unknown (older schema), figures may be bounds or of too short a run": _old,
        "interrupted, figures are of a part of the run": _interrupted,
        "not stable, the queue grows as long as the run lasts": _unstable,
    }
    for words, applies in doubts.items():
        names = [str(run.heading) for run in runs if applies(run)]
        if names:
            found.append(f"{words}: {_listed(names)}")
    return found


def _values(runs: Sequence[ComparedRun], column: str) -> list[str]:
    """The different values of a column, as a warning shows them."""
    texts = list(dict.fromkeys(run.row.get(column) or "" for run in runs))
    return [_rounded(text) for text in texts] if column in ROUNDED else texts


def _rounded(text: str) -> str:
    value = as_number(text)
    return text if value is None else f"{value:.4g}"


def _listed(values: Sequence[str]) -> str:
    shown = [value or "none" for value in values[:MOST_SHOWN]]
    more = [f"and {len(values) - MOST_SHOWN} more"] if len(values) > MOST_SHOWN else []
    return ("; " if any("," in value for value in shown) else ", ").join([*shown, *more])


def _priced(run: ComparedRun, metric: str) -> bool:
    return metric.startswith("usd_") and run.figures[metric].value is not None


def _interrupted(run: ComparedRun) -> bool:
    return run.row.get("partial") == "true"


def _unstable(run: ComparedRun) -> bool:
    return run.row.get("stable") == "false"


def _newer(run: ComparedRun) -> bool:
    return (as_number(run.row.get("schema")) or 0) > max(SCHEMA, JUDGING)


def _old(run: ComparedRun) -> bool:
    return any(
        one.judged and not one.status and one.value is not None for one in run.figures.values()
    )


def flat_rows(
    runs: Sequence[ComparedRun], bands: Sequence[Sequence[BandRatio]] | None = None
) -> list[dict[str, Cell]]:
    """A row a run, None where a run has no such thing; ``bands``: those of each run after the
    first.
    """
    rows = []
    for number, run in enumerate(runs):
        row: dict[str, Cell] = {"run": str(run.heading)}
        row |= {column: _cell(run.row, column) for column in IDENTITY}
        row["limited_by"] = run.words["limited_by"] or None
        for metric in METRICS:
            row |= _flat(metric, run.figures[metric], run.ratios.get(metric, Ratio()))
        if bands is not None:
            mine = {one.headline: one for one in bands[number - 1]} if number else {}
            for name in JUDGED:
                band = mine.get(name)
                row[f"{name}_ratio_low"] = band.low if band else None
                row[f"{name}_ratio_high"] = band.high if band else None
                row[f"{name}_verdict"] = band.verdict if band else None
        rows.append(row)
    return rows


IDENTITY = (
    *("run_id", "config_hash", "kind", "workload", "model", "topology", "n_chips", "chips_used"),
    *("plan", "software", "weights_dtype", "kv_dtype", "load", "concurrency", "rate_asked_per_s"),
    *("requests", "seed", "slo", "price_basis", "price_date", "price_currency"),
    *("prov_extrapolated", "schema"),
)


NUMBERS = (
    *("n_chips", "chips_used", "concurrency", "rate_asked_per_s", "requests", "seed"),
    *("prov_extrapolated", "schema"),
)


def _cell(row: Row, column: str) -> Cell:
    """A cell as its text, or as the number that it holds where the column has numbers."""
    text = row.get(column) or None
    value = as_number(text) if column in NUMBERS else None
    if value is None:
        return text
    return int(value) if value.is_integer() else value


def _flat(metric: str, one: Figure, ratio: Ratio) -> dict[str, Cell]:
    """The columns of a metric: value and ratio, of judged ones what they are worth too."""
    if metric not in JUDGED and metric not in FOLLOWS:
        return {metric: one.value, f"{metric}_ratio": ratio.value}
    return {
        metric: one.value,
        f"{metric}_status": one.status or None,
        f"{metric}_bound": bound(one.side),
        f"{metric}_error": one.error,
        f"{metric}_ratio": ratio.value,
        f"{metric}_ratio_bound": bound(ratio.side),
        f"{metric}_ratio_error": ratio.error,
        f"{metric}_ratio_note": ratio.word or ("status unknown" if ratio.unknown else None),
    }


def bound(side: int) -> str | None:
    """On which side of a value the truth lies; None if the value is not a bound."""
    return {1: ">=", -1: "<="}.get(side)
