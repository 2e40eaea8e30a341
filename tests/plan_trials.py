"""Plans played one by one, to see how good the chosen one is."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from cluster_sim.metrics import latencies, meets_slo
from cluster_sim.serving.admission import Residents
from cluster_sim.serving.candidate import Candidate, weigh
from cluster_sim.serving.generators import planned
from cluster_sim.serving.layouts import layouts
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.simulation import play as run
from cluster_sim.simulation import simulate
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.workload import Arrivals, Plan

ROUNDS, LEAST = 12, 5000  # requests that a replica is played with, by its batch
STEP = 0.08  # of the rate, until the one with the SLO is bracketed
VLLM = "workload.software=vllm"
QWEN = "workload.model=qwen3-235b-a22b"
# Machine, workload, changes.
SET_UPS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("h100_nvl8", "llama8b", ()),
    ("h100_nvl8", "llama70b", ()),
    ("h100_nvl8", "mixtral_8x7b", ()),
    ("h100_nvl8", "qwen3_32b", ()),
    ("h100_nvl8", "gpt_oss_120b", ()),
    ("h200_nvl8", "llama70b", ()),
    ("h200_nvl8", "llama70b", ("workload.software=sglang",)),
    ("h200_nvl8", "llama70b_closed", ()),
    ("h200_nvl8", "llama70b_offline", ()),
    ("h200_nvl8", "llama405b", ()),
    ("h200_nvl8", "reasoning", ()),
    ("h200_nvl8", "reasoning", ("engine.scheduler=trtllm_max_utilization",)),
    ("h200_nvl8", "deepseek_r1_8chips", ()),
    ("h200_nvl8", "deepseek_r1_8chips", ("workload.software=sglang",)),
    ("h200_nvl8", "llama70b", (QWEN,)),
    ("b200_nvl8", "llama8b", ()),
    ("b200_nvl8", "llama405b", ()),
    ("b200_nvl8", "deepseek_r1_8chips", ()),
    ("b200_nvl8", "reasoning", ()),
    ("b200_nvl8", "reasoning", (QWEN,)),
    ("b200_nvl8", "mixtral_8x7b", (VLLM,)),
    ("h20_nvl8", "llama70b", ()),
    ("h20_nvl8", "qwen3_32b", ()),
    ("h20_nvl8", "reasoning", (VLLM,)),
    ("a100_nvl8", "llama70b", (VLLM,)),
    ("a100_nvl8", "llama8b", ()),
    ("a100_nvl8", "mixtral_8x7b", ()),
    ("mi300x_8", "llama70b", (VLLM,)),
    ("mi300x_8", "llama405b", (VLLM,)),
    ("mi300x_8", "deepseek_r1_8chips", (VLLM,)),
    ("mi300x_8", "mixtral_8x7b", (VLLM,)),
    ("16 x gb200", "deepseek_r1_8chips", ()),
    ("8 x gb200", "gpt_oss_120b", ()),
    ("8 x gb200", "llama405b", ()),
)


@dataclass(frozen=True, slots=True)
class Trial:
    """A plan and the rate of the machine that a run of one of its replicas stands for."""

    candidate: Candidate
    requests_per_s: float


def chosen(machine: str, workload: str, changes: tuple[str, ...]) -> tuple[Choice, list[Candidate]]:
    """The choice, and every layout that fits, weighed."""
    inputs, job = set_up(machine, workload, changes)
    size = job.software.memory.block_tokens
    job = planned(job, None, block_tokens=size)
    choice = resolve(inputs, job)
    residents = Residents.of(job)
    weighed = [weigh(inputs, job, choice.recipe, lay, residents) for lay in layouts(inputs, job)]
    return choice, [candidate for candidate in weighed if candidate.fits]


def set_up(
    machine: str, workload: str, changes: tuple[str, ...]
) -> tuple[TopologyInput, WorkloadInput]:
    """The inputs of a set-up."""
    inputs = load_topology(machine)
    job = load_workload(workload, changes).on(inputs.chip)
    return inputs, dataclasses.replace(job, workload=job.workload.plain())


def play(machine: str, workload: str, changes: tuple[str, ...], candidate: Candidate) -> Trial:
    """Play one replica on its share of a router's stream (every so-manieth request), and count the
    others as alike: the rate within the SLO, or that of a closed loop or a backlog.
    """
    inputs, job = set_up(machine, workload, changes)
    wanted, copies = job.workload, candidate.replicas
    arrivals, count = wanted.arrivals, max(LEAST, ROUNDS * candidate.batch)
    if arrivals.kind == "open":
        return Trial(candidate, copies * _rate_within_slo(inputs, job, candidate, count))
    if arrivals.kind == "closed":
        clients = max(1, round((arrivals.concurrency or 1) / copies))
        arrivals, count = dataclasses.replace(arrivals, concurrency=clients), ROUNDS * clients
    else:
        count = max(1, round((wanted.stated_requests or count * copies) / copies))
    result = simulate(inputs, _alone(job, candidate, arrivals, count))
    rate = result.summary["requests_per_s"]
    if rate is None or arrivals.kind == "offline":
        rate = result.summary["finished"] / result.manifest["service_s"]
    return Trial(candidate, copies * rate)


def _alone(
    job: WorkloadInput, candidate: Candidate, arrivals: Arrivals, count: int
) -> WorkloadInput:
    lay = candidate.layout
    plan = Plan(tp=lay.tp, pp=lay.pp, ep=lay.ep, attn_dp=lay.attn_dp, replicas=1)
    wanted = dataclasses.replace(job.workload, plan=plan, arrivals=arrivals, requests=count)
    return dataclasses.replace(job, workload=wanted)


def _rate_within_slo(
    inputs: TopologyInput, job: WorkloadInput, candidate: Candidate, count: int
) -> float:
    """Where the share of requests that miss the SLO crosses what is allowed: in steps of 8 % from
    the rate of the closed form, then by the logarithm of the share.
    """
    copies, allowed = candidate.replicas, math.log(1 - job.workload.slo.attainment)
    expected, factor = candidate.requests_per_s / copies, 1.0

    def missing(factor: float) -> float:
        arrivals = dataclasses.replace(
            job.workload.arrivals,
            cv=job.workload.arrivals.cv * copies**-0.5,
            load=None,
            rate=expected * factor,
        )
        facts = run(inputs, _alone(job, candidate, arrivals, count))
        seen = latencies(facts.run, facts.requests)
        missed = ~meets_slo(seen, facts.targets)[seen.inside]
        return math.log(float(missed.mean()) + 0.3 / len(missed))

    last = missing(factor)
    step = STEP if last < allowed else -STEP
    while 0.1 < factor < 3:
        now = missing(factor + step)
        if (now < allowed) != (last < allowed):
            return expected * (factor + (allowed - last) / (now - last) * step)
        factor, last = factor + step, now
    return expected * factor if step > 0 else 0.0
