"""The largest rate at which a service keeps its SLO, found by running it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster_sim.metrics import Targets, keeps_slo, latencies, limit_shares, meets_slo
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run, Service, serve

PRECISION = 0.01  # relative width of the bracket at which the bisection ends
FIRST_GUESS = 0.75  # of the saturated rate
STRIDE = 1.25  # factor between tries until the capacity is bracketed
LOWEST = 1e-3  # of the saturated rate; below it the SLO is called out of reach
LOOK_EVERY = 8  # watcher calls between two early-exit checks


@dataclass(frozen=True, slots=True)
class Capacity:
    """The rate (of sessions, or requests), the run there (None: out of reach), and the limit that
    breaks first beyond it (None: no rate up to the saturated one breaks any).
    """

    starts_per_s: float
    run: Run | None
    first_limit: str | None


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
    none is tried. Rates count starts of sessions; their later turns come when they come.
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
    return Capacity(low, best, first)


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
        lost = _already_lost(outcomes, requests, wanted, now_s)
        return lost

    run = serve(service, requests, step_by_step=step_by_step, watch=hopeless)
    if lost:
        return False, run
    if run.interrupted:
        raise KeyboardInterrupt
    seen = latencies(run, requests, open_loop=True)
    return keeps_slo(seen, wanted), run


def _already_lost(outcomes: Outcomes, requests: Requests, wanted: Targets, now_s: float) -> bool:
    """Whether more requests of a class have missed the SLO than the attainment allows in the whole
    run.

    Turns that have not arrived will come after all that have, so that the window of those is known;
    with rejected turns it is not.
    """
    record = Run(outcomes, (), (), (), (), 0, 0.0, False)
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
