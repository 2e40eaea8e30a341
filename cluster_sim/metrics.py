"""Metrics of a serving run, computed from recorded facts. Definitions: docs/glossary.md."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.records import Outcomes, Status, StepLog
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run
from cluster_sim.specs.workload import Slo, Workload
from cluster_sim.window import Window

PERCENTILES = (50, 90, 99)
BINS = 1 << 16  # of the histogram that locates percentiles of the pooled gaps
FloatArray = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Latencies:
    """Per request (s; NaN where undefined), and which requests count."""

    ttft_s: FloatArray
    tpot_s: FloatArray
    e2e_s: FloatArray
    finished: NDArray[np.bool_]
    rejected: NDArray[np.bool_]
    inside: NDArray[np.bool_]

    def among(self, counted: NDArray[np.bool_]) -> Latencies:
        """The same, of the requests that count only some."""
        return replace(self, inside=self.inside & counted)


def latencies(run: Run, requests: Requests) -> Latencies:
    """TTFT, TPOT and E2E latency of each request, as its client sees them.

    Model: TTFT = first token - arrival; E2E = last token - arrival; clients see tokens later than
    the engine has them, the first one later still (``run.client``). TPOT = (last - first token) /
    (OSL - 1) of the engine, undefined for one token: tokens that catch up with a first one that was
    held back make no decoding faster. All requests count; of an interrupted run those that arrived
    up to ``known_s``.
    """
    outcomes = run.outcomes
    arrival = np.array(outcomes.arrival_s)
    status = np.array(outcomes.status)
    finished = status == Status.FINISHED
    first, last = np.array(outcomes.first_s), np.array(outcomes.finish_s)
    steps = np.where(requests.osl > 1, requests.osl - 1, 1)
    token_s = (last - first) / steps
    held = run.client.held_s(outcomes.others, token_s, last - first)
    ttft = run.client.seen_s(first) - arrival + held
    e2e = run.client.seen_s(last) - arrival
    tpot = np.where(requests.osl > 1, token_s, np.nan)
    inside = np.ones(len(arrival), dtype=bool)
    if run.known_s < np.inf:
        inside = arrival <= run.known_s
    return Latencies(ttft, tpot, e2e, finished, status > Status.FINISHED, inside)


@dataclass(frozen=True, slots=True)
class Targets:
    """The SLO of every request: ``slos[of[i]]``; ``of`` None: the first is everybody's."""

    slos: tuple[Slo, ...]
    of: NDArray[np.int64] | None = None

    @property
    def limits(self) -> bool:
        """Whether anybody has a limit."""
        return any(slo.limits for slo in self.slos)

    def limit(self, name: str) -> float | FloatArray | None:
        """The limit of each request (s; infinite where it has none), None if nobody has one."""
        values = [getattr(slo, name) for slo in self.slos]
        if all(value is None for value in values):
            return None
        if self.of is None:
            return float(values[0])
        filled: FloatArray = np.array([np.inf if v is None else v for v in values])[self.of]
        return filled

    def members(self, k: int, count: int) -> NDArray[np.bool_]:
        """The requests of a class."""
        return np.ones(count, dtype=bool) if self.of is None else self.of == k


def targets(wanted: Workload, requests: Requests) -> Targets:
    """The SLO of each request: that of its class, else the workload's."""
    if requests.slo_class is None:
        return Targets((wanted.slo,))
    own = {part.name: part.slo for part in wanted.classes}
    slos = (own.get(name) or wanted.slo for name in requests.class_names)
    return Targets(tuple(slos), requests.slo_class)


def meets_slo(seen: Latencies, wanted: Targets) -> NDArray[np.bool_]:
    """Which finished requests meet every limit; one of a single token has no TPOT limit."""
    good = seen.finished.copy()
    ttft, tpot, e2e = (wanted.limit(name) for name in ("ttft", "tpot", "e2e"))
    with np.errstate(invalid="ignore"):
        if ttft is not None:
            good &= seen.ttft_s <= ttft
        if tpot is not None:
            good &= ~(seen.tpot_s > tpot)
        if e2e is not None:
            good &= seen.e2e_s <= e2e
    return good


