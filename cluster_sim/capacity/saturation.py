"""Flat-out throughput: what a service gives when there is always somebody waiting."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.capacity.sample import Effort, Sample
from cluster_sim.errors import counted
from cluster_sim.serving.event_driven import Watcher
from cluster_sim.serving.requests import Requests, without_pauses
from cluster_sim.serving.service import Run, serve
from cluster_sim.window import batches_for, relative_error, steady_window, tokens_in

ROUNDS = 6  # of filling the machine, at first
SESSION_ROUNDS = 3  # the same in sessions, whose turns come one after the other
LEAST = 600  # requests
GROWTH = 4.0  # at most, from one try to the next
MARGIN = 1.2  # over the requests that the error asks for
STREAM = 1  # of the draw: the run itself is 0
MID_FLOW = 7  # stream of the ages of those that are in the service at the start


@dataclass(frozen=True, slots=True)
class Saturation:
    """Rates of the whole service flat out, the relative half-width of their 95 % interval, the run
    that they come from, and why there are none (empty: there are).
    """

    starts_per_s: float
    requests_per_s: float
    output_tokens_per_s: float
    error: float
    run: Run
    reason: str


def find_saturation(
    sample: Sample,
    effort: Effort,
    *,
    step_by_step: bool = False,
    watch: Watcher | None = None,
) -> Saturation:
    """Measure saturation in a steady window, with as many requests as it takes.

    Model: a backlog is served; the first requests are in the middle of their answers, as those are
    that one would find there (long ones more often, any part of them left alike), so that they do
    not all end together. Throughput is tokens emitted in the steady window; requests follow by the
    mean answer. Sessions come one for one without pauses, as many at a time as the cache holds:
    all first turns before all second ones would leave nothing for a prefix cache to find.
    Raises KeyboardInterrupt when interrupted.
    """
    rounds = max(1 + ROUNDS, SESSION_ROUNDS / sample.starts_share)
    count = min(effort.most_a_try, max(LEAST, int(rounds * sample.seats)))
    while True:
        found = _measure(sample, count, step_by_step=step_by_step, watch=watch)
        if count >= effort.most_a_try or (not found.reason and found.error <= effort.error):
            return found
        missing = GROWTH if found.reason else MARGIN * (found.error / effort.error) ** 2
        count = min(effort.most_a_try, int(count * min(GROWTH, max(1.5, missing))))


def _measure(
    sample: Sample, count: int, *, step_by_step: bool, watch: Watcher | None
) -> Saturation:
    drawn, service = sample.draw(count, STREAM), sample.service
    if drawn.after is not None:
        service = replace(service, concurrency=sample.seats)
        backlog = without_pauses(drawn)
    elif drawn.prefixes is not None:
        backlog = without_pauses(drawn)
    else:
        backlog = without_pauses(in_mid_flow(drawn, min(sample.seats, count), sample.wanted.seed))
    run = serve(service, backlog, step_by_step=step_by_step, watch=watch)
    if run.interrupted:
        raise KeyboardInterrupt
    if drawn.after is not None and drawn.starts < 2 * sample.seats:
        few = counted(drawn.starts, "session")
        few += f" cannot fill a machine that holds {sample.seats:,}"
        return Saturation(0.0, 0.0, 0.0, float("inf"), run, few)
    steady = steady_window(run, backlog)
    window, length_s = steady.window, steady.window.length_s
    if steady.reason:
        return Saturation(0.0, 0.0, 0.0, float("inf"), run, steady.reason)
    tokens = tokens_in(run.logs, window.parts(batches_for(steady)))
    per_s = float(tokens.sum()) / length_s
    requests_per_s = per_s / float(drawn.osl.mean())
    starts_per_s = requests_per_s * drawn.starts / len(drawn)
    error = relative_error(tokens)
    if error is None:
        return Saturation(0.0, 0.0, 0.0, float("inf"), run, "no token in the steady window")
    times = sample.times
    rates = (starts_per_s * times, requests_per_s * times, per_s * times)
    return Saturation(*rates, error, run, "")


def in_mid_flow(requests: Requests, seats: int, seed: int) -> Requests:
    """The requests behind ``seats`` others like them that have a part of their answer already.

    Model: a request is found in service with a chance that grows with its answer, and any part of
    the answer is left alike; what it has so far counts as prompt.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(MID_FLOW,)))
    osl = requests.osl
    found = rng.choice(len(osl), size=seats, p=osl / osl.sum())
    done = np.floor(rng.random(seats) * osl[found]).astype(np.int64)
    longer = requests.take(np.concatenate([found, np.arange(len(osl))]))
    shift = np.concatenate([done, np.zeros(len(osl), np.int64)])
    return replace(longer, isl=longer.isl + shift, osl=longer.osl - shift)
