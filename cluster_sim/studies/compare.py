"""Figures of runs with what their status allows to say: values, bounds, ratios and their bands."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cluster_sim.columns import HEADLINES, STEP_HEADLINE
from cluster_sim.uncertainty import REACH, total_sigma

Row = Mapping[str, str]
JUDGED = (*HEADLINES, STEP_HEADLINE)  # the figures with a status of their own
STATUSES = ("ok", "lower_bound", "not_kept", "too_short", "not_applicable")
NO_FIGURE = {  # statuses without a figure that a ratio could use
    "not_kept": "not kept",
    "too_short": "too short",
    "not_applicable": "not applicable",
}
FOLLOWS = {  # figure -> the headline whose status it shares, and whether it falls as that rises
    "capacity_requests_per_s": (HEADLINES[0], False),
    "usd_per_m_output_tokens_within_slo": (HEADLINES[0], True),
    "output_tokens_per_s_per_chip": ("output_tokens_per_s", False),
    "tokens_per_s_per_user": ("tpot_mean_ms", True),
    "ttft_p99_ms": ("ttft_mean_ms", False),
    "tpot_p99_ms": ("tpot_mean_ms", False),
    "e2e_p50_ms": ("ttft_mean_ms", False),
    "train_tokens_per_s_per_chip": (STEP_HEADLINE, True),
    "tflops_per_chip": (STEP_HEADLINE, True),
    "mfu": (STEP_HEADLINE, True),
    "usd_per_step": (STEP_HEADLINE, False),
}
OTHER_ERROR = ("ttft_p99_ms", "tpot_p99_ms", "e2e_p50_ms")  # a percentile errs more than the mean
PER_WORK = ("usd_", "j_")  # what a token costs: more throughput makes it less
AT_SHARE = ("output_tokens_per_s", *PER_WORK)  # what goes with the rate that a run was given
SAMPLING = "sampling "  # how the keys of sampling residuals in a manifest begin
WITHIN_95 = 1.96  # sigma: half-width of the interval that holds 95 % of a normal distribution


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A metric of a run: its value, the status of the headline that it is or follows ('' unknown),
    relative half-width of its 95 % sampling interval, and ``side``: 1 if the truth is at least the
    value, -1 if at most.
    """

    value: float | None
    status: str = ""
    judged: bool = False
    error: float | None = None
    side: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A figure over that of the first run. ``side`` 1: at least so much, -1: at most; ``word``: why
    there is none; ``unknown``: a status behind it is not known.
    """

    value: float | None = None
    side: int = 0
    error: float | None = None
    word: str = ""
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BandRatio:
    """A ratio of headlines, where it lies with 8 in 10 chance (None: open or none), and what that
    says.
    """

    headline: str
    ratio: Ratio
    low: float | None = None
    high: float | None = None
    verdict: str = ""


def as_number(text: str | None) -> float | None:
    """A cell as a finite number; None if it is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def figure(row: Row, metric: str) -> Figure:
    """A metric of a run.

    Model: a figure has the status of the headline that it follows from, unless the row has one of
    its own. A lower bound of a throughput or a time is one of it; of what a token costs, in dollars
    or joules, it is that of the throughput behind it, so the cost is at most the value. A figure
    that falls as its headline rises is bounded from the other side. Of a run at a share of a
    capacity that is a lower bound, throughput and costs are bounds too: the share was smaller.
    """
    headline, falls = FOLLOWS.get(metric, (metric, False))
    if row.get(f"{metric}_status"):
        headline, falls = metric, False
    status, value = row.get(f"{headline}_status") or "", as_number(row.get(metric))
    if status == "ok" and headline.startswith(AT_SHARE) and _at_share_of_a_bound(row):
        status = "lower_bound"
    if headline not in JUDGED and not status:
        return Figure(value=value)
    error = None if metric in OTHER_ERROR else as_number(row.get(f"{headline}_error"))
    side = 0
    if status == "lower_bound":
        side = -1 if headline.startswith(PER_WORK) else 1
        side = -side if falls else side
    return Figure(value=value, status=status, judged=True, error=error, side=side)


def _at_share_of_a_bound(row: Row) -> bool:
    """Whether the traffic of a run was set as a share of a capacity, or of a saturation where there
    is no capacity, that is only a lower bound.
    """
    if not str(row.get("load", "")).endswith("% of capacity"):
        return False
    status = row.get(f"{HEADLINES[0]}_status") or ""
    if status in ("", "not_kept", "not_applicable"):
        status = row.get(f"{HEADLINES[1]}_status") or ""
    return status == "lower_bound"


