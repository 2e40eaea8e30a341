"""The scale-up part of a machine: packages, meshes, switch layers and grids as classes of links."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.machine.classes import Draft, Ends, Ints, LinkClass
from cluster_sim.specs.topology import Topology

# Ports of a switch chip by its name. Source: NVIDIA, recalled; NVSwitch4 = 28.8 Tb/s of 400 Gb/s.
SWITCH_PORTS = {"NVSwitch2": 36, "NVSwitch3": 64, "NVSwitch4": 72}


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """Links between the ``size`` devices of a chip."""

    link: LinkClass
    size: int
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mesh:
    """A link between every two of ``size`` devices; the last mesh may be smaller."""

    link: LinkClass
    size: int
    devices: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Switched:
    """Every device on every switch of its domain; traffic spreads by the width of the links.

    With ``uplinks`` the switches of a host are a first tier below ``spines`` a plane; with
    ``across`` a domain has parts of ``part`` devices with their own switches.
    """

    links: tuple[LinkClass, ...]
    shares: tuple[float, ...]
    uplinks: tuple[LinkClass, ...] = ()
    spines: int = 0
    across: tuple[LinkClass, ...] = ()
    part: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Torus:
    """A ring of links round every axis of a grid; the last axis runs fastest."""

    links: tuple[LinkClass, ...]
    shape: tuple[int, ...]

    def strides(self) -> tuple[int, ...]:
        """Step of the device number along each axis."""
        return tuple(prod(self.shape[axis + 1 :]) for axis in range(len(self.shape)))


ScaleUpShape = Switched | Mesh | Torus | None


def add_scale_up(
    draft: Draft, topology: Topology, device: str, devices: int, per_chip: int
) -> tuple[Package | None, ScaleUpShape]:
    """Add the links inside packages and domains; what routing needs to know of them."""
    package = None
    if per_chip > 1 and topology.scale_up.package_bandwidth is not None:
        link = draft.add_links(
            "package",
            (device, device),
            _pairs(devices, per_chip),
            topology.scale_up.package_bandwidth,
            _all_pairs(devices, per_chip),
            latency_s=topology.scale_up.package_latency,
        )
        package = Package(link=link, size=per_chip, devices=devices)
    inner = topology.scale_up.inner
    domain = topology.domain * per_chip
    if domain == 1:
        return package, None
    if topology.scale_up.kind == "mesh":
        return package, _mesh(draft, topology, device, devices, per_chip)
    if inner is not None and inner.kind == "torus":
        return package, _torus(draft, topology, device, devices, inner.shape)
    return package, _switched(draft, topology, device, devices, per_chip)


def pair_number(size: int | Ints, low: Ints, high: Ints) -> Ints:
    """Number of the pair low < high among the pairs of ``size``."""
    return low * size - low * (low + 1) // 2 + high - low - 1


def _pairs(devices: int, size: int) -> int:
    """Pairs inside groups of ``size`` devices and in the rest."""
    full, rest = divmod(devices, size)
    return full * (size * (size - 1) // 2) + rest * (rest - 1) // 2


def _all_pairs(devices: int, size: int) -> Ends:
    full, rest = divmod(devices, size)
    whole, part = np.triu_indices(size, 1), np.triu_indices(rest, 1)
    rows, columns = np.concatenate([whole[0], part[0]]), np.concatenate([whole[1], part[1]])
    each = size * (size - 1) // 2

    def ends(cable: Ints) -> tuple[Ints, Ints]:
        group = np.minimum(cable // each, full)
        pair = cable - group * each + np.where(group == full, each, 0)
        return group * size + rows[pair], group * size + columns[pair]

    return ends


def _mesh(draft: Draft, topology: Topology, device: str, devices: int, per_chip: int) -> Mesh:
    if per_chip > 1:
        raise SpecError("scale_up.kind: a mesh of chips with several devices is not modelled")
    domain, scale_up = topology.domain, topology.scale_up
    links = scale_up.links_per_peer or 1
    link = draft.add_links(
        "mesh",
        (device, device),
        _pairs(devices, domain),
        links * scale_up.link_bandwidth,
        _all_pairs(devices, domain),
        latency_s=scale_up.link_latency,
        lanes=links,
    )
    return Mesh(link=link, size=domain, devices=devices)


def _torus(
    draft: Draft, topology: Topology, device: str, devices: int, shape: tuple[int, ...]
) -> Torus:
    if prod(shape) != devices:
        raise SpecError(
            f"scale_up.inner.shape: {' x '.join(map(str, shape))} is "
            f"{prod(shape)} devices, the topology has {devices}; change shape or chips"
        )
    strides = [prod(shape[axis + 1 :]) for axis in range(len(shape))]
    links = tuple(
        draft.add_links(
            f"axis{axis}",
            (device, device),
            devices,
            topology.scale_up.link_bandwidth,
            _ring(size, stride),
            latency_s=topology.scale_up.link_latency,
        )
        for axis, (size, stride) in enumerate(zip(shape, strides, strict=True))
        if size > 1
    )
    kept = tuple(size for size in shape if size > 1)
    return Torus(links=links, shape=kept)


def _ring(size: int, stride: int) -> Ends:
    def ends(cable: Ints) -> tuple[Ints, Ints]:
        place = cable // stride % size
        return cable, np.where(place == size - 1, cable - (size - 1) * stride, cable + stride)

    return ends


def _switched(
    draft: Draft, topology: Topology, device: str, devices: int, per_chip: int
) -> Switched:
    """Devices on switches, one layer or more."""
    scale_up, inner = topology.scale_up, topology.scale_up.inner
    through_host = scale_up.kind == "host"
    counts = (1,) if through_host else scale_up.links_per_switch
    layers = inner.kind if inner is not None else ""
    domain = topology.domain * per_chip
    host = (topology.chips_per_host or topology.chips) * per_chip
    if layers == "two_tier" and domain <= host:
        layers = ""  # a host by itself needs no second tier
    sharing = {"two_tier": host, "crossed": domain // 2}.get(layers, domain)
    groups = -(-devices // sharing)
    where = "host" if sharing == host else ("rack" if layers != "two_tier" else "host")
    short = "root" if through_host else _short(scale_up.switch)
    draft.add_nodes(
        "switch",
        "pcie" if through_host else "switch",
        groups * len(counts),
        f"{where}{{0}}/{short}{{1}}",
        radices=(len(counts),),
        tier=1,
        ports=SWITCH_PORTS.get(scale_up.switch),
        latency_s=scale_up.switch_latency,
    )
    links = tuple(
        draft.add_links(
            f"{short}{number}",
            (device, "switch"),
            devices,
            count * scale_up.link_bandwidth / per_chip,
            _to_switch(sharing, len(counts), number),
            latency_s=scale_up.link_latency,
            lanes=max(1, count // per_chip),
        )
        for number, count in enumerate(counts)
    )
    shares = tuple(count / sum(counts) for count in counts)
    if layers == "two_tier":
        return _second_tier(draft, topology, links, shares, (domain, host, devices))
    if layers == "crossed":
        return _crossed(draft, topology, links, shares, (sharing, devices))
    return Switched(links=links, shares=shares)


def _to_switch(sharing: int, switches: int, number: int) -> Ends:
    return lambda cable: (cable, cable // sharing * switches + number)


def _second_tier(
    draft: Draft,
    topology: Topology,
    links: tuple[LinkClass, ...],
    shares: tuple[float, ...],
    sizes: tuple[int, int, int],
) -> Switched:
    """A plane per switch of a host, with spines over the hosts of a domain."""
    inner, scale_up = topology.scale_up.inner, topology.scale_up
    assert inner is not None
    assert inner.spines is not None
    domain, host, devices = sizes
    planes, spines = len(links), inner.spines
    if domain % host and domain < devices:
        raise SpecError(
            f"scale_up.domain: must be whole hosts (got {domain} devices in hosts of {host})"
        )
    hosts, per_domain = -(-devices // host), -(-domain // host)
    draft.add_nodes(
        "spine_up",
        "switch",
        -(-devices // domain) * planes * spines,
        "domain{0}/plane{1}/l2_{2}",
        radices=(planes, spines),
        tier=1,
        ports=inner.spine_ports,
        latency_s=scale_up.switch_latency,
    )

    def ends(plane: int) -> Ends:
        def of_plane(cable: Ints) -> tuple[Ints, Ints]:
            number, spine = np.divmod(cable, spines)
            above = number // per_domain * (planes * spines) + plane * spines + spine
            return number * planes + plane, above

        return of_plane

    latency = inner.uplink_latency
    uplinks = tuple(
        draft.add_links(
            f"plane{plane}",
            ("switch", "spine_up"),
            hosts * spines,
            inner.uplinks * scale_up.link_bandwidth,
            ends(plane),
            latency_s=scale_up.link_latency if latency is None else latency,
            lanes=inner.uplinks,
        )
        for plane in range(planes)
    )
    number = sum(link.count * link.lanes for link in uplinks)
    if inner.links_per_cable > 1:
        draft.notes.append(
            f"{number:,} links between the tiers of the domain, {inner.links_per_cable} in each of "
            f"{number // inner.links_per_cable:,} cables"
        )
    return Switched(links=links, shares=shares, uplinks=uplinks, spines=spines)


def _crossed(
    draft: Draft,
    topology: Topology,
    links: tuple[LinkClass, ...],
    shares: tuple[float, ...],
    sizes: tuple[int, int],
) -> Switched:
    """Switch s of one part joined to switch s of the other, as wide as its links down."""
    part, devices = sizes
    if devices % (2 * part):
        raise SpecError(f"chips: {devices} devices are not whole pairs of parts of {part}")
    switches = len(links)

    def ends(number: int) -> Ends:
        return lambda cable: (
            2 * cable * switches + number,
            (2 * cable + 1) * switches + number,
        )

    across = tuple(
        draft.add_links(
            f"across{number}",
            ("switch", "switch"),
            devices // (2 * part),
            part * link.bandwidth_bytes_per_s,
            ends(number),
            latency_s=topology.scale_up.link_latency,
            lanes=part * link.lanes,
        )
        for number, link in enumerate(links)
    )
    return Switched(links=links, shares=shares, across=across, part=part)


def _short(switch: str) -> str:
    """A name for the nodes: NVSwitch4 -> nvswitch, UB L1 + L2 -> ub."""
    word = switch.lower().split()[0] if switch.strip() else ""
    return "".join(c for c in word if c.isalpha()) or "switch"
