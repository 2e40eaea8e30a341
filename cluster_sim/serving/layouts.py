"""Which layouts plan auto weighs: what the user gave, and all that may stand for the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import NoReturn

from cluster_sim.errors import DoesNotFitError
from cluster_sim.kernels.layout import Layout, check_layout, divisors
from cluster_sim.machine.host import domain_devices, replicas_in
from cluster_sim.specs.inputs import TopologyInput, WorkloadInput
from cluster_sim.specs.model import Model


def layouts(machine: TopologyInput, job: WorkloadInput) -> list[Layout]:
    """All layouts inside one scale-up domain, without those that no engine would run.

    Degrees that the user gave stand; others run over the divisors of the heads (TP), powers of two
    (pipeline stages), the divisors of TP x attention groups (EP) and any number of attention groups
    with experts. With one of TP, PP and attention groups given, PP and attention groups are 1 where
    they were not. Raises DoesNotFitError if none is left, with the reason.
    """
    plan, model = job.workload.plan, job.model
    room = domain_devices(machine)
    found = list(_all(job, room))
    possible = [lay for lay in found if lay.devices <= room and _cuts(model, lay)]
    wanted = plan.replicas or 1
    fitting = [lay for lay in possible if wanted <= replicas_in(machine, lay.devices)]
    if not fitting:
        smallest = min(possible or found, key=lambda layout: layout.devices)
        check_layout(model, smallest)
        _refuse_room(machine, smallest, wanted, room)
    return fitting


def _all(job: WorkloadInput, room: int) -> Iterator[Layout]:
    plan, model = job.workload.plan, job.model
    free = not (plan.tp or plan.pp or plan.attn_dp)
    for tp in [plan.tp] if plan.tp else _tensor_degrees(model, room):
        powers = [1 << k for k in range((room // tp).bit_length())]
        for pp in powers if free else [plan.pp or 1]:
            for attn_dp in _groups(model, tp, room) if free and pp == 1 else [plan.attn_dp or 1]:
                spreads = [plan.ep] if plan.ep else _spreads(model, tp * attn_dp)
                for ep in spreads or ([] if free else [1]):
                    yield Layout(tp, pp, ep, attn_dp)


def _tensor_degrees(model: Model, room: int) -> list[int]:
    """Degrees that give every device as many heads, whole KV heads or a copy of one, and an equal
    part of the MLP.

    Source: vLLM's ModelConfig and parallel linear layers (behaviour).
    """
    every = math.gcd(*(kind.heads for kind in model.kinds))
    cut = [kind.kv_heads for kind in model.kinds if not kind.latent]
    widths = [mlp.hidden for mlp in model.dense_mlps]
    degrees = divisors(every, room)
    even = [
        d
        for d in degrees
        if all(n % d == 0 or d % n == 0 for n in cut) and not any(w % d for w in widths)
    ]
    return even or degrees


def _groups(model: Model, tp: int, room: int) -> list[int]:
    """Numbers of attention groups; without experts they would be replicas."""
    moe = model.moe
    if moe is None:
        return [1]
    parts = moe.experts * moe.expert_hidden
    return [n for n in range(1, room // tp + 1) if parts % (tp * n) == 0]


def _spreads(model: Model, devices: int) -> list[int]:
    """Degrees of expert parallelism, largest first: every device has as many experts, whole or in
    equal slices (vLLM's FusedMoE, behaviour).
    """
    moe = model.moe
    if moe is None:
        return [1]
    return [
        ep
        for ep in reversed(divisors(devices, devices))
        if moe.experts % ep == 0 and moe.expert_hidden % (devices // ep) == 0
    ]


def _cuts(model: Model, layout: Layout) -> bool:
    try:
        check_layout(model, layout)
    except DoesNotFitError:
        return False
    return True


def _refuse_room(machine: TopologyInput, layout: Layout, replicas: int, room: int) -> NoReturn:
    devices, name = _devices(machine), machine.topology.name
    if room < layout.devices <= devices:
        raise DoesNotFitError(
            f"{layout} needs {layout.devices} devices in one scale-up domain, "
            f"those of {name} have {room}; lower --tp."
        )
    if layout.devices == 1:
        raise DoesNotFitError(
            f"{replicas} replicas need at least {replicas} devices, "
            f"{name} has {devices}; lower --replicas."
        )
    degrees = f"tp={layout.tp}" if layout.devices == layout.tp else str(layout)
    if layout.devices * replicas <= devices:
        placed = replicas_in(machine, layout.devices)
        raise DoesNotFitError(
            f"{name} has room for {placed} x {degrees}, since no replica may cross its scale-up "
            f"domains of {room} devices; lower --tp or --replicas."
        )
    raise DoesNotFitError(
        f"{degrees} x {replicas} replicas needs {layout.devices * replicas} devices, "
        f"{name} has {devices}; lower --tp or --replicas."
    )


def _devices(machine: TopologyInput) -> int:
    return machine.topology.chips * machine.chip.devices_per_chip
