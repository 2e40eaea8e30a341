"""Routes of any graph: distances to each target by breadth-first search, kept per target."""

from __future__ import annotations

from collections import deque

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.machine.classes import Ints, Machine
from cluster_sim.machine.routes import Routing, Ways, hashed


def add_ways(
    machine: Machine, flow: Ints, start: Ints, stop: Ints, key: Ints, rules: Routing, way: Ways
) -> None:
    """Add the routes of all flows: shortest in hops; at every node a hash picks one of the next
    links (``ecmp``) or the bytes split evenly over them (``adaptive``).
    """
    for row in range(len(flow)):
        here, goal = int(start[row]), int(stop[row])
        if here == goal:
            continue
        distance = distances(machine, goal)
        if distance[here] < 0:
            names = machine.node_names
            cut = "; cables that are gone (faults) cut it off, leave some bandwidth or the host out"
            raise SpecError(
                f"{machine.name}: no way from '{names[here]}' to '{names[goal]}'"
                f"{cut if machine.down else ''}"
            )
        ids = (start[row : row + 1], stop[row : row + 1], key[row : row + 1])
        _walk(machine, flow[row : row + 1], here, distance, ids, rules, way)


def _walk(
    machine: Machine,
    flow: Ints,
    here: int,
    distance: list[int],
    ids: tuple[Ints, Ints, Ints],
    rules: Routing,
    way: Ways,
) -> None:
    shares, through = {here: 1.0}, transit(machine)
    for hop in range(distance[here]):
        following: dict[int, float] = {}
        for node, share in shares.items():
            options = [
                (link, to)
                for link, to in leaving(machine)[node]
                if distance[to] == distance[node] - 1
                and distance[to] >= 0
                and (through[to] or distance[to] == 0)
            ]
            if rules.mode != "adaptive":
                options = [options[int(hashed(rules.seed, hop, *ids)[0]) % len(options)]]
            for link, to in options:
                way.add(flow, np.array([link]), share / len(options))
                following[to] = following.get(to, 0.0) + share / len(options)
        shares = following


def transit(machine: Machine) -> list[bool]:
    """Whether each node passes traffic on; kept with the machine."""
    if "transit" not in machine.cache:
        counts = [node.count for node in machine.nodes]
        each = np.repeat(np.array([node.transit for node in machine.nodes]), counts)
        machine.cache["transit"] = each.tolist()
    found: list[bool] = machine.cache["transit"]
    return found


def leaving(machine: Machine) -> list[list[tuple[int, int]]]:
    """For every node the links that leave it and where they go; kept with the machine."""
    found: list[list[tuple[int, int]]] | None = machine.cache.get("leaving")
    if found is None:
        found = [[] for _ in range(machine.n_nodes)]
        ends = zip(machine.link_from.tolist(), machine.link_to.tolist(), strict=True)
        for link, (here, there) in enumerate(ends):
            if link not in machine.down:
                found[here].append((link, there))
        machine.cache["leaving"] = found
    return found


def distances(machine: Machine, goal: int) -> list[int]:
    """Hops from every node to a goal, -1 where there is no way; nodes that carry no transit only
    begin or end one.
    """
    known: dict[int, list[int]] = machine.cache.setdefault("distances", {})
    if goal in known:
        return known[goal]
    entering = machine.cache.get("entering")
    if entering is None:
        entering = [[] for _ in range(machine.n_nodes)]
        ends = zip(machine.link_from.tolist(), machine.link_to.tolist(), strict=True)
        for link, (here, there) in enumerate(ends):
            if link not in machine.down:
                entering[there].append(here)
        machine.cache["entering"] = entering
    through = transit(machine)
    distance = [-1] * machine.n_nodes
    distance[goal] = 0
    queue = deque([goal])
    while queue:
        node = queue.popleft()
        if node != goal and not through[node]:
            continue
        for before in entering[node]:
            if distance[before] < 0:
                distance[before] = distance[node] + 1
                queue.append(before)
    known[goal] = distance
    return distance
