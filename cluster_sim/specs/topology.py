"""What a machine is: chips, the switches of the scale-up domain and the links between them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from cluster_sim.specs.constraints import Chips, Parts, Text
from cluster_sim.specs.fabric import Board, Fabric, Inner
from cluster_sim.units import BytesPerSecond, BytesPerSecondOrZero, SecondsOrZero, WattsOrZero

_STRICT: dict[str, Any] = {"extra": "forbid"}
# An NVSwitch passes a packet in about 0.1 us (recalled); forward error correction adds 0.2 us a
# link (IEEE 802.3 contribution on KP4). Other technologies: assumed the same.
SCALE_UP_SWITCH_S = 0.1e-6
SCALE_UP_LINK_S = 0.2e-6


@dataclass(frozen=True, slots=True, kw_only=True)
class ScaleUp:
    """How the chips of one scale-up domain are joined; bandwidths are per direction.

    ``switched``: ``links_per_switch[s]`` links of ``link_bandwidth`` from every chip to every
    switch. ``mesh``: ``links_per_peer`` links between every pair of chips. ``host``: every chip has
    one link into the host (PCIe). ``torus``: a grid with a link to every neighbour. ``inner``: what
    of a domain one layer of switches cannot hold. ``domain`` chips make a domain (default: all; of
    kind host those of one host). The devices of one package are joined by ``package_bandwidth``.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    technology: Text
    kind: Literal["switched", "mesh", "host", "torus"] = "switched"
    switch: str = ""
    links_per_switch: tuple[Parts, ...] = ()
    links_per_peer: Parts | None = None
    link_bandwidth: BytesPerSecond
    package_bandwidth: BytesPerSecond | None = None
    in_switch_reduction: bool = False
    domain: Chips | None = None
    inner: Inner | None = None
    switch_latency: SecondsOrZero = SCALE_UP_SWITCH_S
    link_latency: SecondsOrZero = SCALE_UP_LINK_S
    package_latency: SecondsOrZero = SCALE_UP_LINK_S

    def __post_init__(self) -> None:
        if (self.kind == "switched") != bool(self.links_per_switch):
            raise ValueError("links_per_switch belongs to kind switched, and only there")
        if (self.kind == "mesh") != (self.links_per_peer is not None):
            raise ValueError("links_per_peer belongs to kind mesh, and only there")
        grid = self.inner is not None and self.inner.kind == "torus"
        if (self.kind == "torus") != grid:
            raise ValueError("kind torus and inner: {kind: torus, shape: ...} belong together")
        if self.inner is not None and self.kind not in ("torus", "switched"):
            raise ValueError(f"inner belongs to kinds switched and torus (got {self.kind})")
        if self.in_switch_reduction and self.kind != "switched":
            raise ValueError("in_switch_reduction needs kind switched")

    def bandwidth(self, chips: int) -> float:
        """Bytes/s per direction that one chip can send to the others of a group of ``chips`` chips:
        in a mesh only the links to its members count, in a torus those along the axes of the
        smallest block that holds the group, both ways where an axis is gone all round.
        """
        if self.kind == "switched":
            return sum(self.links_per_switch) * self.link_bandwidth
        if self.kind == "mesh":
            return (self.links_per_peer or 0) * (chips - 1) * self.link_bandwidth
        if self.inner is not None and self.kind == "torus":
            return _block_links(self.inner.shape, chips) * self.link_bandwidth
        return self.link_bandwidth


def _block_links(shape: tuple[int, ...], chips: int) -> int:
    """Links inside a block of so many chips of a torus that the chip with the fewest has; blocks
    grow by doubling their shortest axis.
    """
    extents = [1] * len(shape)
    while math.prod(extents) < min(chips, math.prod(shape)):
        axes = [axis for axis, size in enumerate(shape) if extents[axis] < size]
        axis = min(axes, key=lambda axis: extents[axis])
        extents[axis] = min(2 * extents[axis], shape[axis])
    return sum(
        2 if extent == size > 2 else int(extent > 1)
        for extent, size in zip(extents, shape, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """``chips`` chips of one kind with their scale-up links, ``chips_per_host`` in a host (default:
    all). ``host_power`` is all of the machine but its chips. What a file leaves out is taken from
    the chip's ``scale_up`` and ``host``. ``board`` is what else a host holds, ``fabric`` the
    network between hosts. ``faults`` are cables by their ends (``host3/nic2>rail2/leaf0``), each
    with the bandwidth that is left in both directions; 0 is a cable that is gone.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = _STRICT
    name: str
    title: Text
    chip: Text
    chips: Chips
    chips_per_host: Chips | None = None
    scale_up: ScaleUp
    host_power: WattsOrZero | None = None
    board: Board | None = None
    fabric: Fabric | None = None
    faults: dict[Text, BytesPerSecondOrZero] = field(default_factory=dict)
    sources: dict[str, str]

    @property
    def domain(self) -> int:
        """Chips of one scale-up domain; the last may have fewer."""
        inside = self.chips
        if self.scale_up.kind == "host":
            inside = self.chips_per_host or self.chips
        return min(self.scale_up.domain or inside, self.chips)

    @property
    def hosts(self) -> int:
        """Hosts that the chips fill, the last perhaps in part."""
        return -(-self.chips // (self.chips_per_host or self.chips))
