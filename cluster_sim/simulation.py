"""simulate(topology, workload, seed) -> Result: the whole flow of a run on one page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cluster_sim import __version__
from cluster_sim.capacity import Capacity, FlatOut, find_capacity, run_flat_out
from cluster_sim.errors import SpecError
from cluster_sim.facts import Facts
from cluster_sim.metrics import Targets, targets
from cluster_sim.perf.memory import KvCache, kv_cache
from cluster_sim.perf.plan import Choice, resolve
from cluster_sim.perf.step_price import StepPrice, compile_step_price
from cluster_sim.result import Result, config_hash
from cluster_sim.serving.client import ClientWait
from cluster_sim.serving.event_driven import Live, Watcher
from cluster_sim.serving.generators import draw_requests, planned
from cluster_sim.serving.pace import Pace
from cluster_sim.serving.records import Outcomes
from cluster_sim.serving.requests import Prefixes, Requests, all_at_once
from cluster_sim.serving.scheduler import SCHEDULERS
from cluster_sim.serving.service import Service, serve
from cluster_sim.serving.stepper import ReplicaSpec
from cluster_sim.serving.trace_rows import TraceOptions
from cluster_sim.serving.traces import read_trace, trace_digest
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.workload import Economics, Workload
from cluster_sim.summary import summarise_run

if TYPE_CHECKING:
    from cluster_sim.serving.site import Process

DEFAULT_REQUESTS = 10_000
CLOSED_ROUNDS = 10  # requests (sessions) per client of a closed loop, unless given
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
) -> Result:
    """Simulate a workload on a topology.

    Names are looked up as on the command line. ``step_by_step`` runs the slow reference, with
    identical results. ``live`` sees the run itself, not the search for the capacity; ``record``
    keeps what a timeline needs in ``facts``, ``keep`` all but that. ``processes`` are generator
    functions of a ``Cluster`` that run on the same machine, ``background`` is traffic on it as on
    the command line; both leave the search for the capacity alone. An interrupt from the keyboard
    gives what is finished, marked partial. Raises SpecError, UnknownNameError, DoesNotFitError for
    what the user can mend.
    """
    machine = load_topology(topology) if isinstance(topology, str) else topology
    job = load_workload(workload) if isinstance(workload, str) else workload
    if seed is not None:
        job = dataclasses.replace(job, workload=dataclasses.replace(job.workload, seed=seed))
    money = economics or Economics()
    job = job.on(machine.chip)
    trace_sha256 = _digest(job.workload)
    others = (*background, *(getattr(one, "__qualname__", repr(one)) for one in processes))
    hashed = config_hash(machine, job, money, trace_sha256, others)
    facts = play(
        machine,
        job,
        economics=money,
        step_by_step=step_by_step,
        skip_bad_rows=skip_bad_rows,
        progress=progress,
        live=live,
        record=record,
        processes=processes,
        background=background,
    )
    facts = dataclasses.replace(facts, trace_sha256=trace_sha256, config_hash=hashed, others=others)
    summary, table, manifest = summarise_run(facts)
    partial = facts.run.interrupted
    return Result(summary, table, manifest, partial, facts if record or keep else None)


def play(
    machine: TopologyInput,
    job: WorkloadInput,
    *,
    economics: Economics | None = None,
    step_by_step: bool = False,
    skip_bad_rows: bool = False,
    progress: Progress | None = None,
    live: Live | None = None,
    record: bool = False,
    processes: Sequence[Process] = (),
    background: Sequence[str] = (),
) -> Facts:
    """What happens in a run, before anything is made of it and without what identifies it;
    see ``simulate``.
    """
    job = job.on(machine.chip)
    job = dataclasses.replace(job, workload=job.workload.plain())
    wanted, size = job.workload, job.software.memory.block_tokens
    requests = make_requests(wanted, block_tokens=size, skip_bad_rows=skip_bad_rows)
    choice = resolve(machine, planned(job, requests, block_tokens=size))
    layout, dtypes = choice.layout, choice.recipe
    price = compile_step_price(machine, job.model, job.software, layout, dtypes)
    cache = kv_cache(machine.chip, job.model, job.software, layout, dtypes)
    service = make_service(job, choice, price, cache, requests)
    site = None
    if processes or background:
        from cluster_sim.beside import make_site

        site = make_site(machine, job, choice, price, processes, background)
    capacity, flat_out = _limits(service, requests, wanted, step_by_step, progress)
    if wanted.arrivals.kind == "open":
        rate = _offered_rate(wanted, capacity, flat_out)
        requests = _at_rate(requests, wanted, rate, size)
    elif wanted.arrivals.kind == "offline":
        requests = all_at_once(requests)
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
        flat_out=flat_out,
        caching=service.spec.prefixes is not None,
        trace_sha256=None,
        config_hash="",
        version=__version__,
    )


def make_requests(
    wanted: Workload, *, block_tokens: int | None = None, skip_bad_rows: bool = False
) -> Requests:
    """The requests that a workload describes; open traffic starts once a second in the mean until a
    rate is set. Shared prefixes come in units of ``block_tokens``, not at all without it.
    """
    arrivals = wanted.arrivals
    if arrivals.kind == "trace":
        until_s = None if wanted.duration is None else wanted.duration * arrivals.time_scale
        options = TraceOptions(
            limit=wanted.requests,
            until_s=until_s,
            skip_bad_rows=skip_bad_rows,
            seed=wanted.seed,
            block_tokens=block_tokens,
            classes=wanted.classes,
        )
        requests = read_trace(Path(arrivals.trace or ""), arrivals.trace_format, options)
        return requests.faster(arrivals.time_scale)
    count = wanted.requests or DEFAULT_REQUESTS
    if arrivals.kind == "closed" and wanted.requests is None:
        turns = sum(p.share * (p.sessions.turns.average if p.sessions else 1) for p in wanted.parts)
        count = round(CLOSED_ROUNDS * (arrivals.concurrency or 1) * turns)
    return draw_requests(wanted, count, seed=wanted.seed, block_tokens=block_tokens)


def _digest(wanted: Workload) -> str | None:
    """What identifies the trace of a replay; None without one, or if it cannot be read."""
    if wanted.arrivals.kind != "trace":
        return None
    try:
        return trace_digest(Path(wanted.arrivals.trace or ""))
    except OSError:
        return None


def make_service(
    job: WorkloadInput, choice: Choice, price: StepPrice, cache: KvCache, requests: Requests
) -> Service:
    """The replicas of a plan."""
    wanted, software = job.workload, job.software
    longest = int(requests.osl.max())
    if wanted.arrivals.kind != "trace":
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
        prefixes=_shared_prefixes(job, requests),
        pace=Pace.of(software.tokens_per_step),
    )
    closed = wanted.arrivals.concurrency if wanted.arrivals.kind == "closed" else None
    return Service(
        spec,
        choice.replicas,
        wanted.plan.router,
        job.model.max_context,
        closed,
        ClientWait.of(software),
    )


def _shared_prefixes(job: WorkloadInput, requests: Requests) -> Prefixes | None:
    """What the prefix cache may share; None if it is off, or if the model's state cannot be kept
    unit by unit.
    """
    prefixes, size = requests.prefixes, job.software.memory.block_tokens
    if prefixes is None or not job.software.prefix_cache or job.model.linear is not None:
        return None
    if prefixes.unit_tokens % size:
        raise SpecError(
            f"prefixes come in units of {prefixes.unit_tokens} tokens, which blocks of {size} "
            "tokens do not divide; set engine.block_tokens or engine.prefix_cache=false"
        )
    return prefixes


def _limits(
    service: Service,
    requests: Requests,
    wanted: Workload,
    step_by_step: bool,
    progress: Progress | None,
) -> tuple[Capacity | None, FlatOut | None]:
    """Capacity and flat out, for open traffic whose load is a share of the capacity."""
    if wanted.arrivals.kind != "open" or wanted.arrivals.load is None:
        return None, None
    watch = _watcher(progress, "flat out", len(requests))
    flat_out = run_flat_out(service, requests, step_by_step=step_by_step, watch=watch)
    slos: Targets = targets(wanted, requests)
    if not slos.limits:
        return None, flat_out
    capacity = find_capacity(
        service,
        requests,
        slos,
        flat_out.starts_per_s,
        step_by_step=step_by_step,
        progress=progress,
    )
    return capacity, flat_out


def _offered_rate(wanted: Workload, capacity: Capacity | None, flat_out: FlatOut | None) -> float:
    """Starts per second: as given, or the load's share of the capacity (without one, of the
    saturation).
    """
    if wanted.arrivals.load is None:
        return wanted.arrivals.rate or 0.0
    reference = capacity.starts_per_s if capacity else 0.0
    if not reference and flat_out is not None:
        reference = flat_out.starts_per_s
    return wanted.arrivals.load * reference


def _at_rate(requests: Requests, wanted: Workload, rate: float, block_tokens: int) -> Requests:
    """The requests at a rate; with a duration those whose session starts in it, ``requests`` of
    them at most if given.
    """
    if wanted.duration is None:
        return requests.at_rate(rate)
    if wanted.requests is None:
        expected = rate * wanted.duration * len(requests) / requests.starts
        count = int(expected + 10 * (expected * len(requests) / requests.starts) ** 0.5) + 10
        requests = draw_requests(wanted, count, seed=wanted.seed, block_tokens=block_tokens)
    timed = requests.at_rate(rate)
    return timed.first(max(1, int((timed.arrival_s <= wanted.duration).sum())))


def _watcher(progress: Progress | None, stage: str, total: int) -> Watcher | None:
    if progress is None:
        return None

    def watch(outcomes: Outcomes, _: int, __: float) -> bool:
        progress(stage, outcomes.finished / max(1, total))
        return False

    return watch
