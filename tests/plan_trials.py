"""Plans played one by one, to see how good the chosen one is."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from cluster_sim.serving.admission import Residents
from cluster_sim.serving.candidate import Candidate, weigh
from cluster_sim.serving.generators import planned
from cluster_sim.serving.layouts import layouts
from cluster_sim.serving.plan import Choice, resolve
from cluster_sim.simulation import make_requests, simulate
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.load import load_topology, load_workload
from cluster_sim.specs.workload import Plan

ROUNDS, LEAST, MOST = 10, 3000, 20_000  # requests that a replica is played with, by its batch
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
    job = planned(job, make_requests(job.workload, block_tokens=size), block_tokens=size)
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


def play(
    machine: str, workload: str, changes: tuple[str, ...], candidate: Candidate, seed: int = 1
) -> Trial:
    """Play one replica on its share of a router's stream (every so-manieth request), and count the
    others as alike: the rate within the SLO, or that of a closed loop or a backlog.
    """
    inputs, job = set_up(machine, workload, changes)
    wanted, lay, copies = job.workload, candidate.layout, candidate.replicas
    arrivals = wanted.arrivals
    count = min(MOST, max(LEAST, ROUNDS * candidate.batch))
    if arrivals.kind == "closed":
        clients = max(1, round((arrivals.concurrency or 1) / copies))
        arrivals, count = dataclasses.replace(arrivals, concurrency=clients), ROUNDS * clients
    elif arrivals.kind == "offline":
        count = max(1, round((wanted.requests or count * copies) / copies))
    else:
        arrivals = dataclasses.replace(arrivals, cv=arrivals.cv * copies**-0.5)
    alone = dataclasses.replace(
        wanted,
        plan=Plan(tp=lay.tp, pp=lay.pp, ep=lay.ep, attn_dp=lay.attn_dp, replicas=1),
        arrivals=arrivals,
        requests=count,
    )
    row = simulate(inputs, dataclasses.replace(job, workload=alone), seed=seed).summary
    rate = row["capacity_requests_per_s" if arrivals.kind == "open" else "requests_per_s"]
    return Trial(candidate, copies * (rate or 0.0))
