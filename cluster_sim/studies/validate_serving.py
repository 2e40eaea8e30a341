"""Replays of measured serving runs, and what they predict of every metric."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Literal

import numpy as np

from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.facts import Facts
from cluster_sim.metrics import latencies
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.simulation import play
from cluster_sim.specs.engine_settings import apply_engine
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_spec, load_topology, read
from cluster_sim.specs.model import Model
from cluster_sim.specs.software import Software
from cluster_sim.specs.workload import Arrivals, Lengths, Plan, Slo, Workload
from cluster_sim.studies.validate_cases import Case
from cluster_sim.studies.validate_jobs import OWN_DRAFTS, Job, SkippedError
from cluster_sim.summary import summarise_run

ROUNDS = 10  # requests per client of a closed loop (InferenceX: 10 x concurrency prompts)
MOST_CLOSED = 20_000  # requests of a closed loop beyond which 3 rounds must do
LEAST_ROUNDS = 3
STATED = 300  # requests of open traffic at a stated rate (as many as ShareGPT replays have)
SEARCH_ERROR = 0.06  # half of the 95 % interval of such a capacity, beside errors of 14 %
AT_RATE = 2_000  # requests of a replica of a best plan at a rate
# Requests of an offline run by (isl, osl): data sets of TensorRT-LLM's perf-overview (recalled).
OFFLINE_REQUESTS = {
    (128, 128): 30_000,
    (128, 4096): 1_500,
    (2048, 2048): 1_500,
    (5000, 500): 1_500,
    (1000, 2000): 1_500,
    (20000, 2000): 1_000,
}
OFFLINE_DEFAULT = 3_000
# Shapes of data sets of which only the means are known: coefficient of variation and longest, of
# prompts and of answers; all assumed (limits of 1,024 tokens: MLPerf rules).
SHAPES: dict[str, tuple[float, int | None, float, int | None]] = {
    "openorca": (0.8, 1024, 0.7, 1024),
    "mlperf_405b_mix": (0.5, 20_000, 0.5, 2_000),
}
OTHER_SHAPE: tuple[float, int | None, float, int | None] = (0.8, None, 0.8, None)
# Deciles of 300 ShareGPT requests (casys-kaist/LLMServingSim @5daddb21a545, MIT).
DECILES: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {
    "sharegpt_trace": (
        (262, 363, 435, 521, 621, 732, 834, 1018, 1214, 1460, 3998),
        (512, 531, 550, 574, 592, 632, 699, 752, 768, 770, 1021),
    )
}
RATES = ("output_tokens_per_s", "input_tokens_per_s", "total_tokens_per_s", "requests_per_s")
LATENCIES, STATS = ("ttft", "tpot", "e2e"), ("mean", "p50", "p99")
UNIFORM_MEAN = 0.9  # mean over nominal of lengths drawn evenly from 0.8 to 1


def replay(job: Job) -> dict[str, float]:
    """The metrics of a job by name, as ``predicted`` reads them; raises SkippedError."""
    try:
        machine = _machine(job.chip, job.n_chips)
        inputs, replicas = _inputs(machine, job)
        facts = play(machine, inputs, check_load=False)
    except DoesNotFitError as error:
        raise SkippedError("does not fit", str(error)) from None
    except SpecError as error:
        raise SkippedError("inputs refused", str(error).splitlines()[0]) from None
    return _metrics(job, facts, replicas)


def with_own_drafts(job: Job) -> Job | None:
    """A job that does not say whether it drafted, with the drafts of the model's own MTP layers;
    None for other jobs and where the model has none.
    """
    if not job.drafts_unstated or not _model(job.model).mtp_layers:
        return None
    return dataclasses.replace(job, drafts_unstated=False, draft_tokens=OWN_DRAFTS)


def predicted(case: Case, metrics: Mapping[str, float]) -> float:
    """A case's value among the metrics of its job; raises SkippedError if it is none of them.

    Rows that do not say which statistic they hold are means (flag ``stat_unknown``); derived
    throughput follows the formula that the measured one came from.
    """
    name = case.text("metric")
    if "stat_unknown" in case.flags:
        name = name.replace("_p50", "_mean")
    if "derived" in case.flags and name == "output_tokens_per_s_per_chip":
        return _steady(case, metrics)
    if name == "latency_ms":
        name = "e2e_ms_mean"
    if name not in metrics:
        raise SkippedError("metric not predicted", f"{name} in mode {case.text('mode')}")
    return metrics[name]


def _steady(case: Case, metrics: Mapping[str, float]) -> float:
    """Model: concurrency x L / (TTFT + (L - 1) TPOT) / chips, L the mean length of answers."""
    tokens = case.number("osl") or 1.0
    if case.text("isl_dist") == "uniform_0.8_1.0":
        tokens *= UNIFORM_MEAN
    clients = case.count("concurrency", 0)
    seconds = (metrics["ttft_ms_mean"] + (tokens - 1) * metrics["tpot_ms_mean"]) / 1e3
    return clients * tokens / seconds / case.count("n_chips")


@cache
def _machine(chip: str, chips: int) -> TopologyInput:
    return load_topology(f"{chips} x {chip}")


@cache
def _model(name: str) -> Model:
    return load_spec("model", name, Model)[1]


@cache
def _profile(name: str) -> tuple[Software, Mapping[str, Any]]:
    return load_spec("software", name, Software)[1], read("software", name)[1]


def _inputs(machine: TopologyInput, job: Job) -> tuple[WorkloadInput, int]:
    """The workload of a job, and how many replicas the simulated one stands for.

    The replicas of a best plan share nothing and a round-robin router deals every k-th request to
    each, whose gaps are then Erlang of shape k; so one of them is simulated, with a cv of 1 /
    sqrt(k).
    """
    base, data = _profile(job.software)
    engine = _engine(job, base)
    chosen = "" if job.best_plan else f"tp{job.tp}"
    isl, osl = _lengths(job)
    engine["max_model_len"] = _longest(isl, osl)
    wanted = Workload(
        name=f"{job.model}-{job.mode}{chosen}",
        title="a measured run",
        model=job.model,
        software=job.software,
        precision=job.dtype,  # type: ignore[arg-type]
        traffic="a measured run",
        isl=isl,
        osl=osl,
        arrivals=_arrivals(job),
        slo=_slo(job),
        requests=_requests(job),
        sampling_error=SEARCH_ERROR,
        plan=Plan(tp=job.tp, pp=job.pp, ep=job.ep, attn_dp=job.attn_dp, replicas=job.replicas),
        engine=engine,
    )
    software = apply_engine(base, data, wanted)
    model = _model(job.model)
    # The measured engine ran these lengths, so its limit was set where they fit.
    model = dataclasses.replace(model, max_context=max(model.max_context, _longest(isl, osl)))
    inputs = WorkloadInput(workload=wanted, model=model, software=software, files=())
    if not job.best_plan:
        _check_devices(machine, job)
        return inputs, 1
    choice = resolve(machine, inputs.on(machine.chip))
    return _single(inputs, choice), choice.replicas


def _check_devices(machine: TopologyInput, job: Job) -> None:
    devices = (job.tp or 1) * (job.pp or 1) * (job.attn_dp or 1) * (job.replicas or 1)
    have = machine.topology.chips * machine.chip.devices_per_chip
    if devices != have:
        detail = f"{devices} devices by parallelism, {have} by chips"
        raise SkippedError("parallelism and chips disagree", detail)


def _single(inputs: WorkloadInput, choice: Choice) -> WorkloadInput:
    """The workload on one replica of a plan."""
    wanted, layout = inputs.workload, choice.layout
    plan = Plan(tp=layout.tp, pp=layout.pp, ep=layout.ep, attn_dp=layout.attn_dp, replicas=1)
    arrivals = wanted.arrivals
    if arrivals.kind == "open":
        rate = arrivals.rate and arrivals.rate / choice.replicas
        arrivals = dataclasses.replace(arrivals, cv=choice.replicas**-0.5, rate=rate)
    return dataclasses.replace(
        inputs, workload=dataclasses.replace(wanted, plan=plan, arrivals=arrivals)
    )


def _engine(job: Job, base: Software) -> dict[str, Any]:
    """Settings of the engine that the run states."""
    engine: dict[str, Any] = {}
    if job.mode == "closed_loop":
        engine["client_loaded_steps"] = base.client.loaded_steps + job.held_steps
    else:  # other harnesses time the engine in its own process, without an API server before it
        engine |= {"client_idle": "0 s", "client_loaded_steps": 0}
    if job.kv_dtype:
        engine["kv_dtype"] = job.kv_dtype
    if job.max_num_seqs:
        engine["max_num_seqs"] = job.max_num_seqs
    if job.max_num_batched_tokens:
        engine["max_num_batched_tokens"] = job.max_num_batched_tokens
    if job.scheduler:
        engine["scheduler"] = job.scheduler
    if job.memory_fraction:
        engine["memory_fraction"] = job.memory_fraction
    if job.cuda_graph_sizes:
        engine["cuda_graph_sizes"] = list(job.cuda_graph_sizes)
    if job.draft_tokens:
        engine["draft_tokens"] = job.draft_tokens
    if job.batch:
        engine |= {"scheduler": "static", "max_num_seqs": job.batch}
    return engine


def _arrivals(job: Job) -> Arrivals:
    if job.mode == "closed_loop":
        return Arrivals(kind="closed", concurrency=job.concurrency)
    if job.mode in ("offline", "static_batch"):
        return Arrivals(kind="offline")
    return Arrivals(kind="open", rate=job.rate) if job.rate else Arrivals(kind="open", load=1.0)


def _slo(job: Job) -> Slo:
    """Limits at the 99th percentile each: a request keeps both or counts as late."""
    return Slo(
        ttft=job.ttft_limit_ms and job.ttft_limit_ms / 1e3,
        tpot=job.tpot_limit_ms and job.tpot_limit_ms / 1e3,
    )


def _requests(job: Job) -> int | Literal["auto"]:
    if job.batch:
        return job.batch
    if job.concurrency:
        return max(min(ROUNDS * job.concurrency, MOST_CLOSED), LEAST_ROUNDS * job.concurrency)
    if job.mode == "open_loop":
        if job.best_plan:
            return AT_RATE if job.rate else "auto"
        return STATED
    return OFFLINE_REQUESTS.get((round(job.isl), round(job.osl)), OFFLINE_DEFAULT)


def _lengths(job: Job) -> tuple[Lengths, Lengths]:
    isl, osl = max(1, round(job.isl)), max(1, round(job.osl))
    if job.lengths == "fixed":
        return Lengths(fixed=isl), Lengths(fixed=osl)
    if job.lengths == "uniform_0.8_1.0":
        return _uniform(isl), _uniform(osl)
    if job.lengths in DECILES:
        prompts, answers = DECILES[job.lengths]
        return _deciles(prompts), _deciles(answers)
    isl_cv, isl_most, osl_cv, osl_most = SHAPES.get(job.lengths, OTHER_SHAPE)
    return (
        Lengths(mean=job.isl, cv=isl_cv, max=isl_most or 10 * isl),
        Lengths(mean=job.osl, cv=osl_cv, max=osl_most or 10 * osl),
    )


def _deciles(tokens: Sequence[int]) -> Lengths:
    return Lengths(quantiles=tuple((tenth / 10, n) for tenth, n in enumerate(tokens)))


def _longest(isl: Lengths, osl: Lengths) -> int:
    return isl.longest + osl.longest


def _uniform(most: int) -> Lengths:
    return Lengths(quantiles=((0.0, max(1, round(0.8 * most))), (1.0, most)))


def _metrics(job: Job, facts: Facts, replicas: int) -> dict[str, float]:
    """Rates and latencies as a benchmark of the mode takes them."""
    requests, finished = len(facts.requests), facts.run.outcomes.finished
    if finished < requests:
        raise SkippedError("requests were rejected", f"{requests - finished} of {requests}")
    if job.mode == "open_loop" and job.best_plan:
        found = _within_limits(facts, replicas) if facts.capacity else _in_window(facts, replicas)
    else:
        found = _over_all(facts, replicas)
    per_chip = {f"{name}_per_chip": found[name] / job.n_chips for name in RATES if name in found}
    return {**found, **per_chip}


def _within_limits(facts: Facts, replicas: int) -> dict[str, float]:
    """Rates at the capacity."""
    capacity = facts.capacity
    assert capacity is not None
    if capacity.requests is None:
        raise SkippedError("no rate keeps the limits", capacity.why_not or capacity.unknown)
    rate, isl = replicas * capacity.requests_per_s, float(capacity.requests.isl.mean())
    tokens = (capacity.osl_mean, isl, capacity.osl_mean + isl, 1.0)
    return {name: rate * each for name, each in zip(RATES, tokens, strict=True)}


def _in_window(facts: Facts, replicas: int) -> dict[str, float]:
    """Rates and latencies in the window of open traffic at a rate."""
    row = summarise_run(facts)[0]
    found = {name: replicas * row[name] for name in RATES if row[name] is not None}
    columns = {f"{name}_ms_{stat}": f"{name}_{stat}_ms" for name in LATENCIES for stat in STATS}
    return found | {name: row[column] for name, column in columns.items() if row[column]}


def _over_all(facts: Facts, replicas: int) -> dict[str, float]:
    """Latencies of all requests, rates from the first arrival to the last token."""
    requests = facts.requests
    seen = latencies(facts.run, requests)
    arrival = np.array(facts.run.outcomes.arrival_s)
    seconds = float((arrival + seen.e2e_s).max() - arrival.min()) / replicas
    isl, osl = float(np.sum(requests.isl)), float(np.sum(requests.osl))
    totals = (osl / seconds, isl / seconds, (isl + osl) / seconds, len(arrival) / seconds)
    found = dict(zip(RATES, totals, strict=True))
    for name, seen_s in zip(LATENCIES, (seen.ttft_s, seen.tpot_s, seen.e2e_s), strict=True):
        values = seen_s[~np.isnan(seen_s)] * 1e3
        if len(values):
            parts = (float(values.mean()), *np.percentile(values, (50, 99)).tolist())
            names = (f"{name}_ms_{stat}" for stat in STATS)
            found |= dict(zip(names, parts, strict=True))
    return found
