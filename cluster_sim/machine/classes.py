"""A machine as classes with counts: nodes of one kind, links of one kind, arrays on demand.

A class holds how many there are and the arithmetic from an index to its ends; nothing is stored per
link until somebody asks. Both directions of a cable are links of their own: the cable ``i`` of a
class is link ``first + i`` forwards and ``first + count + i`` back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Ends = Callable[[Ints], tuple[Ints, Ints]]
NodeKind = Literal["device", "switch", "nic", "pcie", "cpu"]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeClass:
    """``count`` equal nodes with ids from ``first``.

    The name of number i is ``pattern`` filled with the digits of i in the mixed radix ``radices``
    (the last digit runs fastest). ``tier`` is the height in a picture: devices 0, NICs 2, leaves 3.
    ``ports`` bounds the links of one node. ``transit`` is false where no traffic passes through.
    """

    name: str
    kind: NodeKind
    count: int
    first: int
    pattern: str
    radices: tuple[int, ...] = ()
    tier: int
    ports: int | None = None
    latency_s: float = 0.0
    transit: bool = True
    names: tuple[str, ...] = ()

    def label(self, number: int) -> str:
        """The name of one node."""
        if self.names:
            return self.names[number]
        digits = []
        for radix in reversed(self.radices):
            number, digit = divmod(number, radix)
            digits.append(digit)
        return self.pattern.format(number, *reversed(digits))


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkClass:
    """``count`` equal cables between two node classes, each of ``lanes`` physical links that share
    their load evenly; ``ends`` turns cable numbers into numbers inside the classes ``a`` and ``b``.
    """

    name: str
    a: str
    b: str
    count: int
    first: int
    bandwidth_bytes_per_s: float
    latency_s: float
    ends: Ends = field(repr=False, compare=False)
    lanes: int = 1
    rails: int = 0

    def forward(self, cable: Ints) -> Ints:
        """Link ids from a to b."""
        return cable + self.first

    def back(self, cable: Ints) -> Ints:
        """Link ids from b to a."""
        return cable + (self.first + self.count)


# Not slotted: the arrays are computed once, when first asked for.
@dataclass(frozen=True, kw_only=True)
class Machine:
    """Devices, hosts, domains, links and their arithmetic.

    ``shape`` says how routes are found by index arithmetic; None where only a search can. Links
    that are ``down`` carry nothing, ``slowed`` ones so many bytes/s. Links from ``outside`` on do
    not belong to a scale-up domain (None: nothing says which).
    """

    name: str
    devices: int
    devices_per_chip: int
    devices_per_host: int
    devices_per_domain: int
    nodes: tuple[NodeClass, ...]
    links: tuple[LinkClass, ...]
    shape: Any = None
    routing: str = "ecmp"
    pxn: bool = True
    notes: tuple[str, ...] = ()
    static: dict[tuple[int, int], tuple[int, ...]] = field(default_factory=dict)
    down: frozenset[int] = frozenset()
    slowed: dict[int, float] = field(default_factory=dict)
    outside: int | None = None
    cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def without(self, links: Iterable[int]) -> Machine:
        """The machine with some directed links down: flows that would use one take the shortest
        way that is left.
        """
        return replace(self, down=self.down | frozenset(links), cache={})

    def with_faults(self, slowed: dict[int, float]) -> Machine:
        """The machine with directed links that carry so many bytes/s; 0 is down."""
        gone = {link for link, rate in slowed.items() if not rate}
        left = {link: rate for link, rate in slowed.items() if rate}
        return replace(self.without(gone), slowed={**self.slowed, **left}, cache={})

    @property
    def healthy(self) -> Machine:
        """The same without faults."""
        if not self.down and not self.slowed:
            return self
        if "healthy" not in self.cache:
            self.cache["healthy"] = replace(self, down=frozenset(), slowed={}, cache={})
        whole: Machine = self.cache["healthy"]
        return whole

    @property
    def first_outside(self) -> int:
        """The first link that is not part of a scale-up domain."""
        return self.n_links if self.outside is None else self.outside

    @property
    def nic_links(self) -> tuple[int, int] | None:
        """The first link between NICs and leaves, and the one after the last; None without."""
        for link in self.links:
            if link.a == "nic" and self.outside is not None:
                return link.first, link.first + 2 * link.count
        return None

    @property
    def chips(self) -> int:
        """Packages."""
        return self.devices // self.devices_per_chip

    @property
    def n_links(self) -> int:
        """Directed links."""
        return 2 * sum(link.count for link in self.links)

    @property
    def n_nodes(self) -> int:
        """Nodes of all kinds."""
        return sum(node.count for node in self.nodes)

    @property
    def has_switches(self) -> bool:
        """Whether it has switches at all; else devices pass traffic on."""
        return any(node.kind == "switch" for node in self.nodes)

    def node_class(self, name: str) -> NodeClass:
        """A node class by name; KeyError if there is none."""
        return next(node for node in self.nodes if node.name == name)

    def link_class(self, name: str) -> LinkClass:
        """A link class by name; StopIteration if there is none."""
        return next(link for link in self.links if link.name == name)

    @property
    def hosts(self) -> int:
        """Hosts, the last one maybe not full."""
        return -(-self.devices // self.devices_per_host)

    @property
    def domains(self) -> int:
        """Scale-up domains, the last one maybe not full."""
        return -(-self.devices // self.devices_per_domain)

    @cached_property
    def _ends(self) -> tuple[Ints, Ints]:
        starts, stops = [], []
        first = {node.name: node.first for node in self.nodes}
        for link in self.links:
            a, b = link.ends(np.arange(link.count, dtype=np.int64))
            a, b = a + first[link.a], b + first[link.b]
            starts += [a, b]
            stops += [b, a]
        none = np.zeros(0, dtype=np.int64)
        return np.concatenate([none, *starts]), np.concatenate([none, *stops])

    @property
    def link_from(self) -> Ints:
        """Node at which each link starts."""
        return self._ends[0]

    @property
    def link_to(self) -> Ints:
        """Node at which each link ends."""
        return self._ends[1]

    @cached_property
    def link_bandwidth(self) -> Floats:
        """Bytes/s of each link."""
        values = [link.bandwidth_bytes_per_s for link in self.links]
        found = np.repeat(np.array(values, dtype=float), [2 * link.count for link in self.links])
        if self.slowed:
            found[list(self.slowed)] = list(self.slowed.values())
        return found

    @cached_property
    def link_latency_s(self) -> Floats:
        """Seconds that each link adds, with the switch that it leads to."""
        own = [link.latency_s for link in self.links]
        latency = np.repeat(np.array(own, dtype=float), [2 * link.count for link in self.links])
        return latency + self.node_latency_s[self.link_to]

    @cached_property
    def node_latency_s(self) -> Floats:
        """Seconds that passing through each node takes."""
        counts = [node.count for node in self.nodes]
        return np.repeat(np.array([node.latency_s for node in self.nodes]), counts)

    @cached_property
    def is_switch(self) -> NDArray[np.bool_]:
        """Whether each node is a switch of the network (not of PCIe)."""
        kinds = [node.kind == "switch" for node in self.nodes]
        return np.repeat(np.array(kinds), [node.count for node in self.nodes])

    @cached_property
    def node_names(self) -> list[str]:
        """Names of all nodes."""
        return [node.label(number) for node in self.nodes for number in range(node.count)]

    @cached_property
    def link_names(self) -> list[str]:
        """``from>to``, with ``#n`` from the second parallel cable on; unique."""
        names = self.node_names
        seen: dict[tuple[int, int], int] = {}
        found = []
        for ends in zip(self.link_from.tolist(), self.link_to.tolist(), strict=True):
            number = seen.get(ends, 0)
            seen[ends] = number + 1
            mark = f"#{number}" if number else ""
            found.append(f"{names[ends[0]]}>{names[ends[1]]}{mark}")
        return found

    def resources_of(self, device: int) -> dict[str, str]:
        """Names of what a device has for itself: SMs and memory."""
        name = self.node_names[device]
        return {"sm": f"{name}/sm", "hbm": f"{name}/hbm"}


