"""How long each task of a graph takes alone on a machine, and what it uses of it.

Resources are the links of the machine, then of each device its SM time (1 per second) and memory.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from cluster_sim.collectives.activity import Call, alone, collective_activity
from cluster_sim.collectives.group import groups_at_once, make_group
from cluster_sim.errors import DoesNotFitError, SpecError
from cluster_sim.kernels.stream import hbm_bytes_per_s
from cluster_sim.machine.classes import Machine
from cluster_sim.machine.routes import path
from cluster_sim.specs.chip import PEAK_OF
from cluster_sim.specs.inputs import TopologyInput
from cluster_sim.training.task_graph import Node, TaskGraph
from cluster_sim.work import Activity, Phase, kernel, pause, traffic

DTYPE: Literal["bf16"] = (
    "bf16"  # of compute that a trace gives in FLOP. Source: assumed, traces do not say
)
Phases = tuple[Phase, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the ranks are, what their library is, and whether the network takes any time."""

    topology: TopologyInput
    machine: Machine
    devices: tuple[int, ...]
    library: str | None = None
    ideal_network: bool = False


@dataclass(slots=True, kw_only=True)
class Prices:
    """Prices of a graph on a place; equal nodes are priced once."""

    graph: TaskGraph
    place: Place
    known: dict[tuple[object, ...], Phases] = field(default_factory=dict)

    def of(self, node: Node) -> Phases:
        """The phases of a node one after the other; none if it takes no time.

        Raises SpecError and DoesNotFitError for what the machine cannot do.
        """
        key: tuple[object, ...] = (node.kind, node.seconds, node.flop, node.bytes)
        if node.kind in ("compute", "memory"):
            key += (node.rank,)
        elif node.kind == "collective":
            key += (node.operation, node.group)
        elif node.kind == "send":
            key += (node.rank, node.peer)
        if key not in self.known:
            try:
                self.known[key] = self._priced(node)
            except (SpecError, DoesNotFitError) as error:
                raise type(error)(f"{self.graph.where(node)}: {error}") from None
        return self.known[key]

    def _priced(self, node: Node) -> Phases:
        if node.kind in ("compute", "memory"):
            return self._work(node)
        if node.kind in ("host", "timed"):
            return _phase(node, pause(node.seconds)) if node.seconds else ()
        if node.kind == "recv" or self.place.ideal_network or not node.bytes:
            return ()
        return self._collective(node) if node.kind == "collective" else self._send(node)

    def _work(self, node: Node) -> Phases:
        """A kernel on the device of the rank, for the time of the trace or by the roofline.

        Model: floor + max(FLOP / (peak u_c), bytes / (bandwidth u_m)) with the floor and the shares
        u of the chip's fitted GEMM curve; bytes at most at the rate that the memory delivers.
        """
        sm = self.place.machine.n_links + 2 * self.place.devices[node.rank]
        chip = self.place.topology.chip
        if node.seconds is not None:
            return _phase(node, kernel(node.seconds, {sm: node.seconds})) if node.seconds else ()
        hbm_rate = hbm_bytes_per_s(self.place.topology)
        if node.kind == "memory":
            return _phase(node, kernel(node.bytes / hbm_rate, {sm + 1: node.bytes}))
        peak, compute, memory, floor_s = roofline(self.place.topology)
        rate = min(chip.device_bandwidth * memory, hbm_rate)
        takes = max(node.flop / (peak * compute), node.bytes / rate)
        seconds = floor_s + takes
        use = {sm: seconds} | ({sm + 1: node.bytes} if node.bytes else {})
        return _phase(node, kernel(seconds, use))

    def _collective(self, node: Node) -> Phases:
        place = self.place
        parts = [
            np.array([place.devices[rank] for rank in part])
            for part in self.graph.groups[node.group]
        ]
        call = Call(operation=node.operation, library=place.library)
        if len(parts[0]) == 1:
            return ()
        group = groups_at_once(place.topology, np.stack(parts), machine=place.machine)
        return tuple(collective_activity(group, call, node.bytes))

    def _send(self, node: Node) -> Phases:
        """One message: the time of a library's send and receive, its bytes on the links between."""
        place = self.place
        source, target = place.devices[node.rank], place.devices[node.peer]
        if source == target:
            return ()
        links, shares = path(place.machine, source, target)
        used, number = np.unique(links, return_inverse=True)
        load = np.bincount(number, weights=shares * node.bytes)
        group = make_group(place.topology, [source, target], machine=place.machine)
        call = Call(operation="send_recv", library=place.library)
        seconds = float(alone(group, call, np.array([float(node.bytes)])).seconds[0])
        bound = float((load / place.machine.link_bandwidth[used]).max())
        demand = dict(zip(used.tolist(), load.tolist(), strict=True))
        return _phase(node, traffic(max(seconds, bound), demand))


def _phase(node: Node, activity: Activity) -> Phases:
    return (Phase(name=node.kind, activity=activity),)


def capacities(place: Place) -> NDArray[np.float64]:
    """What each resource carries per second."""
    own = np.tile([1.0, hbm_bytes_per_s(place.topology)], place.machine.devices)
    return np.concatenate([place.machine.link_bandwidth, own])


def roofline(topology: TopologyInput) -> tuple[float, float, float, float]:
    """Peak FLOP/s of a device, the shares of peak and of memory rate that its GEMMs reach, and
    their floor (s); shares of 1 where no curve is fitted.
    """
    chip, curve = topology.chip, topology.alone.gemm.get(DTYPE)
    if PEAK_OF[DTYPE] not in chip.peak:
        raise SpecError(f"{chip.name} has no {DTYPE} peak, so FLOP cannot be priced")
    peak = chip.device_peak(PEAK_OF[DTYPE])
    if curve is None:
        return peak, 1.0, 1.0, 0.0
    return peak, curve.compute, curve.memory, curve.floor


def roofline_words(graph: TaskGraph, topology: TopologyInput) -> str:
    """Where the times of compute come from."""
    work = [node for node in graph.nodes if node.kind in ("compute", "memory")]
    priced = sum(node.seconds is None for node in work)
    if not priced:
        return "times of the trace"
    curve = topology.alone.gemm.get(DTYPE)
    how = f"{curve.provenance} {DTYPE} GEMM curve" if curve is not None else "datasheet peaks"
    own = f"{len(work) - priced} nodes by the trace, " if len(work) > priced else ""
    return f"{own}{priced} nodes by the roofline of {topology.chip.name} ({how})"
