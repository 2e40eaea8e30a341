"""What a run needs before its first request: plan, price, replicas, and the requests."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from cluster_sim.capacity import (
    Capacity,
    Sample,
    Saturation,
    play_finalists,
    sample_of,
)
from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.perf.memory import KvCache
from cluster_sim.perf.startup import kv_cache
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.serving.admission import admission
from cluster_sim.serving.candidate import Candidate
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.generators import SAMPLE, draw_requests, draw_starts
from cluster_sim.serving.pace import Pace
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.serving.requests import Requests, all_at_once
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.serving.service import Service, too_large
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.trace_rows import TraceOptions
from cluster_sim.serving.traces import read_trace
from cluster_sim.specs.constraints import MOST_REQUESTS as MOST_OF_A_RUN
from cluster_sim.specs.find import Files
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.workload import Workload

DEFAULT_REQUESTS = 10_000
CLOSED_ROUNDS = 10  # requests (sessions) per client of a closed loop, unless given
CLOSED_LEAST = 200  # requests of a closed loop, unless given
MOST_SPAN_S = 1e9  # of a run: thirty years, in which floats still hold 0.1 us
OFFLINE_ROUNDS = 10  # fillings of the machine by a backlog, unless given
SPANS = 6  # times the requests inside at the capacity, of open traffic, unless given
MOST_REQUESTS = 200_000  # unless given
EFFORT = 160_000  # requests that a search may play on replicas of one rank
RANKS_PER_EFFORT = 4  # ranks more that cost as much again


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A plan and what follows from it before any request comes."""

    choice: Choice
    price: StepPrice
    cache: KvCache
    service: Service
    seats: int


def prepare(
    machine: TopologyInput, job: WorkloadInput, weighed: WorkloadInput, trace: Requests | None
) -> Prepared:
    """Choose the plan, by the closed form and brief plays of its best, and price it."""
    choice, size = resolve(machine, weighed), job.software.memory.block_tokens

    def sample(candidate: Candidate) -> Sample:
        other = replace(choice, layout=candidate.layout, replicas=candidate.replicas)
        made = priced(machine, job, weighed, other, trace)
        return sample_of(made.service, job.workload, block_tokens=size, seats=made.seats)

    return priced(machine, job, weighed, play_finalists(choice, job, sample), trace)


def priced(
    machine: TopologyInput,
    job: WorkloadInput,
    weighed: WorkloadInput,
    choice: Choice,
    trace: Requests | None = None,
) -> Prepared:
    """A plan with its price, its cache and its replicas."""
    parts = (job.model, job.software, choice.layout, choice.recipe)
    price, cache = compile_step_price(machine, *parts), kv_cache(machine.chip, *parts)
    service = make_service(job, choice, price, cache, trace)
    seats = seats_of(weighed, choice, cache)
    return Prepared(choice=choice, price=price, cache=cache, service=service, seats=seats)


def make_service(
    job: WorkloadInput,
    choice: Choice,
    price: StepPrice,
    cache: KvCache,
    trace: Requests | None = None,
) -> Service:
    """The replicas of a plan; ``trace`` are the requests where they are not drawn."""
    wanted, software = job.workload, job.software
    if trace is not None:
        longest = int(trace.osl.max())
    else:
        longest = max(part.osl.longest for part in wanted.parts)
    spec = ReplicaSpec(
        price=price,
        blocks=cache.blocks,
        block_tokens=cache.block_tokens,
        scheduler=SCHEDULERS[software.scheduler],
        max_num_seqs=software.max_num_seqs,
        max_num_batched_tokens=software.max_num_batched_tokens,
        max_output_tokens=longest + software.draft_tokens,
        ranks=choice.layout.ranks,
        state_blocks=cache.state_blocks,
        new_token_ratio=software.new_token_ratio,
        swap=software.preemption == "swap",
        pace=Pace.of(software.tokens_per_step),
    )
    closed = wanted.arrivals.concurrency if wanted.arrivals.kind == "closed" else None
    return Service(
        spec,
        choice.replicas,
        wanted.plan.router,
        job.software.longest(job.model),
        closed,
        ClientWait.of(software),
        _caches_prefixes(job, trace),
    )


