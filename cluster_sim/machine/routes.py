"""Routes: which links a flow between two devices loads, and with what share of its bytes.

Regular machines are routed by index arithmetic for all flows at once (``structural``), any other
graph by a search (``search``). Inside a scale-up domain traffic spreads over all switches by the
width of their links (packets are striped). Outside, a flow takes one of the equal paths, picked by
a hash of flow and seed (``ecmp``: two flows may collide), or an even share of each (``adaptive``).
With PXN a flow to another rail first goes to the device of its own host on that rail.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from cluster_sim.errors import SpecError, nearest
from cluster_sim.machine.classes import Floats, Ints, Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """How flows pick among equal paths; None takes what the machine's fabric says."""

    mode: str | None = None
    pxn: bool | None = None
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """Links of many flows, in compressed rows: those of flow i are ``links[rows[i]:rows[i + 1]]``
    in the order of the way, ``shares`` the part of the flow's bytes that each carries.
    """

    rows: Ints
    links: Ints
    shares: Floats

    def of(self, flow: int) -> tuple[Ints, Floats]:
        """Links and shares of one flow."""
        part = slice(int(self.rows[flow]), int(self.rows[flow + 1]))
        return self.links[part], self.shares[part]

    def using(self, links: Collection[int]) -> NDArray[np.bool_]:
        """Which flows use any of some links."""
        hit = np.isin(self.links, list(links))
        flows = np.repeat(np.arange(len(self.rows) - 1), np.diff(self.rows))
        return np.bincount(flows[hit], minlength=len(self.rows) - 1) > 0

    def load(self, n_links: int, size_bytes: Floats | None = None) -> Floats:
        """Bytes that all flows together put on each link (each flow 1 byte unless given)."""
        shares = self.shares
        if size_bytes is not None:
            shares = shares * np.repeat(size_bytes, np.diff(self.rows))
        return np.bincount(self.links, weights=shares, minlength=n_links).astype(float)


def path(
    machine: Machine, source: int, target: int, key: int = 0, routing: Routing | None = None
) -> tuple[Ints, Floats]:
    """Links from one device to another in order, and the share of the bytes that each carries."""
    return paths(machine, [source], [target], [key], routing).of(0)


def paths(
    machine: Machine,
    sources: Sequence[int] | Ints,
    targets: Sequence[int] | Ints,
    keys: Sequence[int] | Ints | None = None,
    routing: Routing | None = None,
) -> Routes:
    """Routes of many flows at once; ``keys`` tell flows between the same devices apart.

    Limits: spread over three tiers (``adaptive``) a flow has thousands of pieces; ask for such
    routes in batches.
    """
    return _ways(machine, sources, targets, keys, routing).routes()


def link_load(
    machine: Machine,
    sources: Sequence[int] | Ints,
    targets: Sequence[int] | Ints,
    size_bytes: Floats,
    routing: Routing | None = None,
) -> Floats:
    """Bytes that flows of such sizes put on each link: as ``paths(...).load``, without the order of
    the ways.
    """
    return _ways(machine, sources, targets, None, routing).load(machine.n_links, size_bytes)


def _ways(
    machine: Machine,
    sources: Sequence[int] | Ints,
    targets: Sequence[int] | Ints,
    keys: Sequence[int] | Ints | None,
    routing: Routing | None,
) -> Ways:
    start, stop = np.asarray(sources, dtype=np.int64), np.asarray(targets, dtype=np.int64)
    key = np.zeros_like(start) if keys is None else np.asarray(keys, dtype=np.int64)
    for values in (start, stop):
        if len(values) and not 0 <= int(values.min()) <= int(values.max()) < machine.devices:
            raise ValueError(f"devices are 0 to {machine.devices - 1}")
    routing = routing or Routing()
    rules = Routing(
        mode=routing.mode or machine.routing,
        pxn=machine.pxn if routing.pxn is None else routing.pxn,
        seed=routing.seed,
    )
    way = Ways(len(start))
    free = np.arange(len(start))
    if machine.static:
        free = _static(machine, start, stop, way)
    searched = free if machine.shape is None else free[:0]
    if machine.shape is not None:
        from cluster_sim.machine.structural import add_all

        if machine.down:
            first = Ways(len(start))
            add_all(machine, free, start[free], stop[free], key[free], rules, first)
            cut = first.routes().using(machine.down)
            free, searched = free[~cut[free]], free[cut[free]]
        add_all(machine, free, start[free], stop[free], key[free], rules, way)
    if len(searched):
        from cluster_sim.machine.search import add_ways

        add_ways(machine, searched, start[searched], stop[searched], key[searched], rules, way)
    return way


