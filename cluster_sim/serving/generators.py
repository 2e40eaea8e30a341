"""Traffic drawn from distributions: classes, sessions, shared prefixes; all of it seeded."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.requests import FloatArray, IntArray, Prefixes, Requests, prefixes_of_runs
from cluster_sim.specs.inputs import WorkloadInput
from cluster_sim.specs.workload import Lengths, Pause, Slo, TrafficClass, Workload, log_normal

GAPS, PROMPTS, ANSWERS, CLASSES, TURNS, THINK, PREFIX = range(7)  # streams of random numbers
SAMPLE = 2000  # requests whose lengths stand for a mix when a plan is weighed
POINTS = 40  # quantiles that those lengths are summed up by
TAIL = (0.99, 0.998)  # and two more, since the longest is far from the others
GROUPS_PER_CLASS = 1 << 20  # at most; ids of sessions start above those of all groups
FIRST_SESSION = 1 << 40


def draw_lengths(lengths: Lengths, count: int, rng: np.random.Generator) -> IntArray:
    """Token counts of shape (count,): fixed, by inverting the piecewise-linear quantile function,
    or log-normal.
    """
    if lengths.fixed is not None:
        return np.full(count, lengths.fixed, dtype=np.int64)
    if lengths.mean is not None:
        mu, sigma = lengths.log_normal
        drawn = np.minimum(np.exp(mu + sigma * rng.standard_normal(count)), lengths.longest)
    else:
        shares, tokens = zip(*(lengths.quantiles or ()), strict=True)
        drawn = np.interp(rng.random(count), shares, tokens)
    return np.maximum(1, np.rint(drawn)).astype(np.int64)


def draw_pauses(pause: Pause, count: int, rng: np.random.Generator) -> FloatArray:
    """Times to think (s) of shape (count,)."""
    if pause.cv == 0 or pause.mean == 0:
        return np.full(count, pause.mean)
    mu, sigma = log_normal(pause.mean, pause.cv)
    drawn: FloatArray = np.exp(mu + sigma * rng.standard_normal(count))
    return drawn if pause.max is None else np.minimum(drawn, pause.max)


def draw_requests(
    wanted: Workload,
    count: int,
    *,
    seed: int,
    draw: int = 0,
    block_tokens: int | None = None,
    every: int = 1,
) -> Requests:
    """``count`` seeded requests of a workload, their sessions (or they themselves) one a second in
    the mean.

    Model: Gamma gaps of coefficient of variation ``cv`` (shape 1/cv^2; 1 is Poisson); each start
    belongs to a class with the probability of its share; the last session ends with request number
    ``count``. Gaps, prompts, answers, classes, turns, pauses and prefixes come from streams of
    their own, so that changing one leaves the others; ``draw`` numbers independent draws of one
    seed. ``block_tokens`` is the unit of shared prefixes; without it none are made. ``every``:
    only each so many-th start, whose gaps are sums of so many.
    """
    parts = wanted.parts
    shape = every / wanted.arrivals.cv**2
    drawn = _Seed(seed, draw)
    start_s = np.cumsum(drawn.stream(GAPS).gamma(shape, 1.0 / shape, count))
    label = _draw_classes(parts, count, drawn)
    turns = _draw_turns(parts, label, drawn, count)
    starts = len(turns)
    session = np.repeat(np.arange(starts), turns)
    row_label = label[session]
    isl, osl = np.empty(count, np.int64), np.empty(count, np.int64)
    for k, part in enumerate(parts):
        mine = np.flatnonzero(row_label == k)
        isl[mine] = draw_lengths(part.isl, len(mine), drawn.stream(PROMPTS, k))
        osl[mine] = draw_lengths(part.osl, len(mine), drawn.stream(ANSWERS, k))
    traffic = _Starts(parts, label[:starts], turns, session)
    sharing = _draw_prefixes(traffic, drawn)
    isl = _whole_prompts(traffic, sharing, isl, osl)
    several = len(parts) > 1
    urgency = np.array([part.priority for part in parts])
    after, think_s = _draw_pauses_of(traffic, drawn)
    return Requests(
        start_s[session],
        isl,
        osl,
        after=after,
        think_s=think_s,
        slo_class=row_label if several else None,
        class_names=tuple(part.name for part in parts) if several else (),
        priority=urgency[row_label] if len(set(urgency.tolist())) > 1 else None,
        prefixes=_prefixes(traffic, sharing, isl, osl, block_tokens) if block_tokens else None,
    )


def draw_starts(requests: Requests, wanted: Workload) -> Requests:
    """The same requests, their sessions (or they themselves) one a second in the mean.

    Model: Gamma gaps of the workload's ``cv``, as ``draw_requests`` has them; those of a session
    stand behind each other.
    """
    starts = np.ones(len(requests), bool) if requests.after is None else requests.after < 0
    shape = 1 / wanted.arrivals.cv**2
    rng = _Seed(wanted.seed, 0).stream(GAPS)
    start_s = np.cumsum(rng.gamma(shape, 1.0 / shape, requests.starts))
    return dataclasses.replace(requests, arrival_s=start_s[np.cumsum(starts) - 1])


def planned(job: WorkloadInput, trace: Requests | None, *, block_tokens: int) -> WorkloadInput:
    """The workload that a plan is weighed for: lengths as the requests have them, the tightest
    limits of all classes; ``trace`` are the requests where they are not drawn.

    Lengths of one class without sessions and prefix are those of the file. Generated ones are
    sampled with a fixed seed, so that the plan does not depend on the seed; the longest answer is
    the one that the workload declares, since engines reserve for it. What a prefix cache saves is
    not counted.
    """
    wanted = job.workload
    if trace is not None:
        seen = trace
    else:
        parts = wanted.parts
        if len(parts) == 1 and parts[0].prefix is None and parts[0].sessions is None:
            return job
        seen = draw_requests(wanted, SAMPLE, seed=0, block_tokens=block_tokens)
    longest = 0
    if trace is None:
        longest = max(part.osl.longest for part in wanted.parts)
    slos = [part.slo or wanted.slo for part in wanted.classes] or [wanted.slo]
    tightest = Slo(
        ttft=min((s.ttft for s in slos if s.ttft is not None), default=None),
        tpot=min((s.tpot for s in slos if s.tpot is not None), default=None),
        e2e=min((s.e2e for s in slos if s.e2e is not None), default=None),
        attainment=wanted.slo.attainment,
    )
    typical = dataclasses.replace(
        wanted,
        classes=(),
        isl=_summed_up(seen.isl),
        osl=_summed_up(seen.osl, longest),
        prefix=None,
        sessions=None,
        slo=tightest,
    )
    return dataclasses.replace(job, workload=typical)


def _summed_up(lengths: IntArray, longest: int = 0) -> Lengths:
    """Quantiles of token counts; one that is longer than all is kept with next to no share."""
    shares = sorted([*(np.arange(POINTS + 1) / POINTS).tolist(), *TAIL])
    tokens = np.rint(np.quantile(lengths, shares)).astype(int).tolist()
    if longest > tokens[-1]:
        shares, tokens = [*shares[:-1], 1 - 1e-9, 1.0], [*tokens, longest]
    return Lengths(quantiles=tuple(zip(shares, tokens, strict=True)))


@dataclass(frozen=True, slots=True)
class _Starts:
    """Sessions (of one turn where a class has none): class and turns of each; session of each
    request.
    """

    parts: tuple[TrafficClass, ...]
    label: IntArray
    turns: IntArray
    session: IntArray

    @property
    def first(self) -> IntArray:
        """The first request of each session."""
        firsts: IntArray = np.cumsum(self.turns) - self.turns
        return firsts

    def of_class(self, k: int) -> IntArray:
        """The sessions of a class."""
        return np.flatnonzero(self.label == k)

    def flags(self, values: list[bool]) -> NDArray[np.bool_]:
        """A property of classes, request by request."""
        found: NDArray[np.bool_] = np.array(values)[self.label][self.session]
        return found


@dataclass(frozen=True, slots=True)
class _Seed:
    """Where the random numbers of a draw come from."""

    seed: int
    draw: int

    def stream(self, kind: int, k: int = 0) -> np.random.Generator:
        """The random numbers of one kind; those of the first class do not depend on there being
        others.
        """
        key = (kind,) if k == 0 else (kind, k)
        entropy = self.seed if self.draw == 0 else [self.seed, self.draw]
        return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=key))


def _draw_classes(parts: tuple[TrafficClass, ...], count: int, seed: _Seed) -> IntArray:
    if len(parts) == 1:
        return np.zeros(count, np.int64)
    bounds = np.cumsum([part.share for part in parts])
    drawn = seed.stream(CLASSES).random(count) * bounds[-1]
    label: IntArray = np.searchsorted(bounds, drawn, side="right").astype(np.int64)
    return np.minimum(label, len(parts) - 1)


def _draw_turns(
    parts: tuple[TrafficClass, ...], label: IntArray, seed: _Seed, count: int
) -> IntArray:
    """Turns of so many sessions that they make ``count`` requests; the last one is cut."""
    turns = np.ones(count, np.int64)
    if all(part.sessions is None for part in parts):
        return turns
    for k, part in enumerate(parts):
        if part.sessions is not None:
            mine = np.flatnonzero(label == k)
            turns[mine] = draw_lengths(part.sessions.turns, len(mine), seed.stream(TURNS, k))
    ends = np.cumsum(turns)
    last = int(np.searchsorted(ends, count))
    turns = turns[: last + 1]
    turns[-1] -= ends[last] - count
    return turns


def _draw_pauses_of(traffic: _Starts, seed: _Seed) -> tuple[IntArray | None, FloatArray | None]:
    """Whom each turn waits for, and how long after that it comes."""
    if all(part.sessions is None for part in traffic.parts):
        return None, None
    count = len(traffic.session)
    after = np.arange(-1, count - 1)
    after[traffic.first] = -1
    think_s = np.zeros(count)
    row_label = traffic.label[traffic.session]
    for k, part in enumerate(traffic.parts):
        if part.sessions is not None:
            later = np.flatnonzero((row_label == k) & (after >= 0))
            think_s[later] = draw_pauses(part.sessions.think, len(later), seed.stream(THINK, k))
    return after, think_s


@dataclass(frozen=True, slots=True)
class _Sharing:
    """System prompt of each session: tokens (0: none) and an id of the group."""

    tokens: IntArray
    group: IntArray


def _draw_prefixes(traffic: _Starts, seed: _Seed) -> _Sharing:
    starts = len(traffic.label)
    tokens, group = np.zeros(starts, np.int64), np.zeros(starts, np.int64)
    for k, part in enumerate(traffic.parts):
        if part.prefix is not None:
            mine, rng = traffic.of_class(k), seed.stream(PREFIX, k)
            has = rng.random(len(mine)) < part.prefix.share
            tokens[mine] = np.where(has, part.prefix.tokens, 0)
            drawn = rng.integers(0, part.prefix.groups, len(mine))
            group[mine] = k * GROUPS_PER_CLASS + drawn
    return _Sharing(tokens, group)


def _whole_prompts(traffic: _Starts, sharing: _Sharing, new: IntArray, osl: IntArray) -> IntArray:
    """Prompts with their system prompt and, in a session with history, all that was said before."""
    whole = new + sharing.tokens[traffic.session]
    histories = [part.sessions is not None and part.sessions.history for part in traffic.parts]
    if any(histories):
        before = np.cumsum(new + osl) - (new + osl)  # of all requests, then of the session alone
        said = before - before[traffic.first][traffic.session]
        whole += np.where(traffic.flags(histories), said, 0)
    return whole


def _prefixes(
    traffic: _Starts, sharing: _Sharing, isl: IntArray, osl: IntArray, unit: int
) -> Prefixes | None:
    """Units of the system prompt and, with history, of everything that the session says later.

    Limits: prompts outside such sessions leave only their system prompt in the cache.
    """
    session = traffic.session
    shared = (sharing.tokens // unit)[session]
    histories = [part.sessions is not None and part.sessions.history for part in traffic.parts]
    said = np.where(traffic.flags(histories), (isl + osl) // unit - shared, 0)
    return prefixes_of_runs(
        [(sharing.group[session], shared), (FIRST_SESSION + session, said)], unit
    )