def attainment(seen: Latencies, wanted: Targets, among: NDArray[np.bool_] | None = None) -> float:
    """Share of finished and rejected requests inside the window (and ``among``) that meet their
    SLO; NaN if there are none.
    """
    counted = seen.inside & (seen.finished | seen.rejected)
    if among is not None:
        counted &= among
    total = int(counted.sum())
    return float((meets_slo(seen, wanted) & counted).sum()) / total if total else float("nan")


def keeps_slo(seen: Latencies, wanted: Targets) -> bool:
    """Whether every class that has limits and requests inside the window attains its SLO."""
    if wanted.of is None:
        return attainment(seen, wanted) >= wanted.slos[0].attainment
    shares = (
        (attainment(seen, wanted, wanted.of == k), slo.attainment)
        for k, slo in enumerate(wanted.slos)
        if slo.limits
    )
    return all(not share < least for share, least in shares)


def limit_shares(seen: Latencies, wanted: Targets) -> dict[str, float]:
    """Per limit: the share of finished requests inside the window that have it and keep it."""
    shares = {}
    for name, values in (("ttft", seen.ttft_s), ("tpot", seen.tpot_s), ("e2e", seen.e2e_s)):
        limit = wanted.limit(name)
        if limit is None:
            continue
        counted = seen.inside & seen.finished & np.isfinite(limit)
        kept = counted & ~(values > limit)
        shares[name] = float(kept.sum()) / max(1, int(counted.sum()))
    return shares


def class_rows(seen: Latencies, requests: Requests, wanted: Targets) -> list[dict[str, Any]]:
    """What each class of a mix got: requests, latencies, attainment; empty without classes."""
    rows: list[dict[str, Any]] = []
    for k, name in enumerate(requests.class_names):
        mine = wanted.members(k, len(requests))
        counted = mine & seen.inside & seen.finished
        row: dict[str, Any] = {
            "name": name,
            "requests": int(mine.sum()),
            "finished": int((mine & seen.finished).sum()),
            "rejected": int((mine & seen.rejected).sum()),
            "isl_mean": float(requests.isl[mine].mean()) if mine.any() else None,
            "osl_mean": float(requests.osl[mine].mean()) if mine.any() else None,
        }
        for metric, values in (("ttft", seen.ttft_s), ("tpot", seen.tpot_s)):
            found = summarise(metric, values[counted])
            row |= {f"{metric}_{stat}_ms": found[f"{metric}_{stat}_ms"] for stat in ("p50", "p99")}
        share = attainment(seen, wanted, mine) if wanted.slos[k].limits else float("nan")
        row["slo_attainment"] = None if share != share else share
        rows.append(row)
    return rows


def summarise(name: str, values_s: FloatArray) -> dict[str, float | None]:
    """Mean and percentiles of latencies in ms under their column names; None without any value."""
    values = values_s[~np.isnan(values_s)] * 1e3
    if not len(values):
        return {f"{name}_{stat}_ms": None for stat in ("mean", "p50", "p90", "p99")}
    quantiles = np.percentile(values, PERCENTILES)
    row: dict[str, float | None] = {f"{name}_mean_ms": float(values.mean())}
    for percentile, value in zip(PERCENTILES, quantiles, strict=True):
        row[f"{name}_p{percentile}_ms"] = float(value)
    return row


def inter_token_latencies(logs: Sequence[StepLog], span: Window) -> dict[str, float | None]:
    """ITL: gaps between successive tokens of a request, pooled over the window's tokens (ms)."""
    count, total_s, lowest, highest = 0, 0.0, np.inf, 0.0
    for gaps, weights in _gaps(logs, span):
        count += int(weights.sum(dtype=np.int64))
        total_s += float(np.dot(gaps, weights))
        lowest, highest = min(lowest, float(gaps.min())), max(highest, float(gaps.max()))
    if count == 0:
        return summarise("itl", np.empty(0))
    ranks = [percentile / 100 * (count - 1) for percentile in PERCENTILES]
    wanted = sorted({min(int(rank) + extra, count - 1) for rank in ranks for extra in (0, 1)})
    values = _order_statistics(logs, span, wanted, lowest, highest)
    row: dict[str, float | None] = {"itl_mean_ms": total_s / count * 1e3}
    for percentile, rank in zip(PERCENTILES, ranks, strict=True):
        low = int(rank)
        below, above = values[low], values[min(low + 1, count - 1)]
        row[f"itl_p{percentile}_ms"] = (below + (above - below) * (rank - low)) * 1e3
    return row