def _caches_prefixes(job: WorkloadInput, trace: Requests | None) -> bool:
    """Whether a prefix cache keeps what prompts have in common: not if it is off, or if the model's
    state cannot be kept unit by unit.
    """
    size = job.software.memory.block_tokens
    if not job.software.prefix_cache or job.model.recurrent:
        return False
    prefixes = None if trace is None else trace.prefixes
    if prefixes is not None and prefixes.unit_tokens % size:
        raise SpecError(
            f"prefixes come in units of {prefixes.unit_tokens} tokens, which blocks of {size} "
            "tokens do not divide; set engine.block_tokens or engine.prefix_cache=false"
        )
    return True


def refuse_if_none_fits(job: WorkloadInput, service: Service, trace: Requests | None) -> None:
    """Raise DoesNotFitError if no request at all fits the context and the cache."""
    wanted, size = job.workload, job.software.memory.block_tokens
    requests = trace
    if requests is None:
        requests = draw_requests(wanted, SAMPLE, seed=wanted.seed, block_tokens=size)
    too_long, too_big = too_large(service, requests)
    if not (too_long | too_big).all():
        return
    shortest = int((requests.isl + requests.osl).min())
    cache = service.spec.blocks * service.spec.block_tokens
    limit = f"the context of {job.model.title}, {service.max_context:,} tokens"
    if job.software.max_model_len != "auto":
        limit = f"engine.max_model_len, {service.max_context:,} tokens"
    if not too_long.all():
        limit = f"the KV cache of a rank, {cache:,} tokens"
    raise DoesNotFitError(
        f"every request of {wanted.name} is longer than {limit}: the shortest has {shortest:,} "
        "tokens with its answer. Choose a model or a plan that holds more, or shorter requests "
        "(--set workload.isl=...)"
    )


def read_requests(
    job: WorkloadInput, *, skip_bad_rows: bool = False, files: Files | None = None
) -> Requests | None:
    """The requests of a trace, at its speed, or without times where they come in another way; None
    for traffic that is drawn. The records of the trace's files go into ``files``. Raises SpecError
    where neither trace nor workload says when they come or how long answers are.
    """
    wanted, arrivals = job.workload, job.workload.arrivals
    if not arrivals.replays:
        return None
    timed = arrivals.kind == "trace"
    until_s = None if wanted.duration is None else wanted.duration * arrivals.time_scale
    options = TraceOptions(
        limit=wanted.stated_requests,
        until_s=until_s if timed else None,
        skip_bad_rows=skip_bad_rows,
        seed=wanted.seed,
        block_tokens=job.software.memory.block_tokens,
        classes=wanted.classes,
        timed=timed,
        osl=wanted.osl,
        trace_block_tokens=arrivals.trace_block_tokens,
        time_unit=arrivals.trace_time_unit,
        turns=arrivals.trace_turns,
    )
    path = Path(arrivals.trace or "")
    requests = read_trace(path, arrivals.trace_format, options, files)
    if timed and not requests.timed:
        raise SpecError(
            f"{path}: its requests have no times; say how they come: --rate, --concurrency, or in "
            "the workload arrivals: {kind: open, rate: 5 requests/s, trace: ...}"
        )
    if not requests.osl.all():
        raise SpecError(
            f"{path}: requests without output_length, and {wanted.name} has no 'osl' of its own; "
            "give one with --set 'workload.osl={fixed: 200}'"
        )
    return requests.faster(arrivals.time_scale)


def arranged(trace: Requests, wanted: Workload, rate: float) -> Requests:
    """The requests of a trace as they come: at their own times, at a rate of sessions (in a time,
    if that is given), or all at once.
    """
    arrivals = wanted.arrivals
    if arrivals.kind == "offline":
        return all_at_once(trace)
    if arrivals.kind != "open":
        return trace
    timed = draw_starts(trace, wanted).at_rate(rate)
    if wanted.duration is None:
        return timed
    return timed.first(max(1, int((timed.arrival_s <= wanted.duration).sum())))


