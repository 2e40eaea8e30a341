"""Steps to play in tests: random work on a machine of a few resources per stage."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cluster_sim.training.schedule import Schedule
from cluster_sim.training.step_work import Needed, Phases, Ready, StepWork
from cluster_sim.work import Activity, Phase, kernel, pause, traffic

SM, NVLINK, SEND, RECEIVE = range(4)  # resources of a stage, each of capacity 1
RESOURCES = 4


def resource(stage: int, which: int) -> int:
    return stage * RESOURCES + which


def simple(plan: Schedule, forward_s: float, backward_s: float, **more: object) -> StepWork:
    """Equal stages without resources."""
    virtual = range(plan.virtual_stages)

    def phases(seconds: float) -> tuple[Phases, ...]:
        return tuple((Phase(name="all", activity=pause(seconds)),) for _ in virtual)

    return StepWork(
        schedule=plan,
        forward=phases(forward_s),
        backward=phases(backward_s),
        weight=tuple(() for _ in virtual),
        **more,  # type: ignore[arg-type]
    )


def random_work(
    plan: Schedule,
    seed: int,
    *,
    kernel_sm: float = 0.8,
    send_sm: float = 0.05,
    nic: float = 1.0,
    slow_sends: float = 1.0,
    receive: bool = True,
    expert: float = 0.0,
    buckets: int = 2,
    bucket_sm: float = 0.1,
    ready: Ready = "after",
    needed: Needed = "before",
) -> StepWork:
    """Kernels, tensor-parallel traffic inside the stage, ``expert`` traffic on the NIC, sends and
    buckets on it, each with its share of the SMs.
    """
    draw = np.random.default_rng(seed)
    virtual, stages = plan.virtual_stages, plan.stages

    def home(v: int) -> int:
        return plan.home(v)[0]

    def phases(v: int) -> Phases:
        stage, s = home(v), float(draw.uniform(0.2, 2))
        some = [
            Phase(name="gemm", activity=kernel(s, {resource(stage, SM): kernel_sm * s})),
            Phase(name="tp", activity=traffic(s / 4, {resource(stage, NVLINK): s / 4})),
        ]
        if expert:
            links = dict.fromkeys((resource(stage, SEND), resource(stage, RECEIVE)), expert * s)
            some.append(Phase(name="ep", activity=traffic(expert * s, links)))
        return tuple(some)

    def send(source: int, target: int) -> Activity | None:
        if source == target:
            return None
        s = float(draw.uniform(0.01, 0.2)) * slow_sends
        links = {resource(source, SEND): s * nic}
        if receive:
            links[resource(target, RECEIVE)] = s * nic
        return traffic(s, links, {resource(source, SM): s * send_sm} if send_sm else None)

    def bucket(v: int) -> Activity:
        s, stage = float(draw.uniform(0.05, 1)), home(v)
        links = dict.fromkeys((resource(stage, SEND), resource(stage, RECEIVE)), s)
        return traffic(s, links, {resource(stage, SM): s * bucket_sm})

    def per(count: int, make: Callable[[int], object]) -> tuple[object, ...]:
        return tuple(make(i) for i in range(count))

    return StepWork(
        schedule=plan,
        forward=per(virtual, phases),  # type: ignore[arg-type]
        backward=per(virtual, phases),  # type: ignore[arg-type]
        weight=per(virtual, phases),  # type: ignore[arg-type]
        send_forward=per(virtual - 1, lambda b: send(home(b), home(b + 1))),  # type: ignore[arg-type]
        send_backward=per(virtual - 1, lambda b: send(home(b + 1), home(b))),  # type: ignore[arg-type]
        gradients=per(virtual, lambda v: tuple(bucket(v) for _ in range(buckets))),  # type: ignore[arg-type]
        gathers=per(virtual, lambda v: tuple(bucket(v) for _ in range(buckets))),  # type: ignore[arg-type]
        gradients_ready=ready,
        gathers_needed=needed,
        optimizer=per(stages, lambda s: kernel(0.25, {resource(s, SM): 0.1})),  # type: ignore[arg-type]
        barrier_s=0.125,
        capacity=(1.0,) * (RESOURCES * stages),
    )
