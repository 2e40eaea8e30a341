"""A tape of one replica: what its steps consisted of and how requests moved through its batches.

Both implementations of a replica write it, and only when asked; a timeline is made from it. Times
are not written where they follow from the step: a step starts when the one before ends, unless the
replica was idle until a ``wake``.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from cluster_sim.serving.records import StepLog

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


class Move(IntEnum):
    """What happens to a request at a step: the first two as it starts, the last as it ends."""

    ADMITTED = 0
    PREEMPTED = 1
    PROMPTED = 2


class Tape:
    """What is written down while a replica works; ``steps_of`` and ``moves_of`` read it."""

    def __init__(self, log: StepLog) -> None:
        self.log = log
        self.wakes: list[tuple[int, float]] = []  # step number, start, after idleness
        self.rows = array("q")  # _COLUMNS numbers a row; a row is one step of a rank, or several
        self.prefill_s = array("d")  # a row
        self.blocks = array("q")  # KV blocks in use, a step of a rank
        self.moves = array("q")  # request, step number, kind

    def step(
        self,
        rank: int,
        decodes: int,
        context: int,
        near: int,
        tokens: int,
        prompts: int,
        prefill_s: float,
        swapped: int,
        blocks: int,
    ) -> None:
        """The step that a rank starts, with the KV blocks in use."""
        number = len(self.log.end_s)
        self.rows.extend((rank, number, 1, decodes, context, near, 0, tokens, prompts, swapped))
        self.prefill_s.append(prefill_s)
        self.blocks.append(blocks)

    def stretch(
        self,
        rank: int,
        number: int,
        decodes: int,
        context: int,
        near: int,
        growing: int,
        blocks: Sequence[int],
        gains: Sequence[int] | None = None,
    ) -> None:
        """Steps of a rank that only decode, from a step number on, with the KV blocks in use at
        each; ``gains``: tokens of each sequence a step if not one.
        """
        if gains is not None:
            for i, tokens in enumerate(gains):
                one = blocks[i : i + 1]
                self.stretch(rank, number + i, decodes, context, near, 0, one)
                context, near = context + tokens * decodes, near + tokens * growing
            return
        steps = len(blocks)
        self.rows.extend((rank, number, steps, decodes, context, near, growing, 0, 0, 0))
        self.prefill_s.append(0.0)
        self.blocks.extend(blocks)

    def move(self, request: int, kind: Move) -> None:
        """A request moves at the step that starts or runs."""
        self.moves.extend((request, len(self.log.end_s), kind))


_COLUMNS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class RankSteps:
    """The steps of one rank, one entry each, in order: number in the replica's log, and what
    StepPrice prices.
    """

    number: IntArray
    decodes: IntArray
    context: IntArray
    local_context: IntArray
    prefill_tokens: IntArray
    prompts: IntArray
    prefill_s: FloatArray
    swapped: IntArray
    blocks: IntArray

    def __len__(self) -> int:
        return len(self.number)

    def take(self, chosen: IntArray) -> RankSteps:
        """Some of the steps."""
        return RankSteps(**{name: getattr(self, name)[chosen] for name in RankSteps.__slots__})


def steps_of(tape: Tape, rank: int) -> RankSteps:
    """Every completed step of a rank."""
    rows = np.array(tape.rows, dtype=np.int64).reshape(-1, _COLUMNS)
    mine, lengths = rows[:, 0] == rank, rows[:, 2]
    blocks = np.array(tape.blocks, dtype=np.int64)[np.repeat(mine, lengths)]
    rows, lengths = rows[mine], lengths[mine]
    before = np.cumsum(lengths) - lengths
    inside = np.arange(lengths.sum(), dtype=np.int64) - np.repeat(before, lengths)
    spread = np.repeat(rows, lengths, axis=0)
    _, number, _, decodes, context, near, growing, tokens, prompts, swapped = spread.T
    steps = RankSteps(
        number=number + inside,
        decodes=decodes,
        context=context + decodes * inside,
        local_context=near + growing * inside,
        prefill_tokens=tokens,
        prompts=prompts,
        prefill_s=np.repeat(np.array(tape.prefill_s)[mine], lengths),
        swapped=swapped,
        blocks=blocks,
    )
    return steps.take(np.flatnonzero(steps.number < len(tape.log.end_s)))


def starts_of(tape: Tape) -> FloatArray:
    """When each completed step of the replica started (s)."""
    ends = np.array(tape.log.end_s)
    starts = np.concatenate([[0.0], ends[:-1]]) if len(ends) else ends
    for number, at_s in tape.wakes:
        if number < len(starts):
            starts[number] = at_s
    return starts


def moves_of(tape: Tape) -> tuple[IntArray, IntArray, FloatArray]:
    """Requests, kinds and times (s) of the moves at completed steps, by request and time."""
    rows = np.array(tape.moves, dtype=np.int64).reshape(-1, 3)
    rows = rows[rows[:, 1] < len(tape.log.end_s)]
    request, number, kind = rows[np.lexsort(rows.T[::-1])].T
    starts, ends = starts_of(tape), np.array(tape.log.end_s)
    at_s = np.where(kind == Move.PROMPTED, ends[number], starts[number])
    return request, kind, at_s
