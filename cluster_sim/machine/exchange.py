"""Machines to and from other forms: networkx graphs and node-link JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cluster_sim.errors import SpecError, nearest
from cluster_sim.machine.classes import Draft, Ends, Ints, Machine, NodeKind
from cluster_sim.specs.yaml_text import located
from cluster_sim.text_file import parse_json, read_text
from cluster_sim.units import Quantity, parse_quantity

if TYPE_CHECKING:
    import networkx as nx

KINDS: dict[str, NodeKind] = {
    "device": "device",
    "switch": "switch",
    "nic": "nic",
    "pcie": "pcie",
    "cpu": "cpu",
}
MOST_PROBLEMS = 20  # of a graph, shown at once
TIER_OF = {"device": 0, "pcie": 1, "nic": 2, "switch": 3, "cpu": -1}


def graph(machine: Machine, *, full: bool = True) -> nx.Graph[str]:
    """The machine as a networkx graph; with ``full=False`` one node a class.

    Nodes carry ``kind`` and ``tier``; edges ``cables`` (parallel ones are one edge), ``links``
    (cables x lanes), ``bandwidth_bytes_per_s`` per direction of all together, ``latency_s``.
    """
    import networkx as nx

    result: nx.Graph[str] = nx.Graph(name=machine.name)
    if not full:
        for node in machine.nodes:
            result.add_node(node.name, kind=node.kind, tier=node.tier, count=node.count)
        for link in machine.links:
            old = result.get_edge_data(link.a, link.b, {"cables": 0, "bandwidth_bytes_per_s": 0.0})
            result.add_edge(
                link.a,
                link.b,
                cables=old["cables"] + link.count,
                bandwidth_bytes_per_s=old["bandwidth_bytes_per_s"]
                + link.count * link.bandwidth_bytes_per_s,
            )
        return result
    names = machine.node_names
    for node in machine.nodes:
        result.add_nodes_from(
            names[node.first : node.first + node.count],
            kind=node.kind,
            tier=node.tier,
            latency_s=node.latency_s,
            **({} if node.ports is None else {"ports": node.ports}),
        )
    for link in machine.links:
        forward = slice(link.first, link.first + link.count)
        a, b = machine.link_from[forward], machine.link_to[forward]
        low, high = np.minimum(a, b), np.maximum(a, b)
        pairs, counts = np.unique(low * machine.n_nodes + high, return_counts=True)
        for pair, count in zip(pairs.tolist(), counts.tolist(), strict=True):
            ends = names[pair // machine.n_nodes], names[pair % machine.n_nodes]
            result.add_edge(
                *ends,
                cables=count,
                links=count * link.lanes,
                bandwidth_bytes_per_s=count * link.bandwidth_bytes_per_s,
                latency_s=link.latency_s,
            )
    return result


def to_node_link(machine: Machine) -> str:
    """The expanded graph as node-link JSON, as networkx writes it."""
    import networkx as nx

    data = nx.node_link_data(graph(machine), edges="edges")
    data["graph"] = {
        "name": machine.name,
        "devices_per_chip": machine.devices_per_chip,
        "devices_per_host": machine.devices_per_host,
        "devices_per_domain": machine.devices_per_domain,
    }
    return json.dumps(data, indent=None, separators=(",", ":")) + "\n"


def load_graph(file: str, name: str = "") -> Machine:
    """A machine from a file: node-link JSON, or an ASTRA-sim analytical network (YAML).

    Raises SpecError that names file, place and way out.
    """
    path = Path(file)
    if not os.path.lexists(path):
        raise SpecError(f"{file}: no such file")
    return parse_graph(read_text(path, shown=file), file, name)


def parse_graph(text: str, file: str, name: str = "") -> Machine:
    """A machine from the text of a file, as ``load_graph``."""
    path = Path(file)
    network = '"npus_count"' in text and '"nodes"' not in text  # of ASTRA-sim, as JSON
    if not network and (path.suffix == ".json" or text.lstrip().startswith("{")):
        return from_node_link(text, file, name or path.stem)
    from cluster_sim.machine.astra import from_astra

    return from_astra(text, file, name or path.stem)


def from_node_link(text: str, shown: str, name: str) -> Machine:
    """A machine from node-link JSON.

    Nodes need ``id`` and ``kind`` (device, switch, nic, pcie, cpu), edges ``source``, ``target``
    and ``bandwidth`` of a cable ('400 Gb/s'), or ``bandwidth_bytes_per_s`` of all cables together;
    ``ports``, ``latency`` and ``cables`` may be given. In a directed graph both directions must be
    there.
    """
    data = parse_json(text, shown)
    edges = data.get("edges", data.get("links")) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(data.get("nodes"), list):
        raise SpecError(f"{shown}: nodes: missing; node-link JSON has the lists nodes and edges")
    if not isinstance(edges, list):
        raise SpecError(f"{shown}: edges: missing; node-link JSON has the lists nodes and edges")
    problems: list[str] = []
    nodes = _nodes(data["nodes"], problems)
    cables = _edges(edges, nodes, problems, multi=bool(data.get("multigraph")))
    if data.get("directed"):
        cables = _both_ways(cables, problems)
    if problems:
        raise SpecError([located(text, shown, problem) for problem in problems[:MOST_PROBLEMS]])
    facts = data.get("graph", {})
    if not isinstance(facts, dict):
        raise SpecError(f"{shown}: graph: must be a mapping (got {facts!r})")
    return _machine(str(facts.get("name") or name), nodes, cables, facts, shown)


def _nodes(rows: list[Any], problems: list[str]) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for number, row in enumerate(rows):
        where = f"nodes.{number}"
        if not isinstance(row, dict) or "id" not in row:
            problems.append(f"{where}: needs an id")
            continue
        key, kind = str(row["id"]), row.get("kind")
        kind = "device" if kind in ("chip", "gpu", "npu") else kind
        if key in found:
            problems.append(f"{where}: '{key}' is given twice")
        if kind not in KINDS:
            near = nearest(str(kind), KINDS)
            hint = f"; did you mean '{near[0]}'?" if near else f"; write one of {', '.join(KINDS)}"
            problems.append(f"{where}.kind: unknown (got {kind!r}){hint}")
            kind = "switch"
        ports = row.get("ports")
        if ports is not None and (not isinstance(ports, int) or ports < 1):
            problems.append(f"{where}.ports: must be a whole number > 0 (got {ports!r})")
            ports = None
        latency = _number(row, "latency", "time", where, problems, zero_ok=True)
        tier = row.get("tier")
        tier = tier if isinstance(tier, int) else TIER_OF[kind]
        found[key] = {"kind": kind, "ports": ports, "latency": latency or 0.0, "tier": tier}
    return found


Cable = tuple[str, str, float, float, int]


def _edges(
    rows: list[Any],
    nodes: Mapping[str, Any],
    problems: list[str],
    *,
    multi: bool,
) -> list[Cable]:
    found: list[Cable] = []
    seen: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        where = f"edges.{number}"
        if not isinstance(row, dict) or "source" not in row or "target" not in row:
            problems.append(f"{where}: needs source and target")
            continue
        ends = str(row["source"]), str(row["target"])
        for end in ends:
            if end not in nodes:
                near = nearest(end, nodes)
                hint = f"; did you mean '{near[0]}'?" if near else ""
                problems.append(f"{where}: no node '{end}'{hint}")
        if ends[0] == ends[1]:
            problems.append(f"{where}: joins '{ends[0]}' to itself")
        if ends in seen and not multi:
            problems.append(
                f"{where}: duplicate of edges.{seen[ends]} ('{ends[0]}' to '{ends[1]}'); "
                "write cables: 2 for parallel cables"
            )
        seen.setdefault(ends, number)
        bandwidth = _number(row, "bandwidth", "bandwidth", where, problems)
        latency = _number(row, "latency", "time", where, problems, zero_ok=True)
        cables = row.get("cables", 1)
        if not isinstance(cables, int) or cables < 1:
            problems.append(f"{where}.cables: must be a whole number > 0 (got {cables!r})")
            cables = 1
        if bandwidth is None and not problems:
            problems.append(f"{where}.bandwidth: missing; write for example '400 Gb/s'")
        total_given = "bandwidth_bytes_per_s" in row
        each = (bandwidth or 0.0) / (cables if total_given else 1)
        found.append((*ends, each, latency or 0.0, cables))
    return found


def _number(
    row: Mapping[str, Any],
    key: str,
    kind: str,
    where: str,
    problems: list[str],
    *,
    zero_ok: bool = False,
) -> float | None:
    """A quantity as a unit literal under ``key`` or as a bare number in base units under its
    full name.
    """
    base = {"bandwidth": "bandwidth_bytes_per_s", "latency": "latency_s"}[key]
    value = row.get(key, row.get(base))
    if value is None:
        return None
    try:
        if key in row:
            return Quantity(kind, zero_ok=zero_ok).parse(value)
        bare = float(value) if isinstance(value, int | float) else parse_quantity(value, kind)
    except ValueError as error:
        problems.append(f"{where}.{key}: {error} (got {value})")
        return None
    if not math.isfinite(bare) or bare < 0 or (bare == 0 and not zero_ok):
        problems.append(f"{where}.{base}: must be > 0 and finite (got {value})")
        return None
    return bare


def _both_ways(cables: list[Cable], problems: list[str]) -> list[Cable]:
    """One cable for each pair of opposite directed edges."""
    by_ends = {(a, b): (speed, latency, n) for a, b, speed, latency, n in cables}
    kept = []
    for a, b, speed, latency, n in cables:
        if by_ends.get((b, a)) != (speed, latency, n):
            problems.append(
                f"edges: '{a}' to '{b}' has no equal edge back; a cable works both ways"
            )
        elif a < b:
            kept.append((a, b, speed, latency, n))
    return kept


def _machine(
    name: str,
    nodes: Mapping[str, dict[str, Any]],
    cables: list[Cable],
    facts: Mapping[str, Any],
    shown: str,
) -> Machine:
    """Classes from lists: nodes by their features, cables by class of ends and speed."""
    draft, place = Draft(), {}
    features = sorted(
        {(n["tier"], n["kind"], n["ports"] or 0, n["latency"]) for n in nodes.values()},
        key=lambda feature: (feature[1] != "device", *feature),
    )
    inner_devices = not any(node["kind"] == "switch" for node in nodes.values())
    for feature in features:
        tier, kind, ports, latency = feature
        members = [
            key
            for key, n in nodes.items()
            if (n["tier"], n["kind"], n["ports"] or 0, n["latency"]) == feature
        ]
        words = f"{kind}{len(draft.nodes)}"
        draft.add_nodes(
            words, kind, len(members), "", tier=tier, ports=ports or None, latency_s=latency,
            names=tuple(members), transit=kind != "cpu" and (kind != "device" or inner_devices),
        )  # fmt: skip
        place.update({key: (words, number) for number, key in enumerate(members)})
    by_class: dict[tuple[str, str, float, float], list[tuple[int, int]]] = {}
    for a, b, speed, latency, count in cables:
        (class_a, i), (class_b, j) = place[a], place[b]
        rows = by_class.setdefault((class_a, class_b, speed, latency), [])
        rows += [(i, j)] * count
    for (class_a, class_b, speed, latency), rows in by_class.items():
        draft.add_links(
            f"{class_a}-{class_b}", (class_a, class_b), len(rows), speed, listed(rows),
            latency_s=latency,
        )  # fmt: skip
    devices = sum(node.count for node in draft.nodes if node.kind == "device")
    if devices == 0:
        raise SpecError(f"{shown}: nodes: no node of kind device; there is nothing to route from")
    per = {}
    for key in ("devices_per_chip", "devices_per_host", "devices_per_domain"):
        value = facts.get(key, devices if key != "devices_per_chip" else 1)
        if not isinstance(value, int) or not 1 <= value <= devices:
            raise SpecError(
                f"{shown}: graph.{key}: must be a whole number from 1 to {devices} (got {value!r})"
            )
        per[key] = value
    return Machine(
        name=name,
        devices=devices,
        devices_per_chip=per["devices_per_chip"],
        devices_per_host=per["devices_per_host"],
        devices_per_domain=per["devices_per_domain"],
        nodes=tuple(draft.nodes),
        links=tuple(draft.links),
    )


def listed(rows: list[tuple[int, int]]) -> Ends:
    """Ends of cables that are given one by one."""
    pairs = np.array(rows, dtype=np.int64).reshape(-1, 2)

    def ends(cable: Ints) -> tuple[Ints, Ints]:
        return pairs[cable, 0], pairs[cable, 1]

    return ends
