"""ASTRA-sim analytical network files as machines."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from cluster_sim.errors import SpecError, nearest
from cluster_sim.machine.classes import Draft, Machine
from cluster_sim.machine.exchange import listed

KINDS = ("Ring", "FullyConnected", "Switch")
KEYS = ("topology", "npus_count", "bandwidth", "latency")


def from_astra(text: str, shown: str, name: str) -> Machine:
    """A machine from the lists ``topology``, ``npus_count``, ``bandwidth``, ``latency``.

    One entry a dimension, the first runs fastest; ``bandwidth`` in GB/s of a link and direction,
    ``latency`` in ns of a link. Source: the comments of the example files of astra-sim. Limits: GB
    is taken as 10^9 bytes.
    """
    from cluster_sim.specs.yaml_text import parse

    data, lines = parse(text, shown)
    problems = _bad_lists(data, lines, shown) or _bad_entries(data, lines, shown)
    if problems:
        raise SpecError(problems)
    return _machine(name, data)


def _bad_lists(data: Mapping[str, Any], lines: Mapping[Any, int], shown: str) -> list[str]:
    problems = []
    for key in data:
        if key not in KEYS:
            near = nearest(key, KEYS)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            problems.append(f"{shown}:{lines[key,]}: {key}: unknown key{hint}")
    kinds = data.get("topology")
    for key in KEYS:
        value, where = data.get(key), f"{shown}:{lines.get((key,), 1)}: {key}"
        if not isinstance(value, list) or not value:
            problems.append(f"{where}: must be a list, one entry a dimension")
        elif isinstance(kinds, list) and len(value) != len(kinds):
            problems.append(f"{where}: has {len(value)} entries, topology has {len(kinds)}")
    return problems


def _bad_entries(data: Mapping[str, Any], lines: Mapping[Any, int], shown: str) -> list[str]:
    problems = []
    for number, kind in enumerate(data["topology"]):
        if kind not in KINDS:
            near = nearest(str(kind), [k.lower() for k in KINDS])
            match = next((k for k in KINDS if near and k.lower() == near[0]), None)
            hint = f"; did you mean '{match}'?" if match else f"; one of {', '.join(KINDS)}"
            line = lines["topology", number]
            problems.append(f"{shown}:{line}: topology.{number}: unknown (got {kind}){hint}")
        for key in KEYS[1:]:
            value = data[key][number]
            kind_of = int if key == "npus_count" else int | float
            good = isinstance(value, kind_of) and not isinstance(value, bool)
            if good and math.isfinite(value) and (value > 0 or (value == 0 and key == "latency")):
                continue
            line = lines[key, number]
            problems.append(f"{shown}:{line}: {key}.{number}: must be a number > 0 (got {value})")
    return problems


def _machine(name: str, data: Mapping[str, Any]) -> Machine:
    counts: list[int] = data["npus_count"]
    total = math.prod(counts)
    draft = Draft()
    draft.add_nodes("npu", "device", total, "npu{0}", tier=0, transit=True)
    stride = 1
    number = np.arange(total)
    rows = zip(*(data[key] for key in KEYS), strict=True)
    for dimension, (kind, size, speed, latency) in enumerate(rows):
        bandwidth, latency_s = speed * 1e9, latency * 1e-9
        pairs: list[tuple[int, int]] = []
        other = "npu"
        if kind == "Switch" and size > 1:
            other = f"switch{dimension}"
            draft.add_nodes(
                other, "switch", total // size, f"dim{dimension}/switch{{0}}", tier=1 + dimension
            )
            group = number // (stride * size) * stride + number % stride
            pairs = list(zip(range(total), group.tolist(), strict=True))
        elif size > 1:
            for a in range(total):
                here = a // stride % size
                ahead = range(here + 1, size) if kind == "FullyConnected" else [(here + 1) % size]
                if kind == "FullyConnected" or size > 2 or here == 0:
                    pairs += [(a, a + (there - here) * stride) for there in ahead]
        if pairs:
            label, ends = f"dim{dimension}", ("npu", other)
            draft.add_links(label, ends, len(pairs), bandwidth, listed(pairs), latency_s=latency_s)
        stride *= size
    return Machine(
        name=name,
        devices=total,
        devices_per_chip=1,
        devices_per_host=counts[0],
        devices_per_domain=counts[0],
        nodes=tuple(draft.nodes),
        links=tuple(draft.links),
    )