class Draft:
    """Collects classes and gives out ids while a machine is built."""

    def __init__(self) -> None:
        self.nodes: list[NodeClass] = []
        self.links: list[LinkClass] = []
        self.notes: list[str] = []

    def add_nodes(self, name: str, kind: NodeKind, count: int, pattern: str, **more: Any) -> None:
        """Add a class of nodes; ids follow those of the last class."""
        first = self.nodes[-1].first + self.nodes[-1].count if self.nodes else 0
        if count:
            self.nodes.append(
                NodeClass(name=name, kind=kind, count=count, first=first, pattern=pattern, **more)
            )

    def add_links(
        self, name: str, ends: tuple[str, str], count: int, bandwidth: float, how: Ends, **more: Any
    ) -> LinkClass:
        """Add a class of cables; ids follow those of the last class."""
        first = self.links[-1].first + 2 * self.links[-1].count if self.links else 0
        more.setdefault("latency_s", 0.0)
        link = LinkClass(
            name=name,
            a=ends[0],
            b=ends[1],
            count=count,
            first=first,
            bandwidth_bytes_per_s=bandwidth,
            ends=how,
            **more,
        )
        self.links.append(link)
        return link


def tiers(machine: Machine) -> Iterator[tuple[int, list[NodeClass]]]:
    """Node classes by height, lowest first."""
    for tier in sorted({node.tier for node in machine.nodes}):
        yield tier, [node for node in machine.nodes if node.tier == tier]
