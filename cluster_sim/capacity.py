"""The largest rate at which a service keeps its SLO, found by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.metrics import Targets, keeps_slo, latencies, limit_shares, meets_slo, window
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.event_driven import Watcher
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests, without_pauses
from cluster_sim.serving.service import Run, Service, serve

PRECISION = 0.01  # relative width of the bracket at which the bisection ends
FIRST_GUESS = 0.75  # of the saturated rate
STRIDE = 1.25  # factor between tries until the capacity is bracketed
LOWEST = 1e-3  # of the saturated rate; below it the SLO is called out of reach
LOOK_EVERY = 8  # watcher calls between two early-exit checks


@dataclass(frozen=True, slots=True)
class Capacity:
    """The rate of starts (of sessions, or requests), the rate of requests there, the run (None: out
    of reach), and the limit that breaks first beyond it (None: no rate up to the saturated one
    breaks any).
    """

    starts_per_s: float
    requests_per_s: float
    run: Run | None
    first_limit: str | None


@dataclass(frozen=True, slots=True)
class FlatOut:
    """A run with nothing to wait for, and the seconds that its requests take at its rate."""

    run: Run
    seconds: float
    starts_per_s: float


def run_flat_out(
    service: Service,
    requests: Requests,
    *,
    step_by_step: bool = False,
    watch: Watcher | None = None,
) -> FlatOut:
    """Measure saturation: all requests at once.

    Sessions come one for one, without pauses, as many at a time as the cache holds (half of all at
    most): all first turns before all second ones would leave nothing for a prefix cache to find.
    Only the time until the last one starts counts, since after it fewer and fewer are left, each
    waiting for itself.
    """
    full, starts = service, requests.starts
    if requests.after is not None:
        spec = service.spec
        room = spec.blocks * spec.block_tokens / float((requests.isl + requests.osl).mean())
        seats = max(1, min(int(room), spec.max_num_seqs)) * spec.ranks * service.replicas
        full = replace(service, concurrency=min(max(1, starts // 2), seats))
    run = serve(full, without_pauses(requests), step_by_step=step_by_step, watch=watch)
    if run.interrupted:
        raise KeyboardInterrupt
    if requests.after is None:
        return FlatOut(run, run.end_s, starts / run.end_s)
    began = np.array(run.outcomes.arrival_s)[
        (requests.after < 0) & (np.array(run.outcomes.replica) >= 0)
    ]
    last_s = float(began.max(initial=0.0))
    rate = float((began > 0).sum()) / last_s if last_s > 0 else starts / run.end_s
    return FlatOut(run, starts / rate, rate)


def find_capacity(
    service: Service,
    requests: Requests,
    wanted: Targets,
    saturated_per_s: float,
    *,
    step_by_step: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Capacity:
    """Bisect the rate to 1 % on the same seeded requests with scaled gaps.

    A rate counts as kept when the share of finished and rejected requests inside the window that
    meet every limit is at least ``attainment``, for each class of a mix. Runs that cannot keep it
    any more are broken off. ``saturated_per_s`` is the flat-out rate: no rate above it lasts, so
    none is tried. What is varied is the rate at which sessions start; the rate of requests is then
    that seen in the window.
    Limits: as sure as the requests are many; a short run may keep its SLO at a rate that grows a
    queue.
    """
    tries: list[float] = []

    def attempt(rate: float) -> tuple[bool, Run]:
        tries.append(rate)
        if progress is not None:
            progress("capacity", min(0.95, len(tries) / 9))
        return _try(service, requests.at_rate(rate), wanted, step_by_step=step_by_step)

    low, high = 0.0, float("inf")
    best: Run | None = None
    breaking: Run | None = None
    rate = FIRST_GUESS * saturated_per_s
    while high > low * (1 + PRECISION) and low < saturated_per_s:
        kept, run = attempt(rate)
        if kept:
            low, best = rate, run
        else:
            high, breaking = rate, run
        if high < LOWEST * saturated_per_s:
            break
        if best is None:
            rate = high / STRIDE if len(tries) < 4 else high / STRIDE**4
        else:
            rate = (low * high) ** 0.5 if breaking else min(low * STRIDE, saturated_per_s)
    first = None
    if breaking is not None:
        seen = latencies(breaking, requests, open_loop=True)
        shares = limit_shares(seen, wanted)
        first = min(shares, key=shares.__getitem__) if shares else None
    per_s = low
    if best is not None and requests.after is not None:
        seen = latencies(best, requests, open_loop=True)
        span = window(best, seen, open_loop=True)
        per_s = int(seen.inside.sum()) / span.length_s if span.length_s > 0 else low
    return Capacity(low, per_s, best, first)


def _try(
    service: Service, requests: Requests, wanted: Targets, *, step_by_step: bool
) -> tuple[bool, Run]:
    looks = 0
    lost = False

    def hopeless(outcomes: Outcomes, _: int, now_s: float) -> bool:
        nonlocal looks, lost
        looks += 1
        if looks % LOOK_EVERY:
            return False
        lost = _already_lost(outcomes, requests, wanted, now_s, service.client)
        return lost

    run = serve(service, requests, step_by_step=step_by_step, watch=hopeless)
    if lost:
        return False, run
    if run.interrupted:
        raise KeyboardInterrupt
    seen = latencies(run, requests, open_loop=True)
    return keeps_slo(seen, wanted), run


def _already_lost(
    outcomes: Outcomes, requests: Requests, wanted: Targets, now_s: float, client: ClientWait
) -> bool:
    """Whether more requests of a class have missed the SLO than the attainment allows in the whole
    run.

    Turns that have not arrived will come after all that have, so that the window of those is known;
    with rejected turns it is not.
    """
    nothing = Run(outcomes, (), (), (), (), 0, 0.0, False)
    record = replace(nothing, client=client)
    seen = latencies(record, requests, open_loop=True)
    arrival = np.array(outcomes.arrival_s)
    if (seen.rejected & np.isnan(arrival)).any():
        return False
    missed = seen.inside & seen.finished & ~meets_slo(seen, wanted)
    ttft = wanted.limit("ttft")
    if ttft is not None:
        late = np.isnan(seen.ttft_s) & (arrival < now_s - ttft)
        missed |= late & seen.inside & ~seen.rejected
    missed &= arrival < now_s
    open_end = wanted.of is not None and bool(np.isnan(arrival).any())
    for k, slo in enumerate(wanted.slos):
        mine = wanted.members(k, len(requests))
        pool = mine if open_end else seen.inside & mine  # who of a class comes last is not known
        allowed = (1 - slo.attainment) * int(pool.sum())
        if slo.limits and int((missed & mine).sum()) > allowed:
            return True
    return False
