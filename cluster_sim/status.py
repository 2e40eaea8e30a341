"""What a run supports: the status and the sampling error of each headline, and the laws that its
figures keep.

Statuses: ``ok``; ``lower_bound`` (the truth is no smaller; of a cost, no larger); ``not_kept`` (no
rate keeps the SLO); ``too_short`` (no figure: the run does not tell); ``not_applicable`` (the run
has no such figure).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from cluster_sim.columns import HEADLINES, LIMITS
from cluster_sim.errors import SimulationError
from cluster_sim.facts import Facts
from cluster_sim.kernels.counts import flop_per_token
from cluster_sim.metrics import FloatArray, Latencies
from cluster_sim.overload import Trend
from cluster_sim.serving.service import Run
from cluster_sim.window import BATCHES, Steady, batches_for, relative_error, tokens_in

MOST_ERROR = 0.1  # half of a 95 % interval: beyond it there is no figure
SLACK = 1e-9  # relative: rounding in comparisons of figures that are equal


@dataclass(frozen=True, slots=True)
class Limit:
    """Capacity or saturation: rates of the whole service (None: no figure), status, the relative
    half-width of the 95 % interval, why it is not ``ok``, requests played, first limit to break.
    """

    status: str
    requests_per_s: float | None = None
    output_tokens_per_s: float | None = None
    error: float | None = None
    reason: str = ""
    played: int = 0
    first_limit: str | None = None


def limits_of(facts: Facts) -> dict[str, Limit]:
    """Capacity and saturation of a run with their status.

    An interval that is wider than asked makes its lower end a lower bound, unless the number of
    requests was stated: then it is what so many can tell, up to ``MOST_ERROR``.
    """
    return {"capacity": _capacity(facts), "saturation": _saturation(facts)}


def _capacity(facts: Facts) -> Limit:
    found = facts.capacity
    if found is None:
        return Limit("not_applicable")
    if found.unknown:
        return Limit("too_short", reason=found.unknown, played=found.played)
    if found.run is None:
        first, reason = found.first_limit, found.why_not
        return Limit("not_kept", 0.0, 0.0, None, reason, found.played, first)
    rates = (found.requests_per_s, found.requests_per_s * found.osl_mean)
    return _judged(facts, rates, found.error, found.played, found.first_limit)


def _saturation(facts: Facts) -> Limit:
    found = facts.saturation
    if found is None:
        return Limit("not_applicable")
    played = len(found.run.outcomes.isl)
    if found.reason:
        return Limit("too_short", reason=found.reason, played=played)
    rates = (found.requests_per_s, found.output_tokens_per_s)
    return _judged(facts, rates, found.error, played, None)


def _judged(
    facts: Facts, rates: tuple[float, float], error: float, played: int, first: str | None
) -> Limit:
    wanted = facts.job.workload
    if error <= wanted.sampling_error or (wanted.stated_requests and error <= MOST_ERROR):
        return Limit("ok", *rates, error, "", played, first)
    wide = "wider than the figure" if error > 1 else f"+-{error * 100:.2g} % wide"
    width = f"the 95 % interval is {wide} after {played:,} requests"
    if wanted.stated_requests or error == math.inf:
        return Limit("too_short", reason=width, played=played, first_limit=first)
    low = (rates[0] * math.exp(-error), rates[1] * math.exp(-error))
    return Limit("lower_bound", *low, error, width, played, first)


def statuses(
    facts: Facts,
    steady: Steady,
    seen: Latencies,
    limits: Mapping[str, Limit],
    row: Mapping[str, Any],
) -> dict[str, Any]:
    """The columns of status and error of all headlines."""
    found: dict[str, tuple[str, float | None]] = {
        "capacity_output_tokens_per_s_per_chip": _of(limits["capacity"]),
        "saturation_output_tokens_per_s_per_chip": _of(limits["saturation"]),
    }
    rate = ("too_short", None) if steady.reason else _rate(facts, steady, limits)
    found["output_tokens_per_s"] = rate
    for name in ("usd_per_m_output_tokens", "j_per_output_token"):
        found[name] = rate if row[name] is not None else (_missing(rate[0]), None)
    grows = row["stable"] is False
    for name, values in (("tpot_mean_ms", seen.tpot_s), ("ttft_mean_ms", seen.ttft_s)):
        status = "lower_bound" if grows and name == "ttft_mean_ms" else "ok"
        error = _latency_error(facts, steady, seen, values)
        status = "too_short" if error is None else status
        found[name] = (status, error) if row[name] is not None else ("not_applicable", None)
    columns: dict[str, Any] = {}
    for name in HEADLINES:
        columns[f"{name}_status"], columns[f"{name}_error"] = found[name]
    return columns


def _of(limit: Limit) -> tuple[str, float | None]:
    return limit.status, limit.error


def _missing(status: str) -> str:
    return status if status == "too_short" else "not_applicable"


def _rate(facts: Facts, steady: Steady, limits: Mapping[str, Limit]) -> tuple[str, float | None]:
    """Throughput in the window; that of a share of the capacity has the error of that too."""
    error = relative_error(tokens_in(facts.run.logs, steady.window.parts(batches_for(steady))))
    reference = limits["capacity"]
    if not reference.output_tokens_per_s:
        reference = limits["saturation"]
    if facts.job.workload.arrivals.load is None or reference.error is None or error is None:
        return "ok", error
    return "ok", math.hypot(error, reference.error)


def _latency_error(
    facts: Facts, steady: Steady, seen: Latencies, values: FloatArray
) -> float | None:
    """Error of a mean over requests, from batches in order of arrival."""
    counted = np.flatnonzero(seen.inside & seen.finished & ~np.isnan(values))
    if len(counted) < 2:
        return None
    order = np.argsort(np.array(facts.run.outcomes.arrival_s)[counted], kind="stable")
    batches = BATCHES if steady.reason else batches_for(steady)
    parts = np.array_split(values[counted[order]], min(batches, len(counted)))
    means = np.array([part.mean() for part in parts])
    return relative_error(means, np.array([float(len(part)) for part in parts]))


def keeps_up(facts: Facts, steady: Steady, drift: Trend) -> bool | None:
    """Whether open traffic can go on for ever: nothing grows, and less is asked than can be served
    flat out. None where the run ends (or is broken off) before its load is steady, since then the
    number inside grows in any case.
    """
    found, asked = facts.saturation, facts.asked_per_s
    level = not steady.reason and not drift.grows  # a cache that is never full outdoes a backlog
    known = found is not None and not found.reason and facts.run.visits is None
    if found is not None and known and asked is not None and asked >= found.requests_per_s:
        return level
    if steady.reason or facts.run.interrupted:
        return None
    return not drift.grows


def limit_shares_of(run: Run) -> dict[str, float | None]:
    """Share of the time of all ranks in which each limit kept somebody waiting."""
    total = run.end_s * len(run.counts)
    if not total:
        return {f"limit_{name}": None for name in LIMITS}
    return {
        f"limit_{name}": sum(counts.refused_s.get(name, 0.0) for counts in run.counts) / total
        for name in LIMITS
    }


def check_laws(facts: Facts, steady: Steady, row: Mapping[str, Any]) -> None:
    """Raise SimulationError if goodput exceeds throughput, the window more tokens than the run, or
    the tokens computed a second what the chips can compute.
    """
    run, at_s = facts.run, facts.run.end_s
    if steady.reason:
        return
    if row["goodput_per_s"] is not None and row["goodput_per_s"] > row["requests_per_s"]:
        raise SimulationError(f"goodput {row['goodput_per_s']} > {row['requests_per_s']}", at_s)
    length_s = steady.window.length_s
    emitted = sum(counts.output_tokens for counts in run.counts)
    if row["output_tokens_per_s"] * length_s > emitted * (1 + SLACK):
        raise SimulationError("more output tokens in the window than in the run", at_s)
    if row["input_tokens_per_s"] * length_s > int(facts.requests.isl.sum()) * (1 + SLACK):
        raise SimulationError("more prompt tokens in the window than in the run", at_s)
    computed = row["input_tokens_per_s"] * (1 - (row["prefix_hit_share"] or 0.0))
    most = most_tokens_per_s(facts)
    if computed > most:
        raise SimulationError(
            f"{computed:,.0f} prompt tokens/s computed, the chips' peak allows {most:,.0f}", at_s
        )


def most_tokens_per_s(facts: Facts) -> float:
    """Tokens a second that the chips in use could compute at the peak of their fastest dtype.

    Model: chips x peak / FLOP of a token, the LM head left out (prompts need it once).
    """
    chip, model = facts.machine.chip, facts.job.model
    head = 2 * model.vocab * model.hidden
    return facts.chips_used * max(chip.peak.values()) / max(1, flop_per_token(model) - head)
