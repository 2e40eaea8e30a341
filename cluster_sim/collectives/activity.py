"""A collective on a machine as work for the clock: time alone, and bytes on every link."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.flows import flows_of
from cluster_sim.collectives.group import Group
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
    """Seconds alone for each message size: those of the library's clock, and never less than the
    fullest link needs.
    """
    call = call.resolved(group)
    priced = collective(
        group.fits,
        group.shape,
        call.operation,
        message,
        library=call.library,
        algorithm=call.algorithm,
        protocol=call.protocol,
        routing=call.routing,
    )
    slowest = {name: bound_s(group, call, name) for name in dict.fromkeys(priced.algorithm)}
    floor = message * np.array([slowest[name] for name in priced.algorithm])
    return replace(priced, seconds=np.maximum(priced.seconds, floor))


def bound_s(group: Group, call: Call, algorithm: str) -> float:
    """Seconds per byte of message that the links need at least: of the fullest, over all phases."""
    return sum(load.bound_s for load in loads(group, call, algorithm))


def loads(group: Group, call: Call, algorithm: str) -> list[Load]:
    """Bytes on links by phase for one byte of message."""
    call = call.resolved(group)
    key = f"collective {call.operation} {call.library} {algorithm} {call.routing} {call.seed}"
    key += f" {group.shape} {group.devices.tobytes().hex()}"
    cache = group.machine.cache
    if key not in cache:
        cache[key] = _loads(group, call, algorithm)
    found: list[Load] = cache[key]
    return found


def _loads(group: Group, call: Call, algorithm: str) -> list[Load]:
    experts = group.fits.experts.get(call.library)  # type: ignore[call-overload]
    if call.operation in EXPERT_OPERATIONS and experts is None:
        algorithm = "all_to_all"
    copies = experts.copies if experts is not None else "rank"
    machine, found = group.machine, []
    for name, flows in flows_of(group, call.operation, algorithm, call.routing, copies):
        total = np.zeros(machine.n_links)
        for first in range(0, len(flows.size), FLOWS_AT_ONCE):
            part = slice(first, first + FLOWS_AT_ONCE)
            source, target, size = flows.source[part], flows.target[part], flows.size[part]
            total += link_load(machine, source, target, size, Routes(seed=call.seed))
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


def collective_activity(group: Group, call: Call, message_bytes: float) -> list[Phase]:
    """The phases of one collective: its time alone split as the links need it, its bytes on every
    directed link.

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
