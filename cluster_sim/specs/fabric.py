"""How hosts are joined: the board of a host (NICs, CPUs, PCIe), the inner tiers of a large scale-up
domain, and the scale-out fabric as a few counts.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from cluster_sim.specs.constraints import MOST_PARTS, Count, OneOrMore, Parts, Text
from cluster_sim.units import BytesPerSecond, SecondsOrZero

_STRICT: dict[str, Any] = {"extra": "forbid"}
Kind = Literal["rail_tree", "planes", "leaf_spine", "fat_tree", "dragonfly", "graph"]
RAIL_KINDS = ("rail_tree", "planes")
# One switch of 51.2 Tb/s Ethernet or NDR InfiniBand passes a packet in 0.2-0.3 us; the forward
# error correction of a 100G PAM4 lane adds 0.2 us a link (IEEE 802.3 contribution on KP4); assumed
# where a file gives nothing else.
SWITCH_LATENCY_S = 0.25e-6
LINK_LATENCY_S = 0.2e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """What a host has beside its chips.

    Every chip (or ``chips_per_nic`` of them) has a NIC, behind a PCIe switch that also leads to the
    CPU (``pcie_switch``), or directly. ``nic_bandwidth`` defaults to what the chip's file says.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    cpus: Parts
    cpu: Text
    cpu_bandwidth: BytesPerSecond
    cpu_interconnect: BytesPerSecond | None = None
    pcie: BytesPerSecond
    pcie_switch: bool = True
    nic: Text
    nic_bandwidth: BytesPerSecond | None = None
    chips_per_nic: Parts = 1
    pcie_latency: SecondsOrZero = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner:
    """The tiers inside a scale-up domain that one layer of switches cannot hold.

    ``two_tier``: each plane (an entry of ``links_per_switch``) has one first-tier switch in every
    host and ``spines`` second-tier switches, ``uplinks`` links from each to each,
    ``links_per_cable`` of them in a cable. ``crossed``: each of ``parts`` equal parts has its own
    switches; equal switches of two parts are joined by as many links as they have down.
    ``torus``: chips stand in a grid of ``shape``, each joined to its neighbours round each axis.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Literal["two_tier", "crossed", "torus"]
    spines: Parts | None = None
    uplinks: Parts = 1
    links_per_cable: Parts = 1
    parts: Parts | None = None
    shape: tuple[Parts, ...] = ()
    spine_ports: Parts | None = None
    uplink_latency: SecondsOrZero | None = None

    def __post_init__(self) -> None:
        for kind, key, given in (
            ("two_tier", "spines", self.spines is not None),
            ("crossed", "parts", self.parts is not None),
            ("torus", "shape", bool(self.shape)),
        ):
            if (self.kind == kind) != given:
                raise ValueError(f"{key} belongs to kind {kind}, and only there")
        if self.kind == "crossed" and self.parts != 2:
            raise ValueError("kind crossed joins two parts; write parts: 2")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fabric:
    """The scale-out network between hosts.

    ``rail_tree``: the NICs of one place in their hosts share the leaves of a rail; two tiers, or
    three when one layer of spines cannot reach all leaves. ``planes``: one tree of two tiers a
    rail, none joined. ``leaf_spine`` and ``fat_tree``: two and three tiers without rails.
    ``dragonfly``: groups of leaves and spines, spines of all groups joined directly. ``graph``: a
    node-link file. ``hosts_per_leaf`` counts hosts; ``oversubscription`` is what goes into a leaf
    over what comes out.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    kind: Kind
    technology: Text = "Ethernet"
    link: BytesPerSecond | None = None
    ports: Parts | None = None
    rails: Parts | None = None
    hosts_per_leaf: Parts | None = None
    oversubscription: OneOrMore = 1.0
    groups: Annotated[int, Count(MOST_PARTS, 2)] | None = None
    leaves: Parts | None = None
    spines: Parts | None = None
    global_links: Parts | None = None
    file: str = ""
    routing: Literal["ecmp", "adaptive"] = "ecmp"
    pxn: bool = True
    routes: tuple[tuple[Text, ...], ...] = ()
    switch_latency: SecondsOrZero = SWITCH_LATENCY_S
    link_latency: SecondsOrZero = LINK_LATENCY_S

    def __post_init__(self) -> None:
        needs = {
            "dragonfly": ("groups", "leaves", "spines", "global_links"),
            "graph": ("file",),
        }
        own = needs.get(self.kind, ())
        for key in own:
            if not getattr(self, key):
                raise ValueError(f"kind {self.kind} needs {key}")
        for kind, keys in needs.items():
            for key in keys:
                if kind != self.kind and getattr(self, key):
                    raise ValueError(f"{key} belongs to kind {kind}, and only there")
        if self.kind != "graph" and self.ports is None:
            raise ValueError("ports is missing: how many ports has a switch?")
        if self.kind not in RAIL_KINDS and self.rails is not None:
            raise ValueError(f"rails belongs to kinds {', '.join(RAIL_KINDS)}, and only there")