def ratio_of(base: Figure, other: Figure, *, same: bool = False) -> Ratio:
    """A figure over that of the first run; ``same``: both are of one run.

    Model: at least b over exactly a is at least b / a, exactly b over at least a is at most b / a;
    two bounds on the same side say nothing. Relative errors of independent samples add in squares;
    where runs share a stream of requests that is an upper bound.
    """
    for one, whose in ((other, ""), (base, "first ")):
        if one.status in NO_FIGURE:
            return Ratio(word=whose + NO_FIGURE[one.status])
    if other.value is None or not base.value:
        return Ratio()
    value = other.value / base.value
    if same:
        return Ratio(value=value)
    if other.side and other.side == base.side:
        return Ratio(word="both lower bounds" if other.side > 0 else "both upper bounds")
    error = None
    if base.error is not None and other.error is not None:
        error = math.hypot(base.error, other.error)
    unknown = any(one.judged and not one.status for one in (base, other))
    return Ratio(value=value, side=other.side or -base.side, error=error, unknown=unknown)


def same_run(one: Row, other: Row) -> bool:
    """Whether two rows are of one run: inputs, and with them every number, are the same."""
    return bool(one.get("config_hash")) and one.get("config_hash") == other.get("config_hash")


def compare_bands(
    first: Mapping[str, Any],
    other: Mapping[str, Any],
    first_row: Row | None = None,
    other_row: Row | None = None,
) -> list[BandRatio]:
    """The ratios of another run's headlines to the first's and where they lie with 8 in 10 chance;
    the rows of summary.csv give statuses and sampling errors.

    Model: ln ratio has sigma^2 = sum over residuals of (effect there - effect here)^2: what both
    runs have in common cancels as far as it weighs the same. A difference is significant if the
    band of the ratio leaves out 1. A sampling error that the bands do not hold is a residual of
    the run's own. A bound leaves one end of the band open.
    """
    here_row, there_row = first_row or {}, other_row or {}
    known = first_row is not None and other_row is not None
    found = []
    for name in JUDGED:
        here, there = first.get(name), other.get(name)
        base, value = figure(here_row, name), figure(there_row, name)
        blocked = {base.status, value.status} & {"not_kept", "too_short"}
        if here is None or there is None or not here["base"] or not there["base"]:
            if blocked:
                found.append(_without_band(name, ratio_of(base, value)))
            continue
        ratio = ratio_of(
            _with_value(base, here["base"]),
            _with_value(value, there["base"]),
            same=same_run(here_row, there_row),
        )
        if ratio.value is None:
            found.append(_without_band(name, ratio))
            continue
        effects = _effects(here, name, here_row, -1.0, {})
        effects = _effects(there, name, there_row, 1.0, effects)
        reach = math.exp(REACH * total_sigma(effects.values()))
        found.append(
            BandRatio(
                headline=name,
                ratio=ratio,
                low=None if ratio.side < 0 else ratio.value / reach,
                high=None if ratio.side > 0 else ratio.value * reach,
                verdict=_hedged(verdict(ratio.value, reach, ratio.side), known and ratio.unknown),
            )
        )
    return found


def verdict(ratio: float, reach: float, side: int = 0) -> str:
    """What a ratio says that lies within a factor of ``reach`` with 8 in 10 chance, or at least
    (``side`` 1) or at most (-1) there.
    """
    if ratio == 1 and not side:
        return "no difference"
    if side >= 0 and ratio > reach:
        return "higher"
    if side <= 0 and 1 / ratio > reach:
        return "lower"
    return "undecided: a bound" if side else "not significant"


def _hedged(text: str, unknown: bool) -> str:
    return f"{text}, status unknown" if unknown and text in ("higher", "lower") else text


def _without_band(name: str, ratio: Ratio) -> BandRatio:
    return BandRatio(headline=name, ratio=Ratio(word=ratio.word), verdict=ratio.word)


def _with_value(one: Figure, value: float) -> Figure:
    return Figure(value=value, status=one.status, judged=one.judged, error=one.error, side=one.side)


def _effects(
    band: Mapping[str, Any], name: str, row: Row, sign: float, effects: Mapping[str, float]
) -> dict[str, float]:
    """Effects by residual with those of another run's band added, sampling included."""
    parts = [(str(part["key"]), float(part["effect"])) for part in band["contributions"]]
    error = figure(row, name).error
    if error and not any(key.startswith(SAMPLING) for key, _ in parts):
        parts.append((f"{SAMPLING}{row.get('config_hash') or sign} {name}", error / WITHIN_95))
    total = dict(effects)
    for key, effect in parts:
        total[key] = total.get(key, 0.0) + sign * effect
    return total