def refuse_late(requests: Requests) -> None:
    """Raise SpecError where the last requests come so late that a clock of floats, which counts
    from the first, cannot tell the steps of an engine apart.
    """
    last_s = float(requests.arrival_s[-1]) if len(requests) else 0.0
    if last_s > MOST_SPAN_S:
        raise SpecError(
            f"the last request comes {last_s:.3g} s after the first; at most {MOST_SPAN_S:.0e} s "
            "can be simulated: cut the trace, or raise the rate"
        )


def make_requests(
    job: WorkloadInput,
    choice: Choice,
    capacity: Capacity | None,
    saturation: Saturation | None,
    rate: float,
    seats: int,
) -> Requests:
    """The requests of the run itself, drawn: as many as stated, else as the machine needs.

    Model: open traffic: ``SPANS`` times those that are in the service at once, by Little's law; a
    backlog: ``OFFLINE_ROUNDS`` fillings; a closed loop: ``CLOSED_ROUNDS`` a client. At least
    ``DEFAULT_REQUESTS`` (of a closed loop ``CLOSED_LEAST``), at most ``MOST_REQUESTS``.
    """
    wanted, size = job.workload, job.software.memory.block_tokens
    arrivals, stated = wanted.arrivals, wanted.stated_requests
    turns = wanted.mean_turns
    if arrivals.kind == "closed":
        clients = (arrivals.concurrency or 1) * turns
        count = _playable(stated or max(CLOSED_LEAST, round(CLOSED_ROUNDS * clients)))
        return draw_requests(wanted, count, seed=wanted.seed, block_tokens=size)
    if arrivals.kind == "offline":
        count = _playable(stated or max(DEFAULT_REQUESTS, OFFLINE_ROUNDS * seats))
        return all_at_once(draw_requests(wanted, count, seed=wanted.seed, block_tokens=size))
    inside = rate * turns * _stay_s(choice, capacity)
    best = next((c.requests_per_s for c in choice.candidates if c.layout == choice.layout), 0.0)
    filled = OFFLINE_ROUNDS * seats if rate * turns > best else 0  # a backlog may build up
    count = max(DEFAULT_REQUESTS, round(SPANS * inside), filled)
    count = stated or min(MOST_REQUESTS, count)
    drawn = draw_requests(wanted, count, seed=wanted.seed, block_tokens=size)
    return _at_rate(drawn, wanted, rate, size)


def _playable(count: int) -> int:
    """The count; raises SpecError where no run can hold so many requests."""
    if count > MOST_OF_A_RUN:
        raise SpecError(
            f"{count:,} requests are more than the {MOST_OF_A_RUN:,} that one run can hold; give "
            "fewer with --requests, or a shorter --duration"
        )
    return count


def _stay_s(choice: Choice, capacity: Capacity | None) -> float:
    """How long a request is in the service, about."""
    if capacity is not None and capacity.run is not None:
        outcomes = capacity.run.outcomes
        stays = np.array(outcomes.finish_s) - np.array(outcomes.arrival_s)
        return float(np.nanmean(stays))
    best = next((c for c in choice.candidates if c.layout == choice.layout), None)
    if best is None or not best.requests_per_s:
        return 0.0
    return best.batch * best.replicas / best.requests_per_s


def seats_of(job: WorkloadInput, choice: Choice, cache: KvCache) -> int:
    """Sequences that the whole service holds at once when it is full, as its engine admits them."""
    return admission(job, cache).batch * choice.layout.ranks * choice.replicas


def _at_rate(requests: Requests, wanted: Workload, rate: float, block_tokens: int) -> Requests:
    """The requests at a rate; with a duration those whose session starts in it, ``requests`` of
    them at most if given.
    """
    if wanted.duration is None:
        return requests.at_rate(rate)
    if wanted.stated_requests is None:
        expected = rate * wanted.duration * len(requests) / requests.starts
        most = int(expected + 10 * (expected * len(requests) / requests.starts) ** 0.5) + 10
        count = _playable(most)
        requests = draw_requests(wanted, count, seed=wanted.seed, block_tokens=block_tokens)
    timed = requests.at_rate(rate)
    return timed.first(max(1, int((timed.arrival_s <= wanted.duration).sum())))


def most_requests(choice: Choice) -> int:
    """Requests that a search may play for a plan: a step of many ranks costs more."""
    return EFFORT // (1 + choice.layout.ranks // RANKS_PER_EFFORT)
