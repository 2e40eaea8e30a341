"""Errors of replayed cases: per metric, and by what the cases have in common."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from cluster_sim.studies import validate_collectives, validate_operators, validate_training
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import PROFILES, profile_of

HALF_KEY = ("chip", "model", "framework", "weights_dtype", "tp", "attn_dp", "ep", "isl", "osl")
HALVES = ("fit", "score")
SLICED_FLAGS = ("mtp_unknown", "mtp_likely", "derived", "stat_unknown", "preview", "wip")

INTERRUPTED = "interrupted"  # the reason of cases that an interrupted validation did not come to


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """A case with what was simulated for it, or the reason why nothing was.

    ``drafted``: the same with drafts by the model's own MTP layers, where the run does not say
    whether it had them.
    """

    case: Case
    predicted: float | None = None
    reason: str = ""
    detail: str = ""
    drafted: Replayed | None = None

    @property
    def error(self) -> float | None:
        """Simulated over measured, minus 1; None for what is right or wrong."""
        if self.predicted is None or self.case.verdict:
            return None
        return self.predicted / self.case.value - 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Errors of one metric over ``n`` cases, as shares; None where nothing was scored, and the rank
    correlation also where all values are alike. ``right``: the share of verdicts that are the
    measured ones, of metrics that have nothing else.
    """

    n: int
    skipped: int
    median_ape: float | None = None
    mean_ape: float | None = None
    p90_ape: float | None = None
    median_error: float | None = None
    spearman: float | None = None
    right: float | None = None


def half_of(case: Case) -> str:
    """The half that a configuration belongs to: software constants are fitted on ``fit`` alone.

    Model: the first byte of SHA-256 over the columns of ``HALF_KEY``, so that repeats of a
    configuration never lie on both sides; even is fit. Curves of operators and constants of
    collectives were fitted on rows that their modules name.
    """
    if case.kind == "operator":
        return HALVES[not validate_operators.fitted(case)]
    if case.kind == "collective":
        return HALVES[not validate_collectives.fitted(case)]
    if case.kind == "memory":
        return HALVES[case.text("split") != "fit"]
    key = validate_training.HALF_KEY if case.kind == "training" else HALF_KEY
    visible = "|".join(case.text(column) for column in key)
    return HALVES[hashlib.sha256(visible.encode()).digest()[0] % 2]


def operation(case: Case) -> str:
    """Operator or collective."""
    return case.text("op") or case.text("collective")


def _plan(case: Case) -> str:
    if case.kind != "serving":
        return ""
    return "stated" if case.text("tp") or case.text("prefill_tp") else "best plan"


def half(case: Case) -> str:
    """Its half, empty where no constant was fitted to anything of its kind."""
    fits = case.kind != "serving" or case.text("mode") == "closed_loop"
    return half_of(case) if fits else ""


def precision(case: Case) -> str:
    """Dtype of the weights, of a kernel, of what is sent, or of a training step."""
    named = (case.text(name) for name in ("weights_dtype", "dtype", "payload_dtype", "precision"))
    return next(filter(None, named), "")


def framework(case: Case) -> str:
    """Inference engine, library of a collective, or software profile of a training run."""
    if case.kind == "training":
        return validate_training.software_of(case)
    return case.text("library_family") or case.text("framework")


def profile(case: Case) -> str:
    """How the software profile of a serving case was chosen: exact, nearest older, newest."""
    name = case.text("framework")
    if case.kind != "serving" or name not in PROFILES:
        return ""
    return profile_of(name, case.text("framework_version"))[1]


def _setup(case: Case) -> str:
    if case.text("mode") != "closed_loop":
        return ""
    names = (case.text("chip"), case.text("model"), framework(case), precision(case))
    return " ".join(names)


DIMENSIONS: dict[str, Callable[[Case], str]] = {
    "kind": lambda case: case.kind,
    "mode": lambda case: case.text("mode"),
    "half": half,
    "plan": _plan,
    "chip": lambda case: case.text("chip"),
    "model": lambda case: case.text("model"),
    "operation": operation,
    "training": lambda case: validate_training.family(case) if case.kind == "training" else "",
    "precision": precision,
    "framework": framework,
    "profile": profile,
    "source": lambda case: case.text("source"),
    "setup": _setup,
}


def _by_drafts(replayed: Iterable[Replayed]) -> tuple[list[Replayed], list[list[str]]]:
    """Cases by what is known of their drafts, all and by model; those that do not say whether they
    had any stand there twice, as they were replayed without and with them.
    """
    found: list[Replayed] = []
    values: list[list[str]] = []
    for one in replayed:
        pairs: list[tuple[str, Replayed | None]] = []
        if one.case.kind == "serving" and one.case.count("mtp_draft_tokens", 0):
            pairs = [("stated", one)]
        elif one.drafted is not None:
            known = "likely" if "mtp_likely" in one.case.flags else "none stated"
            pairs = [(f"{known}, without", one), (f"{known}, with drafts", one.drafted)]
        for value, played in pairs:
            if played is not None:
                found.append(played)
                values.append([value, f"{one.case.text('model')}, {value}"])
    return found, values


