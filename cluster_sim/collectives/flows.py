"""Who sends how much to whom in a collective: flows between devices for one byte of message.

Rings run through the ranks in host order, one for every rank of a domain, each entering and leaving
a host over its own rail. Trees are NCCL's two complementary binary trees over domains, one pair a
rail, with chains inside. Switches that reduce take everything up once and a share twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from cluster_sim.collectives.experts import Routing
from cluster_sim.collectives.group import Group
from cluster_sim.collectives.shape import (
    EXPERT_OPERATIONS,
    bus_factor,
    node_destinations,
    unique_destinations,
)
from cluster_sim.machine.classes import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Flows:
    """``size`` bytes from ``source`` to ``target`` (devices) for each byte of the message."""

    source: Ints
    target: Ints
    size: Floats


Pieces = list[tuple[Ints, Ints, float]]
NamedFlows = list[tuple[str, Flows]]


def flows_of(
    group: Group, operation: str, algorithm: str, routing: Routing, copies: str
) -> NamedFlows:
    """The flows of a collective by phase; phases run one after another.

    ``copies`` is how an expert library sends a token (``expert``, ``rank``, ``full_rank``).
    """
    if group.shape.ranks == 1:
        return []
    if operation in EXPERT_OPERATIONS:
        if algorithm == "all_to_all":
            return [(operation, _joined(_all_pairs(group, 1 / group.shape.ranks)))]
        return [(operation, _joined(_experts(group, routing, copies)))]
    if algorithm == "HD":
        return _halving_doubling(group, operation)
    if algorithm == "Mesh":
        return _mesh(group, operation)
    return [(operation, _joined(PATTERNS[algorithm](group, operation)))]


def _ring(group: Group, operation: str) -> Pieces:
    """One ring per rank of a domain: enters at rank c, leaves for rank c of the next domain.

    In equal domains that is each step inside by all rings but one, and each rail by one.
    """
    wire = bus_factor(operation, group.shape.ranks)
    per_domain, domains = group.shape.per_domain, len(group.members)
    whole = operation not in ("broadcast", "reduce")
    if domains == 1 and whole:
        return _inside(group, wire)
    equal = all(len(part) == per_domain for part in group.members)
    if whole and (equal or group.shape.mesh):
        heads = _heads(group)
        inside = _inside(group, wire * (1 - 1 / per_domain))
        if group.shape.mesh:
            return inside + _rails(group, wire)
        tails = [heads[number - 1] for number in range(len(heads))]
        share = wire / len(heads)
        return inside + [
            (tail, np.roll(head, -1), share) for tail, head in zip(tails, heads, strict=True)
        ]
    rings = _rotations(group)
    pieces: Pieces = []
    for number in range(len(rings[0])):
        ring = np.concatenate([turned[number] for turned in rings])
        pieces += _open([(ring, np.roll(ring, -1), wire / len(rings[0]))], operation)
    return pieces


def _open(pieces: Pieces, operation: str) -> Pieces:
    """Broadcast and reduce leave the last edge of their rings out."""
    if operation not in ("broadcast", "reduce"):
        return pieces
    return [(source[:-1], target[:-1], size) for source, target, size in pieces]


def _rotations(group: Group) -> list[list[Ints]]:
    """The ranks of each domain as every ring meets them."""
    rails = min(len(part) for part in group.members)
    return [
        [np.roll(part, -(number * len(part) // rails)) for number in range(rails)]
        for part in group.members
    ]


def _rails(group: Group, size: float) -> Pieces:
    """``size`` bytes from every domain to the next, spread over the rails."""
    if len(group.members) == 1:
        return []
    heads = _heads(group)
    return [(head, np.roll(head, -1), size / len(heads)) for head in heads]


def _heads(group: Group) -> list[Ints]:
    """For each rail its rank in every domain."""
    rails = min(len(part) for part in group.members)
    return [
        np.array([part[number * len(part) // rails] for part in group.members])
        for number in range(rails)
    ]


def _inside(group: Group, size: float) -> Pieces:
    """Every rank sends ``size`` bytes to others of its domain: to the next, or over a mesh's direct
    links to all alike.
    """
    pieces: Pieces = []
    for grid in _grids(group):
        count = grid.shape[1]
        shifts = range(1, count) if group.shape.mesh else (1,)
        if count > 1:
            pieces += [_shifted(grid, shift, size / len(shifts)) for shift in shifts]
    return pieces


def _grids(group: Group) -> list[Ints]:
    """The domains as rows of tables, equal ones together."""
    sizes = sorted({len(part) for part in group.members}, reverse=True)
    return [np.stack([p for p in group.members if len(p) == size]) for size in sizes]


def _shifted(grid: Ints, shift: int, size: float) -> tuple[Ints, Ints, float]:
    """Everybody to the rank ``shift`` places on in its row."""
    return grid.ravel(), np.roll(grid, -shift, axis=1).ravel(), size


def _switch(group: Group, operation: str) -> Pieces:
    """Reduced by the switches of one domain: S up and S/n of results up, as much down."""
    n = group.shape.ranks
    return _inside(group, 1 + 1 / n if operation == "all_reduce" else 1.0)


def _hierarchy(group: Group, operation: str) -> Pieces:
    """Reduced by the switches of every domain, by trees over the rails between."""
    per_domain = group.shape.per_domain
    return _inside(group, 1 + 1 / per_domain) + _trees(group, 1.0)


def _sharp(group: Group, operation: str) -> Pieces:
    """Reduced in every domain, then by the switches of the fabric: a share up and down."""
    per_domain = group.shape.per_domain
    inside = 1 + 1 / per_domain if group.shape.in_switch else 2 * (per_domain - 1) / per_domain
    return _inside(group, inside) + _rails(group, 1.0)


def _tree(group: Group, operation: str) -> Pieces:
    """Chains inside domains, up and down, one begun at every rank; trees between."""
    pieces = _trees(group, 1.0)
    for grid in _grids(group):
        share = 1 - 1 / grid.shape[1]
        if group.shape.mesh:
            pieces += _inside(group, 2 * share)
            break
        pieces += [_shifted(grid, 1, share), _shifted(grid, -1, share)]
    return pieces


def _trees(group: Group, size: float) -> Pieces:
    """Two binary trees per rail, each with half of the rail's bytes up and down."""
    if len(group.members) == 1:
        return []
    pieces: Pieces = []
    heads = _heads(group)
    for parents in double_tree(len(group.members)):
        child = np.flatnonzero(parents >= 0)
        for head in heads:
            up = head[child], head[parents[child]]
            share = size / len(heads) / 2
            pieces += [(up[0], up[1], share), (up[1], up[0], share)]
    return pieces


