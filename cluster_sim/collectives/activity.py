"""A collective on a machine as work for the clock: time alone, and bytes on every link, of all
groups that run it at the same time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import numpy as np

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.flows import Flows, flows_of
from cluster_sim.collectives.group import Group
from cluster_sim.collectives.ranks import by_domain
from cluster_sim.collectives.shape import (
    EXPERT_OPERATIONS,
    LIBRARIES,
    OPERATIONS,
    FloatArray,
    Priced,
)
from cluster_sim.collectives.time import collective, default_library, known_name
from cluster_sim.machine.classes import Floats, Ints
from cluster_sim.machine.routes import Routing as Routes
from cluster_sim.machine.routes import link_load
from cluster_sim.work import Activity, Phase

FLOWS_AT_ONCE = 32_768  # routed together: what fits into the processor's cache
NEARLY = 1 - 1e-9  # shares from here on are sums that were rounded


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A phase's bytes on links for one byte of message; on the link that takes longest for them
    (``fullest``), and the seconds that it takes.
    """

    name: str
    links: Ints
    size: Floats
    fullest: float
    bound_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A collective as asked for: operation, library, and what the user forces; ``seed`` picks the
    paths of hashed routes.
    """

    operation: str
    library: str | None = None
    algorithm: str | None = None
    protocol: str | None = None
    routing: Routing = field(default_factory=Routing)
    seed: int = 0

    def resolved(self, group: Group) -> Call:
        """The same with our names, and a library; raises SpecError for unknown ones."""
        operation = known_name("operation", self.operation, OPERATIONS)
        library = self.library or default_library(group.fits, operation)
        return replace(self, operation=operation, library=known_name("library", library, LIBRARIES))


def alone(group: Group, call: Call, message: FloatArray) -> Priced:
    """Seconds for each message size when nobody but the groups themselves is there.

    Model: the library's formula at the rates of the ranks' links and NICs, what faults leave of
    them, and never less than the fullest link of all routes needs for the bytes of all groups.
    """
    call = call.resolved(group)
    priced = _priced(group, call, message)
    seconds = priced.seconds.copy()
    for algorithm in dict.fromkeys(priced.algorithm):
        mask = np.array([name == algorithm for name in priced.algorithm])
        left = rates_left(group, call, algorithm)
        if min(left) < 1:
            slower = _priced(group, call, message[mask], *left).seconds
            seconds[mask] = np.maximum(seconds[mask], slower)
        floor = message[mask] * bound_s(group, call, algorithm)
        seconds[mask] = np.maximum(seconds[mask], floor)
    return replace(priced, seconds=seconds)


def _priced(
    group: Group, call: Call, message: FloatArray, inside: float = 1.0, outside: float = 1.0
) -> Priced:
    """What the library's formula says with shares of the rates into a domain and out of it."""
    shape = group.shape
    shape = replace(
        shape,
        link_bytes_per_s=inside * shape.link_bytes_per_s,
        nic_bytes_per_s=outside * shape.nic_bytes_per_s,
    )
    return collective(
        group.fits,
        shape,
        call.operation,
        message,
        library=call.library,
        algorithm=call.algorithm,
        protocol=call.protocol,
        routing=call.routing,
    )


def rates_left(group: Group, call: Call, algorithm: str) -> tuple[float, float]:
    """The shares that faults leave of the rates at which ranks send into their domains and out of
    them.

    Model: seconds of the fullest link without the faults over those with them, of links inside
    domains and of those between NICs and leaves. What is slower farther on is shared, not an end.
    """
    machine = group.machine
    whole = replace(group, machine=machine.healthy)
    if whole.machine is machine:
        return 1.0, 1.0
    found = []
    for ends in ((0, machine.first_outside), machine.nic_links or (0, 0)):
        before, now = (_bound(one, call, algorithm, ends) for one in (whole, group))
        found.append(1.0 if before >= NEARLY * now else before / now)
    return found[0], found[1]


def _bound(group: Group, call: Call, algorithm: str, ends: tuple[int, int]) -> float:
    """Seconds of the fullest of the links between two numbers, over all phases."""
    total = 0.0
    for load in loads(group, call, algorithm):
        here = (load.links >= ends[0]) & (load.links < ends[1])
        bandwidth = group.machine.link_bandwidth[load.links[here]]
        total += float((load.size[here] / bandwidth).max(initial=0.0))
    return total


def bound_s(group: Group, call: Call, algorithm: str) -> float:
    """Seconds per byte of message that the links need at least: of the fullest, over all phases."""
    return sum(load.bound_s for load in loads(group, call, algorithm))


def loads(group: Group, call: Call, algorithm: str) -> list[Load]:
    """Bytes of all groups on links by phase, for one byte of message."""
    call = call.resolved(group)
    key = f"collective {call.operation} {call.library} {algorithm} {call.routing} {call.seed}"
    key += f" {group.key}"
    cache = group.machine.cache
    if key not in cache:
        cache[key] = _loads(group, call, algorithm)
    found: list[Load] = cache[key]
    return found


