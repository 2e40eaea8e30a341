"""Scores of replayed cases as a page, JSON, CSV and Markdown."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from pathlib import Path

from cluster_sim.output.csv_text import format_csv
from cluster_sim.output.files import write_whole
from cluster_sim.output.tables import grid
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_scores import (
    INTERRUPTED,
    Replayed,
    Score,
    Scorecard,
    as_times,
    framework,
    half,
    operation,
    precision,
    scorecard,
)
from cluster_sim.studies.validate_scores import score as score_of
from cluster_sim.studies.validate_training import FAMILIES, family

FIGURES = ("n", "skipped", "median", "mean", "p90", "signed", "rank")
LONGEST = 38  # characters of a value in a table
MAIN_METRICS = 3  # of each kind, the commonest, in tables by most dimensions
WITH_ALL_METRICS = ("kind", "mode")
WORST = 10  # set-ups in the table of the worst
LEAST_CASES = 4  # of a set-up that is listed


def table(card: Scorecard) -> str:
    """Scores on a page: by metric, by each dimension, the worst set-ups, what was skipped.

    Most dimensions show the commonest metrics only; ``json_text`` and ``csv_text`` have all.
    """
    main = _commonest(card)
    parts = [_block("metric", {"": card.metrics})]
    for dimension, groups in card.breakdown.items():
        if dimension == "setup" or len(groups) < 2:
            continue
        if dimension not in WITH_ALL_METRICS:
            groups = {
                value: {metric: metrics[metric] for metric in main if metric in metrics}
                for value, metrics in groups.items()
            }
        parts.append(_block(dimension, groups))
    parts.append(_versions(card))
    parts.append(_block("worst set-ups", _worst(card)))
    parts.append(_skipped(card))
    return "\n\n".join(part for part in parts if part)


def _commonest(card: Scorecard) -> list[str]:
    """The metrics of each kind of case that most cases have, in the order of all metrics."""
    found: list[str] = []
    for metrics in card.breakdown["kind"].values():
        found += sorted(metrics, key=lambda metric: -metrics[metric].n)[:MAIN_METRICS]
    return [metric for metric in card.metrics if metric in found]


def _block(title: str, groups: Mapping[str, Mapping[str, Score]]) -> str:
    scored = [
        (_short(value), metric, score)
        for value, metrics in groups.items()
        for metric, score in metrics.items()
        if score.n
    ]
    verdicts = any(score.right is not None for *_, score in scored)
    rows = [
        [value, metric, *_cells(score), *([_percent(score.right)] * verdicts)]
        for value, metric, score in scored
    ]
    if not any(row[0] for row in rows):
        rows = [row[1:] for row in rows]
    head = [title] if title == "metric" else [title, "metric"]
    return grid([[*head, *FIGURES, *["right"] * verdicts], *rows]) if rows else ""


def _short(value: str) -> str:
    half = LONGEST // 2 - 1
    return value if len(value) <= LONGEST else f"{value[:half]}...{value[-half:]}"


def _cells(score: Score) -> list[str]:
    errors = (score.median_ape, score.mean_ape, score.p90_ape)
    shown = [_percent(error) for error in errors]
    shown.append("-" if score.median_error is None else f"{score.median_error:+.1%}")
    shown.append("-" if score.spearman is None else f"{score.spearman:.3f}")
    return [str(score.n), str(score.skipped), *shown]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{share:.1%}"


def _worst(card: Scorecard) -> dict[str, dict[str, Score]]:
    """Set-ups with the largest median errors of TPOT."""
    found = {
        value: {metric: score}
        for value, metrics in card.breakdown.get("setup", {}).items()
        for metric, score in metrics.items()
        if metric.startswith("tpot") and score.n >= LEAST_CASES
    }

    def error(value: str) -> float:
        return -next(iter(found[value].values())).median_ape  # type: ignore[operator]

    return {value: found[value] for value in sorted(found, key=error)[:WORST]}


def _versions(card: Scorecard) -> str:
    """How many of the scored serving cases had the profile of their own version."""
    groups = card.breakdown.get("profile", {})
    counts = {how: sum(score.n for score in mine.values()) for how, mine in groups.items()}
    total = sum(counts.values())
    if not total:
        return ""
    shares = ", ".join(f"{how} {count / total:.0%}" for how, count in counts.items())
    return f"Software profile by version, of {total} serving cases scored: {shares}."


def _skipped(card: Scorecard) -> str:
    total = sum(card.skipped.values())
    if not total:
        return "Every case was scored."
    rows = [["not scored", "cases"], *([reason, str(n)] for reason, n in card.skipped.items())]
    return grid([*rows, ["in all", str(total)]])


def json_text(card: Scorecard) -> str:
    """Metrics, breakdown and skipped cases; errors as shares."""
    return json.dumps(asdict(card), indent=1)


def csv_text(card: Scorecard) -> str:
    """A line a score; the first lines, without a dimension, are over all cases."""
    rows = [_line("", "", metric, score) for metric, score in card.metrics.items()]
    for dimension, groups in card.breakdown.items():
        for value, metrics in groups.items():
            rows += [_line(dimension, value, metric, score) for metric, score in metrics.items()]
    return format_csv(rows)


def _line(dimension: str, value: str, metric: str, score: Score) -> dict[str, object]:
    figures = {field.name: getattr(score, field.name) for field in fields(score)}
    return {"dimension": dimension, "value": value, "metric": metric, **figures}


CASE_COLUMNS = (
    *("case_id", "run_id", "file", "line", "kind", "source", "mode", "half", "chip", "model"),
    *("operation", "precision", "framework", "metric", "flags", "measured", "predicted", "error"),
    *("reason", "detail", "predicted_with_drafts"),
)


def cases_csv(replayed: Sequence[Replayed]) -> str:
    """A line a case: measured, predicted, error, or the reason why there is none."""
    rows = []
    for one in replayed:
        case = one.case
        cells: tuple[object, ...] = (
            *(case.case_id, case.run_id, case.file, case.line, case.kind, case.text("source")),
            *(case.text("mode"), half(case), case.text("chip"), case.text("model")),
            *(operation(case), precision(case), framework(case), case.metric),
            *(";".join(case.flags), case.value, one.predicted, one.error),
            *(one.reason, one.detail, one.drafted and one.drafted.predicted),
        )
        rows.append(dict(zip(CASE_COLUMNS, cells, strict=True)))
    return format_csv(rows, CASE_COLUMNS)


def write_cases(path: Path, replayed: Sequence[Replayed]) -> Path:
    """Write ``cases_csv`` whole or not at all; returns the file. Of an interrupted validation that
    is ``-partial`` beside the path if a whole one, or anything else, stands there. Raises SpecError
    if it cannot be written.
    """
    if any(one.reason == INTERRUPTED for one in replayed) and _is_whole(path):
        path = path.with_name(f"{path.stem}-partial{path.suffix}")
    write_whole(path, cases_csv(replayed), "--out")
    return path


def _is_whole(path: Path) -> bool:
    """Whether there is a file that is none of an interrupted validation."""
    if not path.is_file():
        return False
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return all(row.get("reason") != INTERRUPTED for row in csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return True


# What a serving case measures: words and how its metrics begin.
_RATE = ("throughput", ("output", "total", "requests", "input"))
_TPOT = ("step time of a decode (TPOT)", ("tpot",))
_TTFT = ("time to the first token", ("ttft",))
_E2E = ("whole request (E2E)", ("e2e", "latency"))
# What stands in the short table: what, words for the mode, mode, plan. All modes and all that is
# measured in them, the worst included.
_SHORT = (
    (_TPOT, "closed loop", "closed_loop", "stated"),
    (_TTFT, "closed loop", "closed_loop", "stated"),
    (_E2E, "closed loop", "closed_loop", "stated"),
    (_RATE, "closed loop", "closed_loop", "stated"),
    (_RATE, "all requests queued", "offline", "stated"),
    (_RATE, "static batch", "static_batch", "stated"),
    (_TTFT, "static batch", "static_batch", "stated"),
    (_TPOT, "open loop at a stated rate", "open_loop", "stated"),
    (_TTFT, "open loop at a stated rate", "open_loop", "stated"),
    (_E2E, "open loop at a stated rate", "open_loop", "stated"),
    (_RATE, "open loop at a stated rate", "open_loop", "stated"),
    (_RATE, "MLPerf offline, best plan", "offline", "best plan"),
    (_RATE, "MLPerf server and interactive, best plan", "open_loop", "best plan"),
    (_TPOT, "MLPerf at the submitter's rate, best plan", "open_loop", "best plan"),
    (_TTFT, "MLPerf at the submitter's rate, best plan", "open_loop", "best plan"),
)
_MEMORY = {"weights_gib_per_gpu": "weights", "kv_gib_per_gpu": "cache"}
# Runs that state drafts stand apart, since nobody says how many were accepted.
_DRAFTED = "whatever is measured, drafts stated"
_COLUMNS = "| | cases | median error | 90th percentile | signed median | rank correlation |"
_RULE = "|---|---:|---:|---:|---:|---:|"


def markdown(replayed: Sequence[Replayed]) -> str:
    """The generated part of docs/accuracy.md: a short table between markers, then slices."""
    card = scorecard(replayed)
    closed = scorecard([one for one in replayed if one.case.text("mode") == "closed_loop"])
    parts = ["<!-- accuracy table -->", _short_table(replayed), "<!-- end of accuracy table -->"]
    parts += ["## All metrics by mode", _wide(card, "mode"), "## Halves", _wide(closed, "half")]
    for dimension in ("chip", "model", "precision", "framework", "flag", "mtp"):
        parts += [f"## Closed loop by {dimension}", _wide(closed, dimension)]
    parts += ["## Closed loop by how the version's profile was chosen", _wide(closed, "profile")]
    parts += [_versions(card), "## Closed loop, worst set-ups", _wide_of(_worst(card))]
    offline = scorecard([one for one in replayed if one.case.text("mode") == "offline"])
    for dimension in ("chip", "model", "source"):
        parts += [f"## Offline by {dimension}", _wide(offline, dimension)]
    alone = scorecard([one for one in replayed if one.case.kind in ("operator", "collective")])
    for dimension in ("operation", "half"):
        parts += [f"## Operators and collectives by {dimension}", _wide(alone, dimension)]
    parts += _training(replayed)
    parts += _memory(replayed)
    parts += ["## Not scored", "| reason | cases |\n|---|---:|"]
    lines = [f"| {reason} | {count} |" for reason, count in card.skipped.items()]
    parts[-1] = "\n".join([parts[-1], *lines])
    return "\n\n".join(part for part in parts if part)


def short_row(case: Case) -> str:
    """The line of the short table that a serving case is in; empty for none."""
    if case.kind == "serving" and case.count("mtp_draft_tokens", 0):
        return _DRAFTED
    mine = (case.text("mode"), "stated" if case.text("tp") else "best plan")
    for what, how, *its in _SHORT:
        if mine == tuple(its) and case.text("metric").startswith(what[1]):
            return f"{what[0]}, {how}"
    return ""


def _short_table(replayed: Sequence[Replayed]) -> str:
    lines = [_COLUMNS, _RULE]
    groups: dict[str, list[Replayed]] = {}
    for one in replayed:
        groups.setdefault(short_row(one.case), []).append(one)
    for words in [*(f"{what[0]}, {how}" for what, how, _, _ in _SHORT), _DRAFTED]:
        lines += _short_line(words, groups.get(words, []))
    runs = as_times([one for one in replayed if one.case.kind == "training"])
    for name in FAMILIES:
        mine = [one for one in runs if family(one.case) == name and half(one.case) == "score"]
        lines += _short_line(f"training step, {name}, half that no constant was fitted to", mine)
    for kind, words in (("operator", "kernels alone"), ("collective", "collectives alone")):
        mine = [one for one in replayed if one.case.kind == kind]
        mine = [one for one in mine if one.case.text("metric") == "time_us"]
        lines += _short_line(f"{words}, all", mine)
        kept = [one for one in mine if half(one.case) == "score"]
        lines += _short_line(f"{words}, no constant fitted to them", kept)
    for metric, words in _MEMORY.items():
        mine = [one for one in replayed if one.case.metric == metric and half(one.case) == "score"]
        lines += _short_line(f"{words} in start-up logs, no constant fitted to them", mine)
    return "\n".join(lines)


def _memory(replayed: Sequence[Replayed]) -> list[str]:
    """What start-up logs say of memory: errors, and how often whether an engine starts is right."""
    card = scorecard([one for one in replayed if one.case.kind == "memory"])
    lines = [
        f"| {value} | `{metric}` | {score.n} | {score.skipped} | {_percent(score.median_ape)} | "
        f"{_percent(score.p90_ape)} | {_percent(score.median_error)} | {_percent(score.right)} |"
        for value, metrics in card.breakdown.get("half", {}).items()
        for metric, score in metrics.items()
        if score.n
    ]
    head = "| half | metric | cases | not scored | median | 90th percentile | signed | right |"
    rule = "|---|---|---:|---:|---:|---:|---:|---:|"
    return ["## Memory in start-up logs", "\n".join([head, rule, *lines])] if lines else []


def _training(replayed: Sequence[Replayed]) -> list[str]:
    """Training runs, each by its best measured metric as a time."""
    runs = as_times([one for one in replayed if one.case.kind == "training"])
    if not any(one.predicted is not None for one in runs):
        return []
    parts = []
    for title, value_of in (
        ("kind and half", lambda one: f"{family(one.case)}, {half(one.case)}"),
        ("kind and chip", lambda one: f"{family(one.case)}, {one.case.text('chip')}"),
        ("kind and precision", lambda one: f"{family(one.case)}, {precision(one.case)}"),
        ("model", lambda one: one.case.text("model")),
        ("software profile", lambda one: framework(one.case)),
        ("source", lambda one: one.case.text("source")),
    ):
        groups: dict[str, list[Replayed]] = {}
        for one in runs:
            groups.setdefault(value_of(one), []).append(one)
        lines = [line for value in sorted(groups) for line in _short_line(value, groups[value])]
        parts += [f"## Training by {title}", "\n".join([_COLUMNS, _RULE, *lines])]
    return parts


def _short_line(words: str, replayed: Sequence[Replayed]) -> list[str]:
    if not any(one.predicted is not None for one in replayed):
        return []
    n, _, median, _, high, signed, rank = _cells(score_of(replayed))
    return [f"| {words} | {n} | {median} | {high} | {signed} | {rank} |"]


def _wide(card: Scorecard, dimension: str) -> str:
    return _wide_of(card.breakdown.get(dimension, {}))


def _wide_of(groups: Mapping[str, Mapping[str, Score]]) -> str:
    lines = []
    for value, metrics in groups.items():
        for metric, score in metrics.items():
            if score.n:
                cells = _cells(score)
                del cells[3]
                lines.append(f"| {value} | `{metric}` | {' | '.join(cells)} |")
    head = "| | metric | cases | not scored | median | 90th percentile | signed | rank |"
    return "\n".join([head, "|---|---|---:|---:|---:|---:|---:|---:|", *lines]) if lines else ""