def double_tree(nodes: int) -> tuple[Ints, Ints]:
    """Parents in two binary trees over the same nodes, -1 for a root; a leaf of one is inside the
    other (mirrored when even, shifted by one when odd).

    Source: NVIDIA/nccl src/graph/trees.cc; Sanders, Speck, Traeff 2009.
    """
    first = np.array([_parent(node, nodes) for node in range(nodes)], dtype=np.int64)
    number = np.arange(nodes)
    if nodes % 2 == 0:
        mirrored = first[nodes - 1 - number]
        return first, np.where(mirrored >= 0, nodes - 1 - mirrored, -1)
    shifted = first[(number - 1) % nodes]
    return first, np.where(shifted >= 0, (shifted + 1) % nodes, -1)


def _parent(node: int, nodes: int) -> int:
    if node == 0:
        return -1
    bit = node & -node
    up = (node ^ bit) | (bit << 1)
    return up if up < nodes else node ^ bit


def _direct(group: Group, operation: str) -> Pieces:
    """All-to-all: a share to everybody. Send and receive: all to the next rank."""
    if operation == "send_recv":
        return [(group.devices, np.roll(group.devices, -1), 1.0)]
    return _all_pairs(group, 1 / group.shape.ranks)


def _all_pairs(group: Group, size: float) -> Pieces:
    ranks = group.devices
    return [(ranks, np.roll(ranks, -shift), size) for shift in range(1, len(ranks))]


