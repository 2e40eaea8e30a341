"""ASTRA-sim analytical network files: what they say, and the topology that they make with a chip.

Source: the comments of the files under inputs/network and examples/network of
astra-sim/astra-sim. Limits: GB is taken as 10^9 bytes; latencies are those of links that a machine
shows, collectives take the latencies of the chip's library as everywhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_sim.errors import SpecError, nearest
from cluster_sim.specs.build import Lines
from cluster_sim.specs.chip import Chip

KINDS = ("Ring", "FullyConnected", "Switch")
KEYS = ("topology", "npus_count", "bandwidth", "latency")
MOST_NPUS = 1_000_000
MOST_LINKS = 4_000_000  # cables of all dimensions: some 100 MB
# Keys of a topology that a network file leaves open, so that --set may give them.
OPEN = ("chip", "title", "host_power", "board")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """``size`` NPUs joined as ``kind`` says; of a link and direction."""

    kind: str
    size: int
    bytes_per_s: float
    latency_s: float

    @property
    def links(self) -> int:
        """Links of an NPU in it: to the switch, to its neighbours, to all others."""
        if self.kind == "FullyConnected":
            return self.size - 1
        return min(2, self.size - 1) if self.kind == "Ring" else 1

    @property
    def out_bytes_per_s(self) -> float:
        """What an NPU can send in it."""
        return self.links * self.bytes_per_s


def is_astra(data: Mapping[str, Any]) -> bool:
    """Whether a mapping is such a file: no other has its key."""
    return "npus_count" in data


def dimensions(data: Mapping[str, Any], lines: Lines, shown: str) -> tuple[Dimension, ...]:
    """The dimensions from the lists ``topology``, ``npus_count``, ``bandwidth`` (GB/s) and
    ``latency`` (ns), the first runs fastest; a single value is a list of one.

    Raises SpecError with all that is wrong.
    """
    full = {key: value if isinstance(value, list) else [value] for key, value in data.items()}
    problems = _bad_lists(full, lines, shown) or _bad_entries(full, lines, shown)
    if problems:
        raise SpecError(problems)
    found = tuple(
        Dimension(kind=kind, size=size, bytes_per_s=speed * 1e9, latency_s=latency * 1e-9)
        for kind, size, speed, latency in zip(*(full[key] for key in KEYS), strict=True)
    )
    total = math.prod(one.size for one in found)
    cables = sum(total * one.links / (1 if one.kind == "Switch" else 2) for one in found)
    for count, what, most in ((total, "NPUs", MOST_NPUS), (cables, "links", MOST_LINKS)):
        if count > most:
            where = f"{shown}:{lines.get(('npus_count',), 1)}: npus_count"
            raise SpecError(f"{where}: {count:,.0f} {what}; at most {most:,} can be held")
    return found


def domain_dimensions(found: Sequence[Dimension]) -> tuple[Dimension, ...]:
    """The dimensions that are the scale-up domain: the first, and the rings of a torus after it.
    Those of one NPU are left out.
    """
    real = [one for one in found if one.size > 1]
    if not real or real[0].kind != "Ring":
        return tuple(real[:1])
    alike = [one for one in real if one.kind == "Ring" and one.bytes_per_s == real[0].bytes_per_s]
    torus = 0
    while torus < len(real) and real[torus] in alike:
        torus += 1
    return tuple(real[:torus])


def as_topology(
    data: Mapping[str, Any], lines: Lines, shown: str, keys: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """The topology that a network file makes, in file form but for its chip: its links as a fabric
    of kind graph, inner dimensions the scale-up domain. What an NPU can send beyond its domain, as
    from a NIC, is that of the slowest outer dimension.

    ``keys`` are those that the user sets; raises SpecError for one that the file itself gives.
    """
    refuse_keys(shown, keys)
    found = dimensions(data, lines, shown)
    inner = domain_dimensions(found)
    outer = [one for one in found if one.size > 1][len(inner) :]
    total, domain = (math.prod(one.size for one in part) for part in (found, inner))
    made: dict[str, Any] = {
        "title": "ASTRA-sim network: " + " x ".join(f"{one.kind} {one.size}" for one in found),
        "chips": total,
        "chips_per_host": domain,
        "scale_up": _scale_up(inner or found[:1]) | {"domain": domain},
        "fabric": {"kind": "graph", "file": shown, "technology": "ASTRA-sim"},
        "sources": {"all": f"{shown}, and the file of the chip"},
    }
    if outer:
        slowest = min(one.out_bytes_per_s for one in outer)
        nic = {"nic": "outer dimensions", "nic_bandwidth": f"{slowest!r} B/s", "chips_per_nic": 1}
        made["board"] = nic
    return made


def refuse_keys(shown: str, keys: Sequence[Sequence[str]]) -> None:
    """Raise SpecError for a key of a topology that a network file itself gives."""
    for key in keys:
        if key[0] not in OPEN:
            option = "--chips" if list(key) == ["chips"] else f"--set topology.{'.'.join(key)}"
            raise SpecError(
                f"{option}: {shown} is an ASTRA-sim network, which says that itself; change it "
                f"there (--set may give {', '.join(OPEN)})"
            )


def check_chip(shown: str, chip: object) -> None:
    """Raise SpecError unless the topology of a network file names a chip."""
    if not isinstance(chip, str):
        raise SpecError(
            f"{shown}: an ASTRA-sim network names no chip; add --set topology.chip=NAME, such as "
            "h100_sxm ('cluster-sim list chips')"
        )


def check_host(shown: str, chip: Chip, data: Mapping[str, Any]) -> None:
    """Raise SpecError for a chip of several devices, and for one without a host on a network that
    has NICs; ``data`` is the topology with all that it takes from the chip.
    """
    if chip.devices_per_chip > 1:
        raise SpecError(
            f"{shown}: an NPU of the network is one device, {chip.name} has "
            f"{chip.devices_per_chip}; take a chip of one"
        )
    board = data.get("board") or {}
    lacks = [key for key in ("cpus", "cpu", "cpu_bandwidth", "pcie") if board and key not in board]
    if lacks:
        raise SpecError(
            f"{shown}: the file of {chip.name} describes no host, and the network goes beyond one; "
            f"add --set for {', '.join('topology.board.' + key for key in lacks)}"
        )


def _scale_up(inner: Sequence[Dimension]) -> dict[str, Any]:
    first = inner[0]
    links: dict[str, Any] = {
        "technology": f"ASTRA-sim {first.kind}",
        "link_bandwidth": f"{first.bytes_per_s!r} B/s",
        "link_latency": f"{first.latency_s!r} s",
        "switch_latency": "0 s",
    }
    if first.kind == "Switch":
        return links | {"kind": "switched", "links_per_switch": [1]}
    if first.kind == "FullyConnected":
        return links | {"kind": "mesh", "links_per_peer": 1}
    shape = [one.size for one in inner]
    return links | {"kind": "torus", "inner": {"kind": "torus", "shape": shape}}


def _bad_lists(data: Mapping[str, list[Any]], lines: Lines, shown: str) -> list[str]:
    problems = []
    for key in data:
        if key not in KEYS:
            near = nearest(key, KEYS)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            problems.append(f"{shown}:{lines.get((key,), 1)}: {key}: unknown key{hint}")
    kinds = data.get("topology")
    for key in KEYS:
        value, where = data.get(key), f"{shown}:{lines.get((key,), 1)}: {key}"
        if not value or value == [None]:
            problems.append(f"{where}: must be a list, one entry a dimension")
        elif kinds and len(value) != len(kinds):
            problems.append(f"{where}: has {len(value)} entries, topology has {len(kinds)}")
    return problems


def _bad_entries(data: Mapping[str, list[Any]], lines: Lines, shown: str) -> list[str]:
    problems = []

    def where(key: str, number: int) -> str:
        return f"{shown}:{lines.get((key, number), lines.get((key,), 1))}: {key}.{number}"

    for number, kind in enumerate(data["topology"]):
        if kind not in KINDS:
            near = nearest(str(kind), [k.lower() for k in KINDS])
            match = next((k for k in KINDS if near and k.lower() == near[0]), None)
            hint = f"; did you mean '{match}'?" if match else f"; one of {', '.join(KINDS)}"
            problems.append(f"{where('topology', number)}: unknown (got {kind}){hint}")
        for key in KEYS[1:]:
            value = data[key][number]
            kind_of = int if key == "npus_count" else int | float
            good = isinstance(value, kind_of) and not isinstance(value, bool)
            if good and math.isfinite(value) and (value > 0 or (value == 0 and key == "latency")):
                continue
            problems.append(f"{where(key, number)}: must be a number > 0 (got {value})")
    return problems
