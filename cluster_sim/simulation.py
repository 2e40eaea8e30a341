"""simulate(topology, workload, seed) -> Result: the whole flow of a run on one page."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from cluster_sim.capacity import (
    Capacity,
    Effort,
    Sample,
    Saturation,
    find_capacity,
    find_saturation,
    sample_of,
)
from cluster_sim.facts import Facts
from cluster_sim.interrupts import hold_back
from cluster_sim.memory_need import check_run_memory
from cluster_sim.metrics import keeps_slo, latencies, targets
from cluster_sim.origin import Origin, one_sha256, origin_of
from cluster_sim.overload import trend
from cluster_sim.prepare import (
    Prepared,
    arranged,
    make_requests,
    most_requests,
    prepare,
    read_requests,
    refuse_if_none_fits,
    refuse_late,
)
from cluster_sim.result import Result
from cluster_sim.serving.event_driven import Live, Watcher
from cluster_sim.serving.generators import planned
from cluster_sim.serving.plan import Choice
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Requests
from cluster_sim.serving.service import Run, serve
from cluster_sim.specs.find import Files
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.workload import Economics, Workload
from cluster_sim.summary import summarise_run
from cluster_sim.window import steady_window

if TYPE_CHECKING:
    from cluster_sim.engine.cluster import Process

GUESS = 0.97  # of the closed form: capacities lie at 0.89 to 1.08 of it in eight of ten plans
Progress = Callable[[str, float], None]


def simulate(
    topology: TopologyInput | str,
    workload: WorkloadInput | str,
    *,
    seed: int | None = None,
    economics: Economics | None = None,
    step_by_step: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
    live: Live | None = None,
    record: bool = False,
    keep: bool = False,
    processes: Sequence[Process] = (),
    background: Sequence[str] = (),
    most_bytes: float | None = None,
) -> Result:
    """Simulate a workload on a topology.

    Names are looked up as on the command line. ``step_by_step`` runs the slow reference, with
    identical results. ``live`` sees the run itself, not the search for the capacity; ``record``
    keeps what a timeline needs in ``facts``, ``keep`` all but that. ``processes`` are generator
    functions of a ``Cluster`` that run on the same machine, ``background`` is traffic on it as on
    the command line; both leave the search for the capacity alone. ``most_bytes``: a run that would
    need more memory is refused. An interrupt from the keyboard gives what is finished, marked
    partial; a command of the command line is not interrupted once all is simulated (see
    ``interrupts``). Raises SpecError, UnknownNameError, DoesNotFitError for
    what the user can mend.
    """
    machine = load_topology(topology) if isinstance(topology, str) else topology
    job = load_workload(workload) if isinstance(workload, str) else workload
    if seed is not None:
        job = dataclasses.replace(job, workload=dataclasses.replace(job.workload, seed=seed))
    money = economics or Economics()
    job = job.on(machine.chip)
    job = dataclasses.replace(job, workload=job.workload.plain())
    traced: Files = {}
    trace = read_requests(job, skip_bad_rows=skip_bad_rows, files=traced)
    data = tuple(traced.values())
    others = (*background, *(getattr(one, "__qualname__", repr(one)) for one in processes))
    origin = origin_of(machine, job, money, data=data, options={"others": others})
    facts = play(
        machine,
        job,
        economics=money,
        trace=trace,
        step_by_step=step_by_step,
        progress=progress,
        live=live,
        record=record,
        processes=processes,
        background=background,
        most_bytes=most_bytes,
    )
    hold_back()
    facts = dataclasses.replace(facts, trace_sha256=one_sha256(data), origin=origin, others=others)
    summary, table, manifest = summarise_run(facts)
    partial = facts.run.interrupted
    return Result(summary, table, manifest, partial, facts if record or keep else None)


def play(
    machine: TopologyInput,
    job: WorkloadInput,
    *,
    economics: Economics | None = None,
    trace: Requests | None = None,
    step_by_step: bool = False,
    progress: Progress | None = None,
    live: Live | None = None,
    record: bool = False,
    processes: Sequence[Process] = (),
    background: Sequence[str] = (),
    most_bytes: float | None = None,
    check_load: bool = True,
) -> Facts:
    """What happens in a run, before anything is made of it and without what identifies it; see
    ``simulate``. ``trace`` are the requests that are replayed. ``check_load``: a run that may be
    overloaded is held against saturation.
    """
    job = job.on(machine.chip)
    job = dataclasses.replace(job, workload=job.workload.plain())
    wanted, size = job.workload, job.software.memory.block_tokens
    known = len(trace) if trace is not None else wanted.stated_requests or 0
    check_run_memory(known, 0, most_bytes, record=record)
    weighed = planned(job, trace, block_tokens=size)
    prepared = prepare(machine, job, weighed, trace)
    choice, price, service = prepared.choice, prepared.price, prepared.service
    cache, seats = prepared.cache, prepared.seats
    site = None
    if processes or background:
        from cluster_sim.beside import make_site

        site = make_site(machine, job, choice, price, processes, background)
    refuse_if_none_fits(job, service, trace)
    sample, capacity, saturation = None, None, None
    if trace is None:
        sample = sample_of(service, wanted, block_tokens=size, seats=seats)
        capacity, saturation = _limits(sample, choice, step_by_step, progress)
    turns = wanted.mean_turns if trace is None else len(trace) / trace.starts
    rate, load_of = _offered_rate(wanted, turns, choice, capacity, saturation)
    if trace is None:
        requests = make_requests(job, choice, capacity, saturation, rate, seats)
    else:
        requests = arranged(trace, wanted, rate)
    refuse_late(requests)
    steps = _most_steps(prepared, requests)
    check_run_memory(len(requests), steps, most_bytes, record=record)
    watch = _watcher(progress, "run", len(requests))
    run = serve(
        service,
        requests,
        step_by_step=step_by_step,
        watch=watch,
        live=live,
        record=record,
        site=site,
    )
    unjudged = check_load and site is None and saturation is None
    try:
        if sample is not None and unjudged and _in_doubt(job, run, requests):
            effort = Effort(error=wanted.sampling_error, most_requests=most_requests(choice))
            saturation = find_saturation(sample, effort, step_by_step=step_by_step)
    except KeyboardInterrupt:  # all requests are served, but nobody knows whether they could last
        run = dataclasses.replace(run, interrupted=True)
    return Facts(
        machine=machine,
        job=job,
        economics=economics or Economics(),
        choice=choice,
        price=price,
        cache=cache,
        requests=requests,
        run=run,
        capacity=capacity,
        saturation=saturation,
        load_of=load_of,
        asked_per_s=rate * len(requests) / requests.starts if rate else None,
        caching=service.caching and requests.prefixes is not None,
        trace_sha256=None,
        origin=Origin(inputs={}, files=(), config_hash=""),
    )


def _most_steps(prepared: Prepared, requests: Requests) -> float:
    """About how many steps engines do: one a token where each request is alone, and no more than
    fit into the time in which requests come.
    """
    tokens = float(requests.osl.sum())
    span_s = float(requests.arrival_s[-1]) if len(requests) else 0.0
    fitting = prepared.service.replicas * span_s / float(prepared.price.decode_base_s[1])
    return min(tokens, fitting + tokens / max(1, prepared.seats))


def _in_doubt(job: WorkloadInput, run: Run, requests: Requests) -> bool:
    """Whether a run at a given rate must be held against saturation: those inside grow, or the SLO
    is missed.
    """
    if job.workload.arrivals.kind != "open" or run.interrupted:
        return False
    wanted = targets(job.workload, requests)
    if wanted.limits and not keeps_slo(latencies(run, requests), wanted):
        return True
    return trend(run, requests, steady_window(run, requests).window).grows


def _limits(
    sample: Sample, choice: Choice, step_by_step: bool, progress: Progress | None
) -> tuple[Capacity | None, Saturation | None]:
    """Capacity and saturation, for open traffic whose load is a share of the capacity."""
    wanted = sample.wanted
    if wanted.arrivals.kind != "open" or wanted.arrivals.load is None:
        return None, None
    effort = Effort(error=wanted.sampling_error, most_requests=most_requests(choice)).within(
        wanted.stated_requests
    )
    watch = _watcher(progress, "flat out", sample.seats)
    saturation = find_saturation(sample, effort, step_by_step=step_by_step, watch=watch)
    if not any((part.slo or wanted.slo).limits for part in wanted.parts):
        return None, saturation
    best = next((c for c in choice.candidates if c.layout == choice.layout), None)
    guess = best.requests_per_s * sample.starts_share if best else None
    capacity = find_capacity(
        sample,
        effort,
        saturation.starts_per_s,
        saturation.error,
        guess_per_s=None if guess is None else GUESS * guess,
        step_by_step=step_by_step,
        progress=progress,
    )
    return capacity, saturation


def _offered_rate(
    wanted: Workload,
    turns: float,
    choice: Choice,
    capacity: Capacity | None,
    saturation: Saturation | None,
) -> tuple[float, str]:
    """Starts per second, of ``turns`` requests each in the mean: as given, or the load's share of
    the capacity (where it is only bounded, of the bound; without one, of the saturation, else, and
    for the requests of a trace, of the closed form), and which of these; 0 where requests do not
    come at a rate.
    """
    if wanted.arrivals.kind != "open":
        return 0.0, ""
    load = wanted.arrivals.load
    if load is None:
        return wanted.arrivals.rate or 0.0, ""
    if capacity and capacity.starts_per_s:
        bounded = wanted.stated_requests is None and capacity.error > wanted.sampling_error
        low = math.exp(-capacity.error) if bounded else 1.0
        return load * capacity.starts_per_s * low, "capacity"
    if saturation is not None and saturation.starts_per_s:
        return load * saturation.starts_per_s, "saturation"
    best = next(c for c in choice.candidates if c.layout == choice.layout)
    return load * best.requests_per_s / turns, "closed form"


def _watcher(progress: Progress | None, stage: str, total: int) -> Watcher | None:
    if progress is None:
        return None

    def watch(outcomes: Outcomes, _: int, __: float) -> bool:
        progress(stage, outcomes.finished / max(1, total))
        return False

    return watch
