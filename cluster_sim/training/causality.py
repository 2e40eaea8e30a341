"""Whether a graph can run at all: what waits for what over all ranks, checked before it is played.

A collective is one task of all its ranks: the n-th that each issues in a group. A send is one task;
its receive waits for it. What is then left waiting for itself is a deadlock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from heapq import heapify, heappop, heappush

from cluster_sim.errors import SpecError
from cluster_sim.training.task_graph import Node, TaskGraph, numbers

MOST_PROBLEMS = 8  # shown at once
MOST_IN_CYCLE = 8  # nodes of a cycle that are named


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One node, or the nodes of a collective in order of rank, as places in the graph's nodes;
    ``after`` are places of tasks. ``source``: of a receive, the task of its send.
    """

    nodes: tuple[int, ...]
    after: tuple[int, ...]
    source: int | None = None


def link_ranks(graph: TaskGraph) -> list[Task]:
    """The tasks of all ranks, joined where ranks meet.

    Raises SpecError for what could never run: nodes that depend on each other or on others that are
    not there, ranks of a group without a file, sends without a receive, collectives of a group in
    different orders, ranks that wait for each other.
    """
    place = {(node.rank, node.id): number for number, node in enumerate(graph.nodes)}
    _stop(_twice(graph, place))
    after = _dependencies(graph, place)
    order = _in_order(graph, after)
    _stop(_absent_ranks(graph))
    heads, joined = _collectives(graph, order)
    sends = _messages(graph, order)
    number_of: dict[int, int] = {}
    tasks: list[tuple[int, ...]] = []
    for number in range(len(graph.nodes)):
        if number in number_of:
            continue
        nodes = joined[heads[number]] if number in heads else (number,)
        number_of.update(dict.fromkeys(nodes, len(tasks)))
        tasks.append(nodes)
    found = []
    for nodes in tasks:
        waits = {number_of[before] for number in nodes for before in after[number]}
        source = number_of[sends[nodes[0]]] if nodes[0] in sends else None
        if source is not None:
            waits.add(source)
        found.append(Task(nodes=nodes, after=tuple(sorted(waits)), source=source))
    _, left = sort_tasks([task.after for task in found])
    if left:
        cycle = _cycle([task.after for task in found], left)
        words = " <- ".join(graph.where(graph.nodes[found[number].nodes[0]]) for number in cycle)
        raise SpecError(
            f"ranks wait for each other for ever: {words}; each waits for the next. Let all ranks "
            "issue their collectives in one order, and every send before the receive that it feeds"
        )
    return found


def sort_tasks(after: Sequence[Iterable[int]]) -> tuple[list[int], list[int]]:
    """Places in an order in which each comes after what it waits for, the earliest first; and those
    that wait for each other.
    """
    waiting, then = [0] * len(after), defaultdict(list)
    for number, before in enumerate(after):
        for one in before:
            waiting[number] += 1
            then[one].append(number)
    ready = [number for number, count in enumerate(waiting) if not count]
    heapify(ready)
    order = []
    while ready:
        number = heappop(ready)
        order.append(number)
        for one in then[number]:
            waiting[one] -= 1
            if not waiting[one]:
                heappush(ready, one)
    return order, [number for number, count in enumerate(waiting) if count]


def _cycle(after: Sequence[Iterable[int]], left: Sequence[int]) -> list[int]:
    """One cycle among those that are left, beginning and ending with the same."""
    there = set(left)
    path, seen = [left[0]], {left[0]: 0}
    while True:
        step = min(one for one in after[path[-1]] if one in there)
        path.append(step)
        if step in seen:
            return _short(path[seen[step] :])
        seen[step] = len(path) - 1


def _short(cycle: list[int]) -> list[int]:
    if len(cycle) <= MOST_IN_CYCLE + 1:
        return cycle
    return [*cycle[:MOST_IN_CYCLE], cycle[-1]]


def _stop(problems: list[str]) -> None:
    if len(problems) > MOST_PROBLEMS:
        more = f"and {len(problems) - MOST_PROBLEMS} more like these"
        problems = [*problems[:MOST_PROBLEMS], more]
    if problems:
        raise SpecError(problems)


def _twice(graph: TaskGraph, place: dict[tuple[int, int], int]) -> list[str]:
    return [
        f"{graph.where(node)}: a second node with this id; ids must be unique in a file"
        for number, node in enumerate(graph.nodes)
        if place[node.rank, node.id] != number
    ]


def _dependencies(graph: TaskGraph, place: dict[tuple[int, int], int]) -> list[tuple[int, ...]]:
    """What each node waits for, as places."""
    if not graph.cut:
        lacking: dict[str, list[Node]] = defaultdict(list)
        for node in graph.nodes:
            if any((node.rank, one) not in place for one in node.after):
                lacking[graph.files[node.rank]].append(node)
        problems = []
        for nodes in lacking.values():
            absent = [one for one in nodes[0].after if (nodes[0].rank, one) not in place]
            more = f" ({len(nodes) - 1} other nodes too)" if len(nodes) > 1 else ""
            problems.append(
                f"{graph.where(nodes[0])}: depends on node {numbers(absent)}, which is not in the "
                f"trace{more}; for one that was cut out of a longer trace add --cut, which takes "
                "those as done"
            )
        _stop(problems)
    return [
        tuple(place[node.rank, one] for one in node.after if (node.rank, one) in place)
        for node in graph.nodes
    ]