class Ways:
    """Collects (flow, link, share) pieces in the order of the way."""

    def __init__(self, flows: int) -> None:
        self.flows = flows
        self._parts: list[tuple[Ints, Ints, Floats]] = []

    def add(self, flow: Ints, link: Ints, share: Floats | float = 1.0) -> None:
        """Let flows use a link each."""
        if len(flow):
            self._parts.append((flow, link, np.broadcast_to(np.asarray(share, float), flow.shape)))

    def load(self, n_links: int, size_bytes: Floats) -> Floats:
        """Bytes of all flows on each link."""
        total = np.zeros(n_links)
        for flow, link, share in self._parts:
            first = int(link.min())  # the links of a hop lie together
            part = np.bincount(link - first, weights=share * size_bytes[flow])
            total[first : first + len(part)] += part
        return total

    def routes(self) -> Routes:
        """All pieces by flow, in the order in which they were added."""
        if not self._parts:
            none = np.zeros(0, dtype=np.int64)
            rows = np.zeros(self.flows + 1, dtype=np.int64)
            return Routes(rows=rows, links=none, shares=np.zeros(0))
        flow, link, share = (np.concatenate(part) for part in zip(*self._parts, strict=True))
        order = np.argsort(flow, kind="stable")
        rows = np.zeros(self.flows + 1, dtype=np.int64)
        np.cumsum(np.bincount(flow, minlength=self.flows), out=rows[1:])
        return Routes(rows=rows, links=link[order], shares=share[order])


def hashed(seed: int, hop: int, *values: Ints) -> Ints:
    """A reproducible number below 2**31 for each tuple of values.

    Source: the finaliser of splitmix64 (Steele, Lea, Flood, OOPSLA 2014), once per value.
    """
    state = np.full(values[0].shape, np.uint64((seed * 0x9E3779B97F4A7C15 + hop) % 2**64))
    for value in values:
        mixed = state + np.uint64(0x9E3779B97F4A7C15) + value.astype(np.uint64)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        state = mixed ^ (mixed >> np.uint64(31))
    return (state >> np.uint64(33)).astype(np.int64)


def _static(machine: Machine, start: Ints, stop: Ints, way: Ways) -> Ints:
    """Routes that the user fixed; the flows that have none."""
    rest = []
    for flow, pair in enumerate(zip(start.tolist(), stop.tolist(), strict=True)):
        fixed = machine.static.get(pair)
        if fixed is None or machine.down.intersection(fixed):
            rest.append(flow)
            continue
        for link in fixed:
            way.add(np.array([flow]), np.array([link]))
    return np.array(rest, dtype=np.int64)


def static_routes(
    machine: Machine, routes: Sequence[Sequence[str]]
) -> dict[tuple[int, int], tuple[int, ...]]:
    """Routes written as names of nodes from device to device, as links by pair of devices.

    Raises SpecError for unknown names (with the nearest), steps without a link, and ends that are
    no devices.
    """
    if not routes:
        return {}
    number = {name: node for node, name in enumerate(machine.node_names)}
    ends = zip(machine.link_from.tolist(), machine.link_to.tolist(), strict=True)
    link_of: dict[tuple[int, int], int] = {}
    for link, pair in enumerate(ends):
        link_of.setdefault(pair, link)
    found: dict[tuple[int, int], tuple[int, ...]] = {}
    for row, names in enumerate(routes):
        nodes = []
        for name in names:
            if name not in number:
                near = nearest(name, number)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                raise SpecError(f"fabric.routes.{row}: no node named '{name}'{hint}")
            nodes.append(number[name])
        if len(nodes) < 2 or max(nodes[0], nodes[-1]) >= machine.devices:
            raise SpecError(f"fabric.routes.{row}: must run from one device to another")
        steps = list(zip(nodes, nodes[1:], strict=False))
        for here, there in steps:
            if (here, there) not in link_of:
                names_of = machine.node_names
                raise SpecError(
                    f"fabric.routes.{row}: no link from '{names_of[here]}' to '{names_of[there]}'"
                )
        found[nodes[0], nodes[-1]] = tuple(link_of[step] for step in steps)
    return found
