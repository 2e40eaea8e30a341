"""Text workloads list what one rank does, for all ranks alike: from that list to a graph.

Ranks run with the tensor-parallel degree fastest, then expert, data and pipeline parallel, as
Megatron places them (order tp-ep-dp-pp).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cluster_sim.errors import SpecError
from cluster_sim.training.task_graph import Groups, Kind, Node, Pipeline, TaskGraph

MOST_RANKS = 1_000_000  # of a text workload: groups of all of them are lists
AXES = ("tp", "ep", "dp", "dp_ep", "ep_tp", "pp", "all")


@dataclass(frozen=True, slots=True, kw_only=True)
class Degrees:
    """Parallel degrees; data parallel is what is left of ``ranks``."""

    ranks: int
    tp: int = 1
    ep: int = 1
    pp: int = 1

    @property
    def dp(self) -> int:
        """Data-parallel copies of each expert's and layer's shard."""
        return self.ranks // (self.tp * self.pp)


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """Something that every rank does after the ops at the places ``after``."""

    name: str
    kind: Kind
    after: tuple[int, ...]
    seconds: float | None = None
    operation: str = ""
    axis: str = ""
    bytes: float = 0.0
    repeats: bool = False


def check_degrees(path: Path, degrees: Degrees) -> None:
    """Raise SpecError for degrees that do not divide the ranks, with ranks that they divide, and
    for more ranks than lists can hold.
    """
    if degrees.ranks > MOST_RANKS:
        raise SpecError(f"{path}: {degrees.ranks:,} ranks; at most {MOST_RANKS:,} can be played")
    block = degrees.tp * degrees.pp
    if degrees.ranks % block:
        below = degrees.ranks // block * block
        near = [str(count) for count in (below, below + block) if count]
        raise SpecError(
            f"{path}: TP {degrees.tp} x PP {degrees.pp} does not divide {degrees.ranks} ranks; "
            f"take --ranks {' or '.join(near)}"
        )
    if degrees.dp % degrees.ep:
        unit = block * degrees.ep
        below = degrees.ranks // unit * unit
        near = [str(count) for count in (below, below + unit) if count]
        raise SpecError(
            f"{path}: EP {degrees.ep} does not divide {degrees.dp} data-parallel ranks; take "
            f"--ranks {' or '.join(near)}"
        )


def groups_along(degrees: Degrees, axis: str) -> Groups:
    """All groups of ranks that meet along an axis."""
    shape = (degrees.pp, degrees.dp // degrees.ep, degrees.ep, degrees.tp)
    grid = np.arange(degrees.ranks).reshape(shape)
    along = {"pp": (0,), "dp_ep": (1,), "ep": (2,), "dp": (1, 2), "tp": (3,), "ep_tp": (2, 3)}
    axes = along.get(axis, (0, 1, 2, 3))
    last = range(4 - len(axes), 4)
    size = int(np.prod([shape[one] for one in axes]))
    rows = np.moveaxis(grid, axes, last).reshape(-1, size)
    return tuple(tuple(row) for row in rows.tolist())


def graph_of(
    path: Path,
    ops: Sequence[Op],
    degrees: Degrees,
    *,
    form: str,
    folded: bool,
    pipeline: Pipeline | None,
    notes: tuple[str, ...],
) -> TaskGraph:
    """The graph of a text workload: of one rank for all when ``folded``, else of every rank."""
    used = [axis for axis in AXES if any(op.axis == axis for op in ops)]
    along = {axis: groups_along(degrees, axis) for axis in used}
    if folded:
        nodes = _nodes(ops, 0, {axis: axis for axis in used})
        groups, files = along, {0: str(path)}
    else:
        nodes, groups = (), {}
        for axis, parts in along.items():
            groups |= {f"{axis} {number}": (part,) for number, part in enumerate(parts)}
        inside = {
            axis: {rank: number for number, part in enumerate(parts) for rank in part}
            for axis, parts in along.items()
        }
        for rank in range(degrees.ranks):
            nodes += _nodes(ops, rank, {axis: f"{axis} {inside[axis][rank]}" for axis in used})
        files = dict.fromkeys(range(degrees.ranks), str(path))
    return TaskGraph(
        ranks=degrees.ranks,
        nodes=nodes,
        groups=groups,
        files=files,
        form=form,
        folded=folded,
        pipeline=pipeline,
        notes=notes,
    )


def amount(where: str, word: str | None, problems: list[str]) -> float:
    """A number of a text workload, none below zero; 0 after noting among ``problems`` why not."""
    try:
        value = float(word or "")
    except ValueError:
        problems.append(f"{where}: must be a number (got {word})")
        return 0.0
    if not 0 <= value < float("inf"):
        problems.append(f"{where}: must not be negative, and finite (got {word})")
        return 0.0
    return value


def _nodes(ops: Sequence[Op], rank: int, names: dict[str, str]) -> tuple[Node, ...]:
    return tuple(
        Node(
            rank=rank,
            id=number,
            name=op.name,
            kind=op.kind,
            after=op.after,
            seconds=op.seconds,
            bytes=op.bytes,
            operation=op.operation,
            group=names.get(op.axis, ""),
            repeats=op.repeats,
        )
        for number, op in enumerate(ops)
    )
