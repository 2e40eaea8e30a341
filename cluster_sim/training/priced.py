"""A priced step: virtual stages, the optimizer, and what each adds to the clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from cluster_sim.collectives.network import Axis
from cluster_sim.kernels.model_ops import ACTIVATION_BYTES
from cluster_sim.perf.train_layer import Work
from cluster_sim.perf.train_memory import stored_bytes
from cluster_sim.perf.train_stage import Called, Stage, Transfers, stages_of
from cluster_sim.training.job import Job
from cluster_sim.training.pipeline import Player, player
from cluster_sim.training.schedule import Schedule, schedule

NARROW = ("fp8", "fp8_block", "mxfp8", "fp4", "int8")  # dtypes whose scales need reductions
BARRIER_BYTES = 4.0  # the norm of all gradients
DEFAULT_HOST_LINK = 63e9  # PCIe 5 x16 in one direction (stas00/ml-engineering network README)
OFFLOADED_BYTES = 4.0  # gradients one way, updated weights the other, in fp32


@dataclass(frozen=True, slots=True)
class Pass:
    """What a virtual stage does once for a micro-batch: seconds by part; of ``dp`` what gathers and
    scatters of sharded parameters show, and what they take of the SMs while they are hidden.
    """

    parts: Mapping[str, float]

    @property
    def seconds(self) -> float:
        """All parts."""
        return sum(self.parts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Priced:
    """A step of a job. Per part of the model (``stages``): passes ``forward``, ``backward`` (of the
    inputs) and ``weight``; ``send`` of a boundary inside and outside a domain; ``optimizer_s`` per
    part; ``host_s`` and ``spread`` (a share of the step) once.
    """

    job: Job
    stages: tuple[Stage, ...]
    forward: tuple[Pass, ...]
    backward: tuple[Pass, ...]
    weight: tuple[Pass, ...]
    sends: tuple[Transfers, ...]
    optimizer_s: tuple[float, ...]
    barrier_s: float
    host_s: float
    spread: float


def price(job: Job) -> Priced:
    """Price a step."""
    case = job.case
    software = case.kernels.software
    stages = tuple(stages_of(case, job.parts))
    alike = {id(stage): stage for stage in stages}
    passes = {key: _passes(job, stage) for key, stage in alike.items()}
    optimizers = {key: _optimizer(job, stage) for key, stage in alike.items()}
    triples = [passes[id(stage)] for stage in stages]
    return Priced(
        job=job,
        stages=stages,
        forward=tuple(t[0] for t in triples),
        backward=tuple(t[1] for t in triples),
        weight=tuple(t[2] for t in triples),
        sends=_sends(job),
        optimizer_s=tuple(optimizers[id(stage)] for stage in stages),
        barrier_s=case.network.seconds(
            "all_reduce", case.network.axis(job.devices, 1), BARRIER_BYTES
        ),
        host_s=software.step,
        spread=_spread(job),
    )


def _spread(job: Job) -> float:
    """What stragglers add to a step, as a share: ``scale`` for every doubling beyond a host; with
    ``jitter`` they are drawn instead.
    """
    software, machine = job.case.kernels.software, job.machine
    if job.case.job.jitter is not None:
        return 0.0
    host = machine.topology.chips_per_host or machine.topology.chips
    doublings = max(0.0, math.log2(job.devices / (host * machine.chip.devices_per_chip)))
    narrow = job.case.job.precision in NARROW
    return (software.scale_fp8 if narrow else software.scale) * doublings if job.dp > 1 else 0.0


def _passes(job: Job, stage: Stage) -> tuple[Pass, Pass, Pass]:
    """Forward, gradient of the inputs (with what is computed again), gradient of the weights.

    Model: gathers and scatters of sharded parameters overlap with the pass; what is longer than it
    shows, and the first layer's gather always. Beside hidden ones kernels have fewer SMs.
    """
    software = job.case.kernels.software
    back = Work(inputs=stage.work.inputs).plus(stage.recompute)
    sides = [dict(stage.work.forward), dict(back.inputs), dict(stage.work.weights)]
    if stage.micro_gather.seconds:
        layers = max(1, stage.content.layers)
        gather, scatter = stage.micro_gather.seconds, stage.micro_scatter.seconds
        forward = sum(sides[0].values())
        backward = sum(sides[1].values()) + sum(sides[2].values())
        sides[0]["dp"] = _shown(forward, gather, layers, software.comm_sms)
        sides[1]["dp"] = _shown(backward, gather + scatter, layers, software.comm_sms)
    offloaded = job.plan.offload.activations
    if offloaded:
        moved = offloaded * stored_bytes(job.case, stage) / host_link(job)
        for side in sides[:2]:
            side["offload"] = max(0.0, moved - sum(side.values()))
    return Pass(sides[0]), Pass(sides[1]), Pass(sides[2])


def _shown(compute_s: float, comm_s: float, layers: int, sms: float) -> float:
    """What collectives beside a pass add to it: the first layer's, what is longer than the pass,
    and the SMs that they take while they run.
    """
    first = comm_s / layers
    hidden = min(comm_s - first, compute_s)
    return first + max(0.0, comm_s - first - compute_s) + sms * hidden


def _sends(job: Job) -> tuple[Transfers, ...]:
    """A micro-batch's activations over each boundary between parts of the model, inside a domain or
    over NICs as the stages lie.
    """
    case, plan, network = job.case, job.plan, job.case.network
    split = plan.tp if plan.sequence_parallel else 1
    message = case.tokens * case.model.hidden * ACTIVATION_BYTES / split
    homes = [_home(job, part) for part in range(job.parts)]
    inside = {
        (here, there): case.groups.stages_meet(network.domain, here, there)
        for here, there in dict.fromkeys(pairwise(homes))
        if here != there
    }
    near, far = boundaries(job)
    seconds = {
        here: network.seconds("send_recv", near if here else far, message)
        for here in dict.fromkeys(inside.values())
    }
    calls = {
        here: Called(
            "send_recv",
            axis := near if here else far,
            case.network.algorithm("send_recv", axis, message),
            message,
        )
        for here in seconds
    }
    return tuple(
        Transfers()
        if here == there
        else Transfers(seconds[inside[here, there]], (calls[inside[here, there]],))
        for here, there in pairwise(homes)
    )


def boundaries(job: Job) -> tuple[Axis, Axis]:
    """Neighbouring stages inside a domain, and across: all boundaries of all replicas at the same
    time.
    """
    network, pp = job.case.network, job.plan.pp
    far = network.axis(pp, job.case.groups.strides["pp"])
    return network.axis(2, 1), far if far.domains > 1 else network.axis(2, network.domain)


def _home(job: Job, part: int) -> int:
    """The stage that holds a part of the model (of DualPipe: its first copy)."""
    chunk, stage = divmod(part, job.plan.pp)
    turns = job.schedule == "dualpipe_v" and chunk
    return job.plan.pp - 1 - stage if turns else stage


def _optimizer(job: Job, stage: Stage) -> float:
    """Seconds of the update of a part of the model on a device.

    Model: ``optimizer_bytes`` moved a parameter of its shard; states on the host cross its link
    twice.
    """
    case, plan = job.case, job.plan
    dense = stage.trained - stage.trained_experts
    groups = case.groups
    shards = (groups.sharded.ranks, groups.expert_sharded.ranks) if plan.zero else (1, 1)
    mine = dense / shards[0] + stage.trained_experts / shards[1]
    seconds = case.kernels.stream(mine * case.kernels.software.optimizer_bytes)
    if plan.offload.optimizer:
        seconds += 2 * plan.offload.optimizer * mine * OFFLOADED_BYTES / host_link(job)
    return seconds


def host_link(job: Job) -> float:
    """Bytes/s between a device and the memory of its host."""
    board = job.machine.topology.board
    if board is None:
        return DEFAULT_HOST_LINK
    return board.pcie / job.machine.chip.devices_per_chip


@lru_cache(maxsize=256)
def laid_out(name: str, pp: int, micro_batches: int, chunks: int) -> Player:
    """A schedule, ready to be played."""
    return player(schedule(name, pp, micro_batches, chunks))


@lru_cache(maxsize=256)
def last_gradients(plan: Schedule) -> tuple[tuple[int, int], ...]:
    """The last node that adds to the gradients of each virtual stage."""
    found: dict[int, int] = {}
    for number, node in enumerate(plan.nodes):
        for op in node.ops:
            if op.kind == "W" or op.whole:
                found[plan.virtual(node.stage, op.chunk)] = number
    return tuple(sorted(found.items()))


@lru_cache(maxsize=1024)
def forward_node(plan: Schedule, part: int, micro_batch: int) -> int:
    """The node of a micro-batch's forward pass over a virtual stage."""
    for number, node in enumerate(plan.nodes):
        for op in node.ops:
            here = op.kind == "F" and plan.virtual(node.stage, op.chunk) == part
            if here and op.micro_batch == micro_batch:
                return number
    raise ValueError(f"micro_batch(={micro_batch}) does not pass virtual stage {part}")


def schedule_of(job: Job, micro_batches: int | None = None) -> Schedule:
    """The schedule of a job."""
    return player_of(job, micro_batches).plan


def player_of(job: Job, micro_batches: int | None = None) -> Player:
    """The schedule of a job, ready to be played, for fewer micro-batches if given."""
    plan = job.plan
    chunks = 2 if job.schedule.startswith("dualpipe") else plan.vpp
    return laid_out(job.schedule, plan.pp, micro_batches or job.micro_batches, chunks)