def _one_shot(group: Group, operation: str) -> Pieces:
    return _all_pairs(group, 1.0)


def _two_shot(group: Group, operation: str) -> Pieces:
    if group.shape.in_switch:
        return _switch(group, operation)
    return _all_pairs(group, 2 / group.shape.ranks)


def _mesh(group: Group, operation: str) -> NamedFlows:
    """HCCL: everybody to everybody in the domain, then rails on a share, one after the other."""
    if operation in ("all_to_all", "send_recv"):
        return [(operation, _joined(_direct(group, operation)))]
    per_domain, domains = group.shape.per_domain, group.shape.domains
    phases: NamedFlows = []
    if per_domain > 1:
        size = bus_factor(operation, per_domain) / (per_domain - 1)
        pieces = [
            _shifted(grid, shift, size)
            for grid in _grids(group)
            for shift in range(1, grid.shape[1])
        ]
        phases.append(("in domain", _joined(pieces)))
    if domains > 1:
        phases.append(("across", _joined(_rails(group, bus_factor(operation, domains)))))
    return phases


def _halving_doubling(group: Group, operation: str) -> NamedFlows:
    """Partners at distance 1, 2, 4 ... exchange half, a quarter ...; back again to gather."""
    phases: NamedFlows = []
    passes = 2 if operation == "all_reduce" else 1
    distance, size = 1, 0.5
    while distance < max(len(part) for part in group.members):
        pieces: Pieces = []
        for part in group.members:
            rank = np.arange(len(part))
            partner = rank ^ distance
            has = partner < len(part)
            pieces.append((part[has], part[partner[has]], size * passes))
        phases.append((f"distance {distance}", _joined(pieces)))
        distance, size = distance * 2, size / 2
    if len(group.members) > 1:
        wire = bus_factor(operation, group.shape.domains)
        phases.append(("across", _joined(_rails(group, wire))))
    return phases


def _experts(group: Group, routing: Routing, copies: str) -> Pieces:
    """Tokens of a rank, one byte in ``top_k`` copies: to the ranks of their experts; once for each
    node over NICs, to the rank of the same place, and from there inside the domain.
    """
    shape = group.shape
    unit = routing.imbalance / routing.top_k
    if copies == "expert":
        return _all_pairs(group, unit * routing.top_k / shape.ranks)
    n, per_domain, domains = shape.ranks, shape.per_domain, shape.domains
    sent = unique_destinations(routing.top_k, n, full=copies == "full_rank") / (1 - 1 / n)
    pieces = [
        _shifted(grid, shift, unit * sent / per_domain)
        for grid in _grids(group)
        for shift in range(1, grid.shape[1])
    ]
    if domains > 1:
        share = unit * node_destinations(routing.top_k, domains, routing.node_limit)
        for shift in range(1, domains):
            pieces += [
                (
                    head,
                    np.roll(head, -shift),
                    share / (domains - 1) * per_domain / len(_heads(group)),
                )
                for head in _heads(group)
            ]
    return pieces


def _joined(pieces: Pieces) -> Flows:
    """All pieces as one list of flows."""
    pieces = [piece for piece in pieces if len(piece[0])]
    if not pieces:
        none = np.zeros(0, dtype=np.int64)
        return Flows(source=none, target=none, size=np.zeros(0))
    return Flows(
        source=np.concatenate([piece[0] for piece in pieces]),
        target=np.concatenate([piece[1] for piece in pieces]),
        size=np.repeat([piece[2] for piece in pieces], [len(piece[0]) for piece in pieces]),
    )


PATTERNS: dict[str, Callable[[Group, str], Pieces]] = {
    "Ring": _ring,
    "PAT": _ring,
    "Tree": _tree,
    "NVLS": _switch,
    "NVLSTree": _hierarchy,
    "CollNetDirect": _sharp,
    "CollNetChain": _sharp,
    "Direct": _direct,
    "OneShot": _one_shot,
    "TwoShot": _two_shot,
}