def own_loads(group: Group, call: Call, algorithm: str, domain: int) -> dict[int, float]:
    """Bytes of all phases on links, for one byte of message, of what begins or ends in one domain:
    all that there is on the links that the devices of the domain have for themselves.
    """
    here = (group.rows // group.machine.devices_per_domain == domain).any(axis=1)
    if not here.any():
        return {}
    found: dict[int, float] = {}
    mine = replace(group, rows=group.rows[here])
    for total in _totals(mine, call.resolved(group), algorithm, domain).values():
        used = np.flatnonzero(total)
        for link, size in zip(used.tolist(), total[used].tolist(), strict=True):
            found[link] = found.get(link, 0.0) + size
    return found


def _totals(
    group: Group, call: Call, algorithm: str, domain: int | None = None
) -> dict[str, Floats]:
    """Bytes on every link by phase, of what begins or ends in one domain if given."""
    experts = group.fits.experts.get(call.library)  # type: ignore[call-overload]
    if call.operation in EXPERT_OPERATIONS and experts is None:
        algorithm = "all_to_all"
    copies = experts.copies if experts is not None else "rank"
    totals: dict[str, Floats] = {}
    for one, offsets in _alike(group):
        for name, flows in flows_of(one, call.operation, algorithm, call.routing, copies):
            mine = _routed(group, flows, offsets, call.seed, domain)
            totals[name] = totals[name] + mine if name in totals else mine
    return totals


def _loads(group: Group, call: Call, algorithm: str) -> list[Load]:
    machine, found = group.machine, []
    for name, total in _totals(group, call, algorithm).items():
        used = np.flatnonzero(total > 0)
        size = total[used]
        seconds = size / machine.link_bandwidth[used]
        if not len(used):
            continue
        longest = int(seconds.argmax())
        found.append(
            Load(
                name=name,
                links=used,
                size=size,
                fullest=float(size[longest]),
                bound_s=float(seconds[longest]),
            )
        )
    return found


def _alike(group: Group) -> Iterator[tuple[Group, Ints]]:
    """Groups that lie alike in their domains, as one of them and the offsets of all from it."""
    rows, domain = group.rows, group.machine.devices_per_domain
    offset = rows[:, 0] - rows[:, 0] % domain
    lying, kind = np.unique(rows - offset[:, None], axis=0, return_inverse=True)
    for number in range(len(lying)):
        moves = offset[kind.reshape(-1) == number]
        devices = lying[number] + moves[0]
        members = by_domain(devices, domain)
        same = len(members) == group.shape.domains and len(devices) == group.shape.ranks
        shape = group.shape if same else replace(group.shape, domains=len(members))
        yield replace(group, devices=devices, members=members, shape=shape), moves - moves[0]


def _routed(group: Group, flows: Flows, offsets: Ints, seed: int, domain: int | None) -> Floats:
    """Bytes on each link of flows and of their copies at all offsets; of those that begin or end in
    a domain if one is given.
    """
    machine = group.machine
    total = np.zeros(machine.n_links)
    step = max(1, FLOWS_AT_ONCE // max(1, len(offsets)))
    moves = offsets[:, None]
    for first in range(0, len(flows.size), step):
        part = slice(first, first + step)
        source, target = flows.source[part] + moves, flows.target[part] + moves
        size = np.broadcast_to(flows.size[part], source.shape)
        if domain is not None:
            width = machine.devices_per_domain
            ours = (source // width == domain) | (target // width == domain)
            source, target, size = source[ours], target[ours], size[ours]
        total += link_load(machine, source.ravel(), target.ravel(), size.ravel(), Routes(seed=seed))
    return total


def collective_activity(group: Group, call: Call, message_bytes: float) -> list[Phase]:
    """The phases of one collective: its time alone split as the links need it, the bytes of all
    groups on every directed link.

    Fairness counts the bytes on the link that is full longest. Limits: phases that libraries
    pipeline are one; a group of one rank has none.
    """
    call = call.resolved(group)
    message = np.array([float(message_bytes)])
    priced = alone(group, call, message)
    parts = loads(group, call, priced.algorithm[0])
    total = sum(part.bound_s for part in parts)
    phases = []
    for part in parts:
        share = part.bound_s / total
        demand = part.size * message_bytes
        activity = Activity(
            kind="traffic",
            alone_s=max(float(priced.seconds[0]) * share, part.bound_s * message_bytes),
            size=part.fullest * message_bytes,
            resources=tuple(part.links.tolist()),
            demand=tuple(demand.tolist()),
        )
        phases.append(Phase(name=part.name, activity=activity))
    return phases
