"""The same collective in many groups at the same time, as one activity: bytes of all of them on
every link.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest

import numpy as np

from cluster_sim.collectives.activity import FLOWS_AT_ONCE, Call, alone
from cluster_sim.collectives.flows import Flows, flows_of
from cluster_sim.collectives.group import Group, make_group
from cluster_sim.machine.classes import Floats, Ints, Machine
from cluster_sim.machine.routes import Routing as Routes
from cluster_sim.machine.routes import link_load
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.work import Activity, Phase

_Load = tuple[str, float, Floats]  # of a phase: name, seconds alone, bytes on each link


def parallel_phases(
    topology: TopologyInput,
    machine: Machine,
    groups: Sequence[Ints],
    call: Call,
    message_bytes: float,
) -> list[Phase]:
    """The phases of a collective that every group runs at the same time.

    Model: groups that lie alike in their domains (the same devices but for an offset of whole
    domains) have the same flows moved on. The time alone is that of the slowest group, and no less
    than the fullest link needs for the bytes of all groups. One group gives what
    ``collective_activity`` does.
    """
    alike: dict[bytes, list[Ints]] = {}
    for devices in groups:
        offset = devices[0] - devices[0] % machine.devices_per_domain
        alike.setdefault((devices - offset).tobytes(), []).append(devices)
    totals: list[_Load] = []
    for members in alike.values():
        group = make_group(topology, members[0], machine=machine)
        loads = _loads(group, call, message_bytes, [one[0] - members[0][0] for one in members])
        totals = [_together(one, other) for one, other in zip_longest(totals, loads)]
    return [_phase(machine, name, seconds, demand) for name, seconds, demand in totals]


def _together(one: _Load | None, other: _Load | None) -> _Load:
    """Two loads at the same time: as long as the longer, the bytes of both."""
    if one is None or other is None:
        return one or other  # type: ignore[return-value]
    return one[0], max(one[1], other[1]), one[2] + other[2]


def _loads(group: Group, call: Call, message_bytes: float, offsets: list[int]) -> list[_Load]:
    """By phase: name, seconds alone of one group, and bytes of all that lie alike on each link."""
    machine, call = group.machine, call.resolved(group)
    if group.shape.ranks == 1:
        return []
    priced = alone(group, call, np.array([float(message_bytes)]))
    named = flows_of(group, call.operation, priced.algorithm[0], call.routing, "rank")
    mine = [_routed(machine, flows, [0], call.seed) for _, flows in named]
    bounds = [float((load / machine.link_bandwidth).max()) for load in mine]
    found = []
    for (name, flows), load, bound in zip(named, mine, bounds, strict=True):
        if bound == 0:
            continue
        every = load if len(offsets) == 1 else _routed(machine, flows, offsets, call.seed)
        share = float(priced.seconds[0]) * (bound / sum(bounds))
        found.append((name, max(share, bound * message_bytes), every * message_bytes))
    return found


def _routed(machine: Machine, flows: Flows, offsets: list[int], seed: int) -> Floats:
    """Bytes on each link of flows and of their copies at all offsets."""
    total = np.zeros(machine.n_links)
    step = max(1, FLOWS_AT_ONCE // max(1, len(offsets)))
    moves = np.array(offsets, dtype=np.int64)[:, None]
    for first in range(0, len(flows.size), step):
        part = slice(first, first + step)
        source, target = flows.source[part] + moves, flows.target[part] + moves
        size = np.broadcast_to(flows.size[part], source.shape)
        total += link_load(machine, source.ravel(), target.ravel(), size.ravel(), Routes(seed=seed))
    return total


def _phase(machine: Machine, name: str, seconds: float, load: Floats) -> Phase:
    used = np.flatnonzero(load > 0)
    takes = load[used] / machine.link_bandwidth[used]
    longest = int(takes.argmax())
    return Phase(
        name=name,
        activity=Activity(
            kind="traffic",
            alone_s=max(seconds, float(takes[longest])),
            size=float(load[used][longest]),
            resources=tuple(used.tolist()),
            demand=tuple(load[used].tolist()),
        ),
    )
