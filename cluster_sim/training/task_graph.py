"""What a trace says was done: nodes per rank, what each waits for, the groups that they meet in.

Every trace format is read into this, and only this is checked and played.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from cluster_sim.errors import SpecError, nearest

Kind = Literal["compute", "host", "memory", "collective", "timed", "send", "recv"]
Groups = tuple[tuple[int, ...], ...]
EVERYBODY = "all"  # the group of all ranks


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """Something that one rank does once all nodes of ``after`` (ids of the same rank) are done.

    ``seconds`` is the time that the trace gives (always, for ``timed``: communication of which
    nothing else is known); else compute is priced from ``flop`` and
    ``bytes``. A collective moves ``bytes`` as nccl-tests counts them. ``repeats``: once per
    micro-batch.
    """

    rank: int
    id: int
    name: str
    kind: Kind
    after: tuple[int, ...] = ()
    seconds: float | None = None
    flop: float = 0.0
    bytes: float = 0.0
    operation: str = ""
    group: str = ""
    peer: int = -1
    tag: int = 0
    repeats: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Pipeline:
    """What a text workload says of its pipeline, which has no nodes: stages, chunks of layers per
    stage, micro-batches, and bytes between two stages.
    """

    stages: int
    chunks: int
    micro_batches: int
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskGraph:
    """Nodes in order of rank, then of the file. ``groups`` holds the ranks of each group by name.

    ``folded``: one rank stands for ``ranks`` equal ones, and each group for all that meet at the
    same time. ``cut``: nodes may depend on some that are not there. ``files`` names the file of
    each rank.
    """

    ranks: int
    nodes: tuple[Node, ...]
    groups: Mapping[str, Groups]
    files: Mapping[int, str]
    form: str
    folded: bool = False
    cut: bool = False
    pipeline: Pipeline | None = None
    notes: tuple[str, ...] = field(default=())

    def where(self, node: Node) -> str:
        """File, number and name of a node, for messages."""
        shown = node.name if len(node.name) <= 48 else node.name[:45] + "..."
        return f"{self.files[node.rank]}: node {node.id} '{shown}'"

    def members(self, node: Node) -> tuple[int, ...]:
        """The ranks of a collective's group that this node's rank is in."""
        return next(part for part in self.groups[node.group] if node.rank in part)


def repeated(graph: TaskGraph, ranks: int) -> TaskGraph:
    """The graph with a copy of its first rank for every rank that has no file.

    Peers move on with the rank, modulo ``ranks``: a ring stays a ring. Raises SpecError where
    groups other than that of all ranks are used: whose copy is in which cannot be known.
    """
    missing = [rank for rank in range(ranks) if rank not in graph.files]
    if not missing:
        raise SpecError(
            f"--repeat has no effect: all {ranks} ranks have files; --ranks says how many there are"
        )
    first = min(graph.files)
    pattern = [node for node in graph.nodes if node.rank == first]
    for node in pattern:
        if node.kind == "collective" and node.group != EVERYBODY:
            raise SpecError(
                f"{graph.where(node)}: runs in group '{node.group}', so other ranks cannot be "
                "copies of this one; give the files of all ranks instead of --repeat"
            )
    copies = [_moved(node, rank, first, ranks) for rank in missing for node in pattern]
    files = dict(graph.files) | {rank: graph.files[first] for rank in missing}
    note = f"ranks {numbers(missing)} have no file and repeat rank {first}"
    return replace(
        graph,
        nodes=tuple(sorted((*graph.nodes, *copies), key=lambda node: node.rank)),
        files=dict(sorted(files.items())),
        notes=(*graph.notes, note),
    )


def _moved(node: Node, rank: int, first: int, ranks: int) -> Node:
    peer = (node.peer + rank - first) % ranks if node.kind in ("send", "recv") else node.peer
    return replace(node, rank=rank, peer=peer)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a message about a name that is not known, whatever its case.

    >>> did_you_mean("ALLREDUSE", ["ALLREDUCE", "NONE"])
    "; did you mean 'ALLREDUCE'?"
    """
    lower = {one.lower(): one for one in known}
    near = nearest(name, lower)
    return f"; did you mean '{lower[near[0]]}'?" if near else ""


def numbers(values: Sequence[int], most: int = 6) -> str:
    """Some numbers in words, the rest counted.

    >>> numbers([0, 1, 2, 3, 4, 5, 6, 7], 3)
    '0, 1, 2 and 5 more'
    """
    text = ", ".join(str(value) for value in values[:most])
    return text if len(values) <= most else f"{text} and {len(values) - most} more"