Breakdown = dict[str, dict[str, dict[str, Score]]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Scorecard:
    """Scores by metric, by dimension, value and metric, and skipped cases by reason."""

    metrics: Mapping[str, Score]
    breakdown: Breakdown
    skipped: Mapping[str, int]


def scorecard(replayed: Sequence[Replayed]) -> Scorecard:
    """All scores of some replayed cases."""
    named = metric_names(replayed)
    breakdown: Breakdown = {}
    for dimension, value_of in DIMENSIONS.items():
        groups = _grouped(replayed, [[value_of(one.case)] for one in replayed])
        breakdown[dimension] = {value: _by_metric(group, named) for value, group in groups}
    flags = [[flag for flag in SLICED_FLAGS if flag in one.case.flags] for one in replayed]
    flagged = _grouped(replayed, flags)
    breakdown["flag"] = {value: _by_metric(group, named) for value, group in flagged}
    drafts = _grouped(*_by_drafts(replayed))
    breakdown["mtp"] = {value: _by_metric(group, named) for value, group in drafts}
    reasons: dict[str, int] = {}
    for one in replayed:
        if one.predicted is None:
            reasons[one.reason] = reasons.get(one.reason, 0) + 1
    order = sorted(reasons, key=lambda reason: (-reasons[reason], reason))
    return Scorecard(
        metrics=_by_metric(replayed, named),
        breakdown={name: groups for name, groups in breakdown.items() if groups},
        skipped={reason: reasons[reason] for reason in order},
    )


def metric_names(replayed: Iterable[Replayed]) -> dict[tuple[str, str], str]:
    """What each metric of a kind is called: as in the file, behind its kind where two have it."""
    found = {(one.case.kind, one.case.metric): 0 for one in replayed}
    shared = [metric for _, metric in found]
    return {
        (kind, metric): f"{kind} {metric}" if shared.count(metric) > 1 else metric
        for kind, metric in found
    }


def _grouped(
    replayed: Sequence[Replayed], values: Sequence[Sequence[str]]
) -> list[tuple[str, list[Replayed]]]:
    groups: dict[str, list[Replayed]] = {}
    for one, mine in zip(replayed, values, strict=True):
        for value in mine:
            if value:
                groups.setdefault(value, []).append(one)
    return sorted(groups.items())


def _by_metric(
    replayed: Sequence[Replayed], named: Mapping[tuple[str, str], str]
) -> dict[str, Score]:
    groups: dict[str, list[Replayed]] = {}
    for one in replayed:
        groups.setdefault(named[one.case.kind, one.case.metric], []).append(one)
    return {metric: score(groups[metric]) for metric in sorted(groups)}


def score(replayed: Sequence[Replayed]) -> Score:
    """Errors of cases of one metric."""
    pairs = [
        (one.predicted, max(one.case.value, 0.0) if one.case.verdict else one.case.value)
        for one in replayed
        if one.predicted is not None
    ]
    skipped = len(replayed) - len(pairs)
    if not pairs:
        return Score(n=0, skipped=skipped)
    predicted, measured = (np.array(values) for values in zip(*pairs, strict=True))
    if replayed[0].case.verdict:
        right = float(np.mean(predicted == measured))
        return Score(n=len(pairs), skipped=skipped, right=right)
    error = predicted / measured - 1
    off = np.abs(error)
    return Score(
        n=len(pairs),
        skipped=skipped,
        median_ape=float(np.median(off)),
        mean_ape=float(off.mean()),
        p90_ape=float(np.percentile(off, 90)),
        median_error=float(np.median(error)),
        spearman=spearman(predicted, measured),
    )


def spearman(one: NDArray[np.float64], other: NDArray[np.float64]) -> float | None:
    """Spearman's rank correlation, ties at their mean rank; None if either has no order.

    >>> round(spearman(np.array([1.0, 2.0, 3.0]), np.array([2.0, 1.0, 3.0])), 3)
    0.5
    """
    first, second = _ranks(one), _ranks(other)
    first, second = first - first.mean(), second - second.mean()
    spread = float(np.sqrt((first * first).sum() * (second * second).sum()))
    return float((first * second).sum()) / spread if spread > 0 else None


def as_times(replayed: Sequence[Replayed]) -> list[Replayed]:
    """Training runs by their best measured metric, rates turned into times, so that they can be
    scored together: an error above zero is too slow.
    """
    found = []
    for one in replayed:
        if "primary" not in one.case.flags:
            continue
        if one.case.text("metric") != "step_time_s":
            case = replace(one.case, value=1 / one.case.value)
            one = replace(one, case=case, predicted=one.predicted and 1 / one.predicted)
        found.append(one)
    return found


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    return np.asarray((last - (counts - 1) / 2.0)[place])
