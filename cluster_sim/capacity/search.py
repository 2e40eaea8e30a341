"""The largest rate at which a service keeps its SLO in the long run."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from cluster_sim.capacity.misses import FloatArray, Trial, crossing, fit_line, near, root_error
from cluster_sim.capacity.sample import Effort, Sample
from cluster_sim.metrics import (
    Latencies,
    Targets,
    latencies,
    limit_shares,
    meets_slo,
    targets,
)
from cluster_sim.serving.event_driven import Watcher
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run, serve, too_large
from cluster_sim.window import steady_window, usual_stay_s

FIRST_GUESS = 0.75  # of the saturated rate, where nothing better is known
CLEARLY, HEADROOM = 1.1, 1.4  # of the saturated rate; of a guess above it
STRIDE = 1.25  # factor between tries until the capacity is bracketed
LOWEST = 1e-3  # of the saturated rate; below it the SLO is called out of reach
PART = 2_000  # requests of a first try at least; those near the root are FULLER times as long
FULLER = 4
FILLINGS = 4  # of the service at the rate, in a first try
HOPELESS = 4.0  # times the misses that are allowed in a whole run: a try is broken off
LOOK_EVERY = 4  # watcher calls between two early-exit checks
AT_SATURATION = 0.97  # of the saturated rate: an SLO kept there is kept up to saturation
STRICTEST = 1e-4  # of the requests: what "all of them" can mean in the long run
NEAR = 0.15  # tries within so much of the root (logarithm) decide it
# Tries lie in turn below and above the root, so that they tell the slope too: by so much of the
# rate (logarithm), at most by what changes the missed share by a factor of exp(ASIDE_MISSES).
ASIDE, ASIDE_MISSES = 0.06, 0.5
PARTS_A_TRY = 2  # batches: misses come in clusters, so they must be long
AT_TOP = 2  # full tries at least, before a limit is called kept up to saturation
FIRST_STREAM = 2  # of the draws: 0 is the run itself, 1 the flat-out run


@dataclass(frozen=True, slots=True)
class Capacity:
    """The rates of starts (of sessions, or requests) and requests of the whole service, the mean
    answer there, the relative half-width of their 95 % interval, the run nearest to that rate
    (None: out of reach), the limit that breaks first beyond it (None: none breaks up to
    saturation), how many requests were played; why no rate keeps the SLO, and why nothing is known
    (both empty where there is a figure).
    """

    starts_per_s: float
    requests_per_s: float
    osl_mean: float
    error: float
    run: Run | None
    requests: Requests | None
    first_limit: str | None
    played: int
    why_not: str = ""
    unknown: str = ""


def find_capacity(
    sample: Sample,
    effort: Effort,
    saturated_per_s: float,
    saturated_error: float,
    *,
    guess_per_s: float | None = None,
    step_by_step: bool = False,
    progress: Callable[[str, float], None] | None = None,
) -> Capacity:
    """Find the rate at which the share of requests that miss the SLO is what it allows.

    Model: tries at several rates, each with requests of its own; near the root the logarithm of
    the missed share is a line over the logarithm of the rate (Poisson regression, with the slope
    held near ``misses.SLOPE`` as long as the data say little). The first tries step by a factor
    until one keeps the SLO and one does not; the next ones, longer, lie around the root of the line
    so far, until the 95 % interval of the root (jackknife over batches) is as narrow as ``effort``
    asks. With classes the one whose root is lowest decides. ``saturated_per_s`` (with its relative
    error) bounds the rates, of starts: no rate above it lasts, and where the SLO is kept at
    ``AT_SATURATION`` of it, the capacity lies in between. What is varied is the rate at which
    sessions start. Where the guess lies clearly above saturation, ``HEADROOM`` of it is the bound:
    a scheduler that evicts computes much again as soon as there is a backlog, and gives less flat
    out than at a rate that fills no cache. A request counts if it arrives in the steady window and
    its service ends before the drain weighs. An attainment of 100 % is taken as all but
    ``STRICTEST``.
    Raises KeyboardInterrupt when interrupted.
    """
    bound = (saturated_per_s / sample.times, saturated_error)
    if guess_per_s and 0 < CLEARLY * saturated_per_s < guess_per_s:
        bound = (HEADROOM * guess_per_s / sample.times, saturated_error)
    search = _Search(sample, effort, bound, step_by_step, progress)
    guess = guess_per_s / sample.times if guess_per_s else FIRST_GUESS * bound[0]
    return search.find(min(guess, search.top_per_s))


@dataclass(slots=True)
class _Play:
    """One try: what it was, and what it showed."""

    rate: float
    run: Run
    requests: Requests
    seen: Latencies
    trials: list[Trial]  # by class
    lost: bool


@dataclass(frozen=True, slots=True)
class _Root:
    """ln of a rate, the slope of the misses there, and half of the 95 % interval."""

    log_rate: float
    slope: float
    error: float


class _Search:
    """The state of one search: tries so far."""

    def __init__(
        self,
        sample: Sample,
        effort: Effort,
        bound: tuple[float, float],
        step_by_step: bool,
        progress: Callable[[str, float], None] | None,
    ) -> None:
        self.sample, self.effort = sample, effort
        self.most_per_s, self.most_error = bound
        self.top_per_s = AT_SATURATION * self.most_per_s
        self.step_by_step, self.progress = step_by_step, progress
        self.plays: list[_Play] = []
        self.played = 0
        self.allowed = [
            max(STRICTEST, 1 - (part.slo or sample.wanted.slo).attainment)
            for part in sample.wanted.parts
        ]
        self.limited = [(part.slo or sample.wanted.slo).limits for part in sample.wanted.parts]

    def find(self, guess: float) -> Capacity:
        """The whole search."""
        if why_not := self._all_too_long():
            return self._nothing(why_not=why_not)
        if self.most_per_s <= 0:
            return self._nothing(unknown="what it gives flat out is not known")
        low, high = self._bracket(guess)
        if low == 0.0:
            if high < LOWEST * self.most_per_s:
                return self._nothing(why_not="it is missed at any rate that was tried")
            return self._nothing(
                unknown=f"{self.played:,} requests found no rate that keeps the SLO"
            )
        full_plays: list[_Play] = []
        while True:
            decisive = min(
                (self._root(k) for k, limited in enumerate(self.limited) if limited),
                key=lambda found: found.log_rate,
            )
            root, error = decisive.log_rate, decisive.error
            top = root >= math.log(self.top_per_s)
            root = min(root, math.log(self.top_per_s))
            enough = sum(abs(math.log(play.rate) - root) <= NEAR for play in full_plays)
            if top and enough >= min(AT_TOP, self.effort.full_tries):
                return self._up_to_saturation()
            if (
                error <= self.effort.error
                and enough >= self.effort.full_tries
                and self._surrounded(root)
            ):
                break
            full = self._full_count(math.exp(root))
            if self.played + full > self.effort.most_requests:
                break
            aside = min(ASIDE, ASIDE_MISSES / decisive.slope) * (-1) ** len(full_plays)
            rate = min(math.exp(root - aside), self.top_per_s)
            full_plays.append(self._try(rate, full, hopeful=True))
        if not self._surrounded(root):
            return self._nothing(unknown=f"{self.played:,} requests do not tell where it breaks")
        return self._found(math.exp(root), error)

    def _all_too_long(self) -> str:
        """In words, if more requests of a class than its SLO allows are rejected as too long."""
        sample = self.sample
        requests = sample.draw(self._first_count(1.0), FIRST_STREAM)
        too_long, too_big = too_large(sample.service, requests)
        wanted = targets(sample.wanted, requests)
        for k, allowed in enumerate(self.allowed):
            mine = wanted.members(k, len(requests))
            share = float((too_long | too_big)[mine].mean()) if mine.any() else 0.0
            if self.limited[k] and share > allowed:
                what = "the context" if (too_long & mine).any() else "the KV cache of a rank"
                return f"{share * 100:.2g} % of the requests are rejected: longer than {what}"
        return ""

    def _bracket(self, rate: float) -> tuple[float, float]:
        """Step until one rate keeps the SLO and the next does not (or is the highest there is);
        the highest that does and the lowest that does not.
        """
        low, high = 0.0, math.inf
        while high > low * STRIDE * 1.01:
            if self.played and self.played + self._first_count(rate) > self.effort.most_requests:
                break
            play = self._try(rate, self._first_count(rate), hopeful=False)
            if self._keeps(play):
                low = rate
                if low >= self.top_per_s:
                    break
            else:
                high = rate
            if high < LOWEST * self.most_per_s:
                break
            if low == 0.0:
                downs = sum(not self._keeps(play) for play in self.plays)
                rate = high / STRIDE ** (1 if downs < 4 else 4)
            elif high == math.inf:
                rate = min(low * STRIDE, self.top_per_s)
            else:
                rate = math.sqrt(low * high)
        return low, high

    def _keeps(self, play: _Play) -> bool:
        return not play.lost and all(
            trial.share <= allowed
            for trial, allowed, limited in zip(play.trials, self.allowed, self.limited, strict=True)
            if limited
        )

    def _first_count(self, rate: float) -> int:
        return min(self.effort.most_a_try, max(PART, int(FILLINGS * self._inside(rate))))

    def _full_count(self, rate: float) -> int:
        filled = max(FULLER * PART, int(FULLER * FILLINGS * self._inside(rate)))
        return min(self.effort.most_a_try, filled)

    def _inside(self, rate: float) -> float:
        """Requests in the service at once near a rate, as the tries so far have seen them."""
        if not self.plays:
            return self.sample.seats / FILLINGS
        last = min(self.plays, key=lambda play: abs(math.log(play.rate / rate)))
        starts = len(last.requests) / last.requests.starts
        return rate * starts * usual_stay_s(last.seen.e2e_s)

    def _try(self, rate: float, count: int, *, hopeful: bool) -> _Play:
        if self.progress is not None:
            self.progress("capacity", min(0.95, len(self.plays) / 12))
        stream = FIRST_STREAM + len(self.plays)
        requests = self.sample.draw(count, stream).at_rate(rate)
        wanted = targets(self.sample.wanted, requests)
        lost = False
        looks = 0

        def hopeless(outcomes: Outcomes, _: int, now_s: float) -> bool:
            nonlocal lost, looks
            looks += 1
            if looks % LOOK_EVERY:
                return False
            lost = _hopeless(outcomes, requests, wanted, now_s, self.sample)
            return lost

        watch: Watcher | None = None if hopeful else hopeless
        run = serve(self.sample.service, requests, step_by_step=self.step_by_step, watch=watch)
        if run.interrupted and not lost:
            raise KeyboardInterrupt
        self.played += count
        seen = latencies(run, requests)
        trials = [] if lost else _trials(rate, run, requests, seen, wanted)
        play = _Play(rate, run, requests, seen, trials, lost)
        self.plays.append(play)
        return play

    def _of(self, k: int) -> list[Trial]:
        return [play.trials[k] for play in self.plays if not play.lost]

    def _root(self, k: int) -> _Root:
        """Where a class has its root, by the tries near it."""
        trials, allowed = self._of(k), self.allowed[k]
        close = near(trials, allowed, NEAR)
        line = fit_line(close, allowed)
        root = crossing(trials, allowed, line, ASIDE)
        return _Root(root, line.slope, root_error(close, allowed, line))

    def _surrounded(self, root: float) -> bool:
        """Whether some try lies so near that the line is no extrapolation."""
        return any(abs(math.log(play.rate) - root) <= NEAR / 2 for play in self.plays)

    def _nothing(self, *, why_not: str = "", unknown: str = "") -> Capacity:
        first = self._first_limit(0.0) if self.plays else None
        return Capacity(0.0, 0.0, 0.0, 0.0, None, None, first, self.played, why_not, unknown)

    def _up_to_saturation(self) -> Capacity:
        """No limit breaks below the saturated rate: the middle of what is left."""
        left = (self.most_per_s - self.top_per_s) / (self.most_per_s + self.top_per_s)
        found = self._found(self.top_per_s, math.hypot(left, self.most_error))
        middle = (self.most_per_s + self.top_per_s) / 2 / self.top_per_s
        return replace(
            found,
            starts_per_s=found.starts_per_s * middle,
            requests_per_s=found.requests_per_s * middle,
            first_limit=None,
        )

    def _found(self, rate: float, error: float) -> Capacity:
        kept = [play for play in self.plays if not play.lost]
        best = min(kept, key=lambda play: (abs(math.log(play.rate / rate)), -len(play.requests)))
        close = [play for play in kept if abs(math.log(play.rate / rate)) <= NEAR] or [best]
        count = sum(len(play.requests) for play in close)
        osl_mean = sum(float(play.requests.osl.sum()) for play in close) / count
        starts = sum(play.requests.starts for play in close)
        times = self.sample.times
        return Capacity(
            rate * times,
            rate * times * count / starts,
            osl_mean,
            error,
            best.run,
            best.requests,
            self._first_limit(rate),
            self.played,
        )

    def _first_limit(self, rate: float) -> str | None:
        """The limit that fewest requests keep in the lowest try above a rate that misses."""
        above = [play for play in self.plays if play.rate >= rate and not self._keeps(play)]
        if not above:
            above = [max(self.plays, key=lambda play: play.rate)]
        play = min(above, key=lambda play: play.rate)
        shares = limit_shares(play.seen, targets(self.sample.wanted, play.requests))
        return min(shares, key=shares.__getitem__) if shares else None


def _counted(run: Run, requests: Requests, seen: Latencies) -> np.ndarray:
    """Requests that arrive in the steady window, the last mean stay before its end left out."""
    steady = steady_window(run, requests)
    arrival = np.array(run.outcomes.arrival_s)
    start_s = steady.window.start_s
    end_s = max(
        steady.window.end_s - usual_stay_s(seen.e2e_s), start_s + steady.window.length_s / 2
    )
    inside = (arrival > start_s) & (arrival <= end_s) & (seen.finished | seen.rejected)
    return inside if inside.any() else seen.finished | seen.rejected


def _trials(
    rate: float, run: Run, requests: Requests, seen: Latencies, wanted: Targets
) -> list[Trial]:
    """What each class missed, batch by batch in order of arrival."""
    counted = _counted(run, requests, seen)
    order = np.argsort(np.array(run.outcomes.arrival_s)[counted], kind="stable")
    places = np.flatnonzero(counted)[order]
    missed = ~meets_slo(seen, wanted)
    found = []
    for k in range(len(wanted.slos)):
        mine = wanted.members(k, len(requests))
        batches = np.array_split(places, PARTS_A_TRY)
        counts: FloatArray = np.array([float(mine[part].sum()) for part in batches])
        misses: FloatArray = np.array([float((mine & missed)[part].sum()) for part in batches])
        found.append(Trial(math.log(rate), misses, counts))
    return found


def _hopeless(
    outcomes: Outcomes, requests: Requests, wanted: Targets, now_s: float, sample: Sample
) -> bool:
    """Whether many more requests of a class have missed the SLO than the attainment allows in the
    whole run.
    """
    nothing = Run(outcomes, (), (), (), (), 0, 0.0, False)
    record = replace(nothing, client=sample.service.client)
    seen = latencies(record, requests)
    arrival = np.array(outcomes.arrival_s)
    missed = seen.finished & ~meets_slo(seen, wanted)
    ttft = wanted.limit("ttft")
    if ttft is not None:
        missed |= np.isnan(seen.ttft_s) & (arrival < now_s - ttft) & ~seen.rejected
    for k, slo in enumerate(wanted.slos):
        mine = wanted.members(k, len(requests))
        allowed = HOPELESS * (1 - slo.attainment) * int(mine.sum())
        if slo.limits and int((missed & mine).sum()) > allowed:
            return True
    return False