def _in_order(graph: TaskGraph, after: list[tuple[int, ...]]) -> list[int]:
    """Places in an order in which each rank can do them."""
    order, left = sort_tasks(after)
    if left:
        cycle = _cycle(after, left)
        words = " <- ".join(graph.where(graph.nodes[number]) for number in cycle)
        raise SpecError(f"a cycle of dependencies: {words}; take one of them out")
    return order


def _absent_ranks(graph: TaskGraph) -> list[str]:
    if graph.folded:
        return []
    problems: list[str] = []
    seen: set[object] = set()
    for node in graph.nodes:
        if node.kind == "collective":
            if (node.rank, node.group) in seen:
                continue
            seen.add((node.rank, node.group))
            parts = graph.groups[node.group]
            absent = [rank for part in parts for rank in part if rank not in graph.files]
            if absent:
                problems.append(
                    f"{graph.where(node)}: group '{node.group}' has ranks of which there is no "
                    f"file ({numbers(absent)}); give their files, or --ranks and --repeat if all "
                    "ranks do the same"
                )
            elif all(node.rank not in part for part in parts):
                problems.append(
                    f"{graph.where(node)}: rank {node.rank} is not in group '{node.group}'"
                )
        elif node.kind in ("send", "recv") and node.peer not in graph.files:
            if (node.rank, node.kind, node.peer) in seen:
                continue
            seen.add((node.rank, node.kind, node.peer))
            verb = "sends to" if node.kind == "send" else "receives from"
            problems.append(
                f"{graph.where(node)}: {verb} rank {node.peer}, of which there is no file; give "
                "it, or --ranks and --repeat if all ranks do the same"
            )
    return problems


def _collectives(
    graph: TaskGraph, order: list[int]
) -> tuple[dict[int, int], dict[int, tuple[int, ...]]]:
    """The first node of each node's collective, and the nodes of each by its first."""
    issued: dict[tuple[str, int], list[int]] = defaultdict(list)
    for number in order:
        node = graph.nodes[number]
        if node.kind == "collective":
            issued[node.group, node.rank].append(number)
    heads: dict[int, int] = {}
    joined: dict[int, tuple[int, ...]] = {}
    problems: list[str] = []
    for name in dict.fromkeys(group for group, _ in issued):
        members = graph.groups[name][0]
        rows = [issued.get((name, rank), []) for rank in members]
        if graph.folded:
            rows = [row for row in rows if row][:1]
        longest = max(rows, key=len)
        for call in range(len(longest)):
            nodes = [row[call] for row in rows if call < len(row)]
            problems += _differences(graph, name, call, nodes, len(rows))
            heads.update(dict.fromkeys(nodes, nodes[0]))
            joined[nodes[0]] = tuple(nodes)
    _stop(problems)
    return heads, joined


def _differences(
    graph: TaskGraph, name: str, call: int, numbers_: list[int], ranks: int
) -> list[str]:
    """What keeps the n-th collectives of the ranks of a group from being one."""
    nodes = [graph.nodes[number] for number in numbers_]
    first = nodes[0]
    if len(nodes) < ranks:
        having = {node.rank for node in nodes}
        absent = [rank for rank in graph.groups[name][0] if rank not in having]
        return [
            f"{graph.where(first)}: collective {call + 1} of group '{name}' is not issued by rank "
            f"{numbers(absent)}, so the others would wait for ever; all ranks of a group need the "
            "same collectives"
        ]
    for node in nodes[1:]:
        if (node.operation, node.bytes) != (first.operation, first.bytes):
            return [
                f"{graph.where(node)}: rank {node.rank} issues {_call(node)} as collective "
                f"{call + 1} of group '{name}', rank {first.rank} {_call(first)} (node "
                f"{first.id}): a deadlock; issue them in one order on all ranks"
            ]
    return []


def _call(node: Node) -> str:
    return f"{node.operation} of {node.bytes:g} bytes"


def _messages(graph: TaskGraph, order: list[int]) -> dict[int, int]:
    """The send that feeds each receive: the n-th between two ranks with a tag feeds the n-th."""
    ends: dict[tuple[int, int, int], tuple[list[int], list[int]]] = {}
    for number in order:
        node = graph.nodes[number]
        if node.kind in ("send", "recv"):
            sends = node.kind == "send"
            pair = (node.rank, node.peer) if sends else (node.peer, node.rank)
            lists = ends.setdefault((*pair, node.tag), ([], []))
            lists[0 if sends else 1].append(number)
    problems, found = [], {}
    for (source, target, tag), (sent, received) in ends.items():
        way = f"from rank {source} to rank {target} with tag {tag}"
        if len(sent) != len(received):
            more = sent if len(sent) > len(received) else received
            first = graph.nodes[more[min(len(sent), len(received))]]
            problems.append(
                f"{graph.where(first)}: {len(sent)} sends {way}, but {len(received)} receives; "
                "each send needs its receive"
            )
            continue
        for send, receive in zip(sent, received, strict=True):
            one, other = graph.nodes[send], graph.nodes[receive]
            if one.bytes != other.bytes:
                problems.append(
                    f"{graph.where(other)}: receives {other.bytes:g} bytes {way}, node {one.id} "
                    f"sends {one.bytes:g}; make them agree"
                )
            found[receive] = send
    _stop(problems)
    return found