def _gaps(logs: Sequence[StepLog], span: Window) -> Iterator[tuple[FloatArray, NDArray[np.intc]]]:
    """Gaps (s) of the tokens emitted inside the window and how often each occurs, log by log."""
    for log in logs:
        if len(log.end_s) > 1:
            ends = np.frombuffer(log.end_s)
            weights = np.frombuffer(log.chained, dtype=np.intc)[1:]
            keep = (weights > 0) & (ends[1:] > span.start_s) & (ends[1:] <= span.end_s)
            if keep.any():
                yield np.diff(ends)[keep], weights[keep]
        if log.together:
            ends = np.frombuffer(log.end_s)
            first, last = np.searchsorted(ends, (span.start_s, span.end_s), side="right")
            several = np.frombuffer(log.together, dtype=np.intc)[first:last]
            several = several[several > 0]
            if len(several):
                yield np.zeros(len(several)), several
        lone = sorted(gap for at_s, gap in log.lone_gaps if span.start_s < at_s <= span.end_s)
        if lone:
            yield np.array(lone), np.ones(len(lone), dtype=np.intc)


def _order_statistics(
    logs: Sequence[StepLog], span: Window, ranks: Sequence[int], lowest: float, highest: float
) -> dict[int, float]:
    """The gaps at given ranks of the sorted pool, exactly, without sorting or holding all of it.

    A histogram finds the bin of each rank; only the values of those bins are sorted.
    """
    width = (highest - lowest) / BINS or 1.0

    def bins_of(gaps: FloatArray) -> NDArray[np.int64]:
        return np.minimum((gaps - lowest) / width, BINS - 1).astype(np.int64)

    filled = np.zeros(BINS)
    for gaps, weights in _gaps(logs, span):
        filled += np.bincount(bins_of(gaps), weights=weights, minlength=BINS)
    upto = np.cumsum(filled)
    homes = {rank: int(np.searchsorted(upto, rank, side="right")) for rank in ranks}
    values: dict[int, float] = {}
    for home in sorted(set(homes.values())):
        parts = [(g[bins_of(g) == home], w[bins_of(g) == home]) for g, w in _gaps(logs, span)]
        pool = np.concatenate([gaps for gaps, _ in parts])
        order = np.argsort(pool, kind="stable")
        last = np.cumsum(np.concatenate([w for _, w in parts])[order], dtype=np.int64) - 1
        before = int(upto[home] - filled[home])
        for rank in (rank for rank in ranks if homes[rank] == home):
            values[rank] = float(pool[order][np.searchsorted(last, rank - before)])
    return values


def outcome_table(
    run: Run, requests: Requests, seen: Latencies, wanted: Targets
) -> dict[str, Sequence[object] | NDArray[Any]]:
    """The columns of requests.csv; ``class`` and ``after`` where there are classes or sessions."""
    outcomes: Outcomes = run.outcomes
    names = {
        Status.RUNNING: "running",
        Status.FINISHED: "finished",
        Status.REJECTED_CONTEXT: "rejected: longer than the context",
        Status.REJECTED_KV: "rejected: longer than the KV cache",
        Status.REJECTED_SESSION: "rejected: a former turn was rejected",
    }
    good = meets_slo(seen, wanted)
    columns: dict[str, Sequence[object] | NDArray[Any]] = {
        "request": range(len(requests)),
        "replica": outcomes.replica,
        "arrival_s": outcomes.arrival_s,
        "isl": requests.isl,
        "osl": requests.osl,
        "status": [names[status] for status in outcomes.status],
        "ttft_ms": seen.ttft_s * 1e3,
        "tpot_ms": seen.tpot_s * 1e3,
        "e2e_ms": seen.e2e_s * 1e3,
        "preemptions": outcomes.preemptions,
        "within_slo": good,
    }
    if requests.slo_class is not None:
        columns["class"] = [requests.class_names[k] for k in requests.slo_class.tolist()]
    if requests.after is not None:
        columns["after"] = requests.after
    return columns
